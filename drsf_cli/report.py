"""What a run measured: the JSON that `drsf deid` writes, and one self-contained HTML page made from it.

The JSON holds numbers, never pixels:

    {"drsf": version,
     "input": {"path", "sha256", "frames", "width", "height", "fps"}, "output": {"path", "sha256", "bytes"},
     "settings": {...}, "victims": {role: {"name", "weights": {file: sha256}}}, "versions": {...}, "providers": {...},
     "fidelity": {"recovered": summary, "noise_floor": summary or null, "obscured_only": summary or null,
                  "other_faces": {"frames", "missed", metric: ..., "tracks": [...]} or null},
     "frames": [{"frame_id", "pts", "missed", "iou", "nme", "gaze_deg", "landmarks_px", "head_pose_deg", "passes",
                 "steps", "floor": {"iou", "nme", "gaze_deg"} or null}],
     "repelled": {name: as a victim}, "leakage": {...} or null (drsf_cli/leakage.py),
     "cost": {...}, "audit": {...} or null, "covering": {...},
     "samples": [{"frame_id", "regions", "original", "recovered", "obscured_only"}]}

    summary: {"frames", "missed", metric: {"mean", "median", "p95", "worst"}} with the metrics "iou", "landmarks_px",
    "nme" (%), "gaze_deg", "head_pose_deg" and "diff_score". A number that was not measured is null or not there.
    "obscured_only" is of the frames in `samples` alone. "recovered" and "frames" are of the largest face of each frame
    that was embedded for, "other_faces" of the further ones; its "tracks", of all faces, have "track", "first_frame"
    and "last_frame" as well.

`samples` (optional) names a few frames to be shown, with what was read from them in the field's form and the
rectangles that were obscured; `sample_ids` chooses them and `sample` makes an entry.

The page shows frames of the *output*, read again when the page is made. The driver's own pixels are in it only where
that is asked for (`include_original`). It asks nothing of any network: scripts, styles and pictures are inside, and a
content security policy forbids the rest.
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import cv2
import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from PIL import Image as Picture

from attacks.obscure import Region, obscure, parse_obscuring, region_mask
from drsf_cli.atomic import AtomicOutput
from drsf_cli.leakage_table import COLUMNS, HEADINGS, identity_rows, looked_at, model_rows
from drsf_cli.progress import Progress, Silent
from drsf_cli.quantities import quantity
from drsf_cli.records import from_records, to_records
from drsf_cli.video import VideoReader
from drsf_cli.visualize import draw
from victims.base import Image
from victims.camera import Camera
from victims.face import FrameObservation
from weights.errors import DrsfError, InputError, OutputError

SAMPLES = 12
"""Frames shown of one clip; of many clips fewer, so that the page stays small."""
_PAGE_SAMPLES = 48
"""Of all clips; beyond as many clips none is shown."""
_PANEL_WIDTH = 520
_WEBP_QUALITY = 78
_MAX_POINTS = 1500
"""Points of one curve; of longer clips each point is the worst of several frames."""
_WORST = 5
"""Rows of the table of worst frames, for each measure."""


@dataclass(frozen=True)
class Measure:
    """What is plotted and tabled."""

    key: str
    title: str
    unit: str
    digits: int
    higher_is_better: bool = False


MEASURES: tuple[Measure, ...] = (
    Measure("iou", "Box IoU", "", 3, higher_is_better=True),
    Measure("nme", "Landmark error (NME)", "%", 2),
    Measure("gaze_deg", "Gaze angle", "°", 2),
    Measure("landmarks_px", "Landmark distance", "px", 2),
    Measure("head_pose_deg", "Head pose", "°", 2),
    Measure("diff_score", "DiffScore", "", 2),
)
PLOTTED = MEASURES[:3]
_STATISTICS = ("mean", "median", "p95", "worst")


# ------------------------------------------------------------------------------------------------ the JSON


def read_report(path: str | Path) -> dict[str, Any]:
    """A report. Raises InputError naming the place that is not of the form."""
    path = Path(path)
    try:
        report = json.loads(path.read_text("utf-8"))
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); give a report that `drsf deid` wrote.") from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: is not JSON ({error}); give a report that `drsf deid` wrote.") from error
    check_report(report, str(path))
    return dict(report)


def check_report(report: object, source: str) -> None:
    """Raises InputError naming the first place that is not of the form above. Unknown keys are let through."""
    root = _mapping(report, source, "")
    for key in ("input", "output", "settings", "victims", "versions"):
        _mapping(root.get(key), source, key)
    for key in ("input", "output"):
        for name in ("path", "sha256"):
            if not isinstance(root[key].get(name), str):
                _refuse(source, f"{key}.{name}", "a text")
    for key in ("victims", "repelled"):
        for name, victim in _mapping(root.get(key) or {}, source, key).items():
            if victim is not None:
                _check_weights(victim, source, f"{key}.{name}")
    if root.get("leakage") is not None:
        _check_leakage(root["leakage"], source)
    fidelity = _mapping(root.get("fidelity"), source, "fidelity")
    _mapping(fidelity.get("recovered"), source, "fidelity.recovered")
    for kind in ("recovered", "noise_floor", "obscured_only", "other_faces"):
        _check_summary(fidelity.get(kind), source, f"fidelity.{kind}")
    for position, frame in enumerate(_list(root.get("frames"), source, "frames")):
        place = f"frames[{position}]"
        _frame_id(_mapping(frame, source, place), source, place)
        _check_numbers(frame, ("pts", *(measure.key for measure in MEASURES), "passes", "steps"), source, place)
        if frame.get("floor") is not None:
            _check_numbers(
                _mapping(frame["floor"], source, f"{place}.floor"), [m.key for m in MEASURES], source, f"{place}.floor"
            )
    for position, entry in enumerate(_list(root.get("samples") or [], source, "samples")):
        place = f"samples[{position}]"
        _frame_id(_mapping(entry, source, place), source, place)
        _regions(entry, source, place)
        for kind in ("original", "recovered", "obscured_only"):
            _reading(entry, kind, f"{source}: {place}.{kind}")


def _check_weights(victim: object, source: str, place: str) -> None:
    weights = _mapping(_mapping(victim, source, place).get("weights"), source, f"{place}.weights")
    if not all(isinstance(value, str) for value in weights.values()):
        _refuse(source, f"{place}.weights", "file names with their sha256")


def _check_leakage(leakage: object, source: str) -> None:
    root = _mapping(leakage, source, "leakage")
    for position, model in enumerate(_list(root.get("models"), source, "leakage.models")):
        place = f"leakage.models[{position}]"
        _has(_mapping(model, source, place), ("name", "repelled", "authorised"), source, place)
        _check_columns(model, source, place)
    _has(root, ("identity", "frames", "frames_looked_at", "note"), source, "leakage")
    if root["identity"] is not None:
        place = "leakage.identity"
        identity = _mapping(root["identity"], source, place)
        _has(identity, ("recogniser", "people", "far", "columns"), source, place)
        if identity["columns"]:
            _check_columns(identity, source, place)


def _check_columns(measured: Mapping[str, Any], source: str, place: str) -> None:
    """What was measured in each column, and the gap, which has the same keys."""
    gap = _mapping(measured.get("leakage"), source, f"{place}.leakage")
    _check_numbers(gap, gap, source, f"{place}.leakage")
    columns = _mapping(measured.get("columns"), source, f"{place}.columns")
    for column in COLUMNS:
        inner = f"{place}.columns.{column}"
        _has(_mapping(columns.get(column), source, inner), gap, source, inner)
        _check_numbers(columns[column], gap, source, inner)


def _has(mapping: Mapping[str, Any], keys: Iterable[str], source: str, place: str) -> None:
    for key in keys:
        if key not in mapping:
            _refuse(source, f"{place}.{key}", "there")


def _check_summary(summary: object, source: str, place: str) -> None:
    if summary is None:
        return
    entries = _mapping(summary, source, place)
    _check_numbers(entries, ("frames", "missed"), source, place)
    for measure in MEASURES:
        if entries.get(measure.key) is not None:
            inner = f"{place}.{measure.key}"
            _check_numbers(_mapping(entries[measure.key], source, inner), _STATISTICS, source, inner)


def _check_numbers(mapping: Mapping[str, Any], keys: Iterable[str], source: str, place: str) -> None:
    for key in keys:
        value = mapping.get(key)
        if value is not None and not _is_number(value):
            _refuse(source, f"{place}.{key}", "a finite number or null")


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _mapping(value: object, source: str, place: str) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        _refuse(source, place, "an object")
    return value


def _list(value: object, source: str, place: str) -> Sequence[Any]:
    if not isinstance(value, list | tuple):
        _refuse(source, place, "a list")
    return value


def _frame_id(entry: Mapping[str, Any], source: str, place: str) -> int:
    value = entry.get("frame_id")
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        _refuse(source, f"{place}.frame_id", "a whole number from 0")
    return value


def _refuse(source: str, place: str, wanted: str) -> NoReturn:
    where = f"{source}: {place}" if place else source
    raise InputError(f"{where} is not {wanted}; give a report that `drsf deid` wrote.")


# --------------------------------------------------------------------------------------------- samples


def sample_ids(frames: Sequence[Mapping[str, Any]], count: int = SAMPLES) -> list[int]:
    """At most `count` frame ids to be shown, rising: the worst by each plotted measure, the others evenly spread."""
    ids = sorted(frame["frame_id"] for frame in frames)
    if len(ids) <= count:
        return ids
    worst = [table[0]["frame_id"] for table in (_worst_by(frames, measure) for measure in PLOTTED) if table]
    chosen = set(worst[:count])
    for index in np.linspace(0, len(ids) - 1, count).round().astype(int):
        if len(chosen) < count:
            chosen.add(ids[index])
    return sorted(chosen)


def sample(
    frame_id: int,
    regions: Sequence[Region],
    original: FrameObservation | None,
    recovered: FrameObservation | None,
    obscured_only: FrameObservation | None = None,
) -> dict[str, Any]:
    """An entry of `samples`: what was read from the original, from the output, and from the obscured frame without a
    perturbation, and the rectangles that were obscured."""
    entry: dict[str, Any] = {
        "frame_id": int(frame_id),
        "regions": [
            {"rect": [int(v) for v in r.rect], "cell": int(r.cell), "origin": [int(v) for v in r.origin]}
            for r in regions
        ],
    }
    for kind, seen in (("original", original), ("recovered", recovered), ("obscured_only", obscured_only)):
        if seen is not None:
            entry[kind] = to_records([seen])[0]
    return entry


def _reading(entry: Mapping[str, Any], kind: str, place: str) -> FrameObservation | None:
    record = entry.get(kind)
    return None if record is None else from_records([record], place)[0]


def _regions(entry: Mapping[str, Any], source: str, place: str) -> list[Region]:
    regions = []
    for number, region in enumerate(_list(entry.get("regions") or [], source, f"{place}.regions")):
        where = f"{place}.regions[{number}]"
        numbers = _mapping(region, source, where)
        rect, cell, origin = numbers.get("rect"), numbers.get("cell"), numbers.get("origin")
        whole = [*_list(rect, source, f"{where}.rect"), cell, *_list(origin, source, f"{where}.origin")]
        if len(whole) != 7 or not all(isinstance(v, int) and not isinstance(v, bool) for v in whole):
            _refuse(source, where, "whole numbers rect (4), cell and origin (2)")
        regions.append(Region((whole[0], whole[1], whole[2], whole[3]), whole[4], (whole[5], whole[6])))
    return regions


# ------------------------------------------------------------------------------------------------ stills


@dataclass(frozen=True)
class Still:
    """One picture of a sample frame."""

    title: str
    data_uri: str
    width: int
    height: int


@dataclass(frozen=True)
class Sample:
    frame_id: int
    caption: str
    stills: tuple[Still, ...]


def _stills(
    report: Mapping[str, Any], folder: Path, count: int, include_original: bool, progress: Progress
) -> tuple[list[Sample], list[str]]:
    """Pictures of at most `count` samples, and why any are left out, one sentence each. These are 2 * `count` parts of
    the progress: each sample is read from the output and from the input."""
    notes: list[str] = []
    entries = {entry["frame_id"]: entry for entry in report.get("samples") or []}
    ids = list(entries) if entries else sample_ids(report["frames"])
    ids = sorted(set(np.array(ids)[np.linspace(0, len(ids) - 1, min(count, len(ids))).round().astype(int)].tolist()))
    output = _unchanged(report["output"], folder, notes)
    if output is None or not ids:
        progress.advance(2 * count)
        return [], notes
    wants_source = include_original or any(entries[i].get("regions") for i in ids if i in entries)
    source = _unchanged(report["input"], folder, notes) if wants_source else None
    settings = report["settings"]
    written = dict(_pick(output, ids, {}, progress))
    originals = dict(_pick(source, ids, settings, progress)) if source is not None else {}
    progress.advance(2 * count - len(written) - len(originals))
    samples = []
    for index in ids:
        if index not in written:
            notes.append(f"Frame {index} is not in {output.name}.")
            continue
        entry = entries.get(index, {})
        camera = _camera(settings, written[index])
        pictures = _panels(entry, written[index], originals.get(index), settings, include_original)
        window = _window(entry, written[index])
        stills = tuple(
            _encode(title, draw(image, seen, camera, label=False) if seen is not None else image, window)
            for title, image, seen in pictures
        )
        samples.append(Sample(index, _caption(report["frames"], index), stills))
    return samples, notes


def _panels(
    entry: Mapping[str, Any],
    written: Image,
    original: Image | None,
    settings: Mapping[str, Any],
    include_original: bool,
) -> list[tuple[str, Image, FrameObservation | None]]:
    """(title, picture, what is drawn in it): the original only where it was asked for."""
    target, recovered, weak = (_reading(entry, kind, kind) for kind in ("original", "recovered", "obscured_only"))
    hidden = None
    mask = settings.get("mask")
    if original is not None and original.shape == written.shape and entry.get("regions") and isinstance(mask, str):
        # Only the rectangles come from the input: what a report fails to name can then not come to light.
        regions = _regions(entry, "report", "samples")
        covered = region_mask(regions, *written.shape[:2])
        hidden = np.where(covered[..., None], obscure(original, regions, parse_obscuring(mask)), written)
    panels: list[tuple[str, Image, FrameObservation | None]] = []
    if include_original and original is not None:
        panels.append(("Original, read by the victims", original, target))
    elif target is not None:
        where = written if hidden is None else hidden
        panels.append(("What the original reads, drawn on the obscured frame", where, target))
    if hidden is not None and (weak is not None or include_original):
        panels.append(("Obscured only" + _read(weak), hidden, weak))
    panels.append(("Output: obscured and perturbed" + _read(recovered), written, recovered))
    return panels


def _read(seen: FrameObservation | None) -> str:
    """How a picture's title goes on."""
    if seen is None:
        return ""
    return ", as it is read" if seen.faces else ": no face is read"


def _unchanged(file: Mapping[str, Any], folder: Path, notes: list[str]) -> Path | None:
    """The file of a report, where it is still what it was; else None and a note."""
    named = Path(file["path"])
    for path in (named, folder / named, folder / named.name):
        if path.exists():
            break
    else:
        notes.append(f"{named.name} is not where the report says, so frames of it are not shown.")
        return None
    if path.is_file():
        with path.open("rb") as stream:
            if hashlib.file_digest(stream, "sha256").hexdigest() != file["sha256"]:
                notes.append(f"{named.name} has changed since the report was written, so frames of it are not shown.")
                return None
    return path


def _pick(
    path: Path, ids: Sequence[int], settings: Mapping[str, Any], progress: Progress
) -> Iterator[tuple[int, Image]]:
    """(index, frame) of `ids` (rising), counted from --start as the run did; each is a part of the progress."""
    start, end = settings.get("start"), settings.get("end")
    reader = VideoReader(path, start if _is_number(start) else None, end if _is_number(end) else None)
    wanted = set(ids)
    frames = iter(reader)
    with reader:
        for frame in frames:
            if frame.index in wanted:
                progress.advance()
                yield frame.index, frame.image
            if frame.index >= max(ids):
                return


def _camera(settings: Mapping[str, Any], image: Image) -> Camera | None:
    """The run's camera file where it can still be read; else the default, which only tilts arrows a little."""
    path = settings.get("camera")
    if not isinstance(path, str):
        return None
    try:
        return Camera.load(path, image.shape[1], image.shape[0])
    except DrsfError:
        return None


def _window(entry: Mapping[str, Any], image: Image) -> tuple[int, int, int, int]:
    """x1, y1, x2, y2 px: what is shown of the frame, of its own shape: the head with its surroundings."""
    height, width = image.shape[:2]
    seen = _reading(entry, "original", "original") or _reading(entry, "recovered", "recovered")
    face = None if seen is None else seen.own
    if face is None:
        return 0, 0, width, height
    x1, y1, x2, y2 = face.box
    share = min(1.0, 3.5 * max((x2 - x1) / width, (y2 - y1) / height))
    shown = (max(share * width, min(width, 320.0)), max(share * height, min(height, 320.0 * height / width)))
    left = min(max(0.0, (x1 + x2) / 2 - shown[0] / 2), width - shown[0])
    top = min(max(0.0, (y1 + y2) / 2 - shown[1] / 2), height - shown[1])
    return round(left), round(top), round(left + shown[0]), round(top + shown[1])


def _encode(title: str, image: Image, window: tuple[int, int, int, int]) -> Still:
    x1, y1, x2, y2 = window
    cut = np.ascontiguousarray(image[y1:y2, x1:x2])
    scale = _PANEL_WIDTH / cut.shape[1]
    if scale < 1:
        size = (_PANEL_WIDTH, max(1, round(cut.shape[0] * scale)))
        cut = np.asarray(cv2.resize(cut, size, interpolation=cv2.INTER_AREA), dtype=np.uint8)
    buffer = io.BytesIO()
    Picture.fromarray(cut).save(buffer, "WEBP", quality=_WEBP_QUALITY, method=4)
    return Still(
        title, f"data:image/webp;base64,{base64.b64encode(buffer.getvalue()).decode()}", cut.shape[1], cut.shape[0]
    )


def _caption(frames: Sequence[Mapping[str, Any]], index: int) -> str:
    frame = next((frame for frame in frames if frame["frame_id"] == index), {})
    parts = [f"frame {index}"]
    if frame.get("pts") is not None:
        parts.append(f"{frame['pts']:.2f} s")
    values = [f"{m.title} {_number(frame[m.key], m)}" for m in PLOTTED if frame.get(m.key) is not None]
    return " · ".join([*parts, *(values or [_nothing(frame)])])


def _nothing(frame: Mapping[str, Any]) -> str:
    """Why a frame has no errors."""
    return "missed" if frame.get("missed") else "no face"


# ------------------------------------------------------------------------------------------------ plots


@dataclass(frozen=True)
class Curve:
    name: str
    label: str
    segments: tuple[tuple[tuple[float, float], ...], ...]
    """Runs of consecutive frames that were measured; x, y in the drawing's units."""
    mean_y: float | None = None
    """Where its mean lies, if a line is to be drawn there."""


@dataclass(frozen=True)
class Chart:
    """One drawing of 400 x 210 units."""

    measure: Measure
    summary: str
    curves: tuple[Curve, ...]
    missed: tuple[float, ...]
    """x of frames whose face was missed."""
    x_ticks: tuple[tuple[float, str], ...]
    y_ticks: tuple[tuple[float, str], ...]
    data: Mapping[str, Any]
    """For the reader's pointer: x of each point and its values as text."""

    LEFT, RIGHT, TOP, BOTTOM = 42.0, 392.0, 10.0, 176.0


def make_chart(frames: Sequence[Mapping[str, Any]], measure: Measure) -> Chart | None:
    """One measure over the frames with the codec's noise floor where it was measured; None if nothing was."""
    frames = sorted(frames, key=lambda frame: frame["frame_id"])
    own = [frame.get(measure.key) for frame in frames]
    floor = [(frame.get("floor") or {}).get(measure.key) for frame in frames]
    values = [value for value in own + floor if value is not None]
    if not values:
        return None
    every = math.ceil(len(frames) / _MAX_POINTS)
    ids = [frame["frame_id"] for frame in frames]
    # Bars of `every` frames are as bad as their worst frame; a missed frame hides nothing.
    pick: Callable[[list[float]], float] = min if measure.higher_is_better else max
    groups = [range(start, min(start + every, len(ids))) for start in range(0, len(ids), every)]

    def thinned(series: list[float | None]) -> list[float | None]:
        kept = [[v for v in (series[i] for i in group) if v is not None] for group in groups]
        return [pick(group) if group else None for group in kept]

    xs = [ids[group[0]] for group in groups]
    x_of = _axis(xs[0], xs[-1], Chart.LEFT, Chart.RIGHT)
    low, high, ticks = _y_range(values, measure)
    y_of = _axis(low, high, Chart.BOTTOM, Chart.TOP)
    curves = []
    texts: dict[str, list[str]] = {}
    for name, label, series in (("recovered", "recovered", own), ("floor", "codec's noise floor", floor)):
        thin = thinned(series)
        known = [value for value in series if value is not None]
        if not known:
            continue
        mean_y = round(y_of(sum(known) / len(known)), 2) if name == "floor" else None
        curves.append(Curve(name, label, _segments(xs, thin, x_of, y_of), mean_y))
        texts[name] = [
            (_nothing(frames[group[0]]) if name == "recovered" else "–") if value is None else _number(value, measure)
            for group, value in zip(groups, thin, strict=True)
        ]
    missed = tuple(round(x_of(frame["frame_id"]), 2) for frame in frames if frame.get("missed"))
    known_own = [value for value in own if value is not None]
    summary = f"{measure.title} of {len(known_own)} frames"
    if known_own:
        worst = min(known_own) if measure.higher_is_better else max(known_own)
        mean = sum(known_own) / len(known_own)
        summary += f": mean {_number(mean, measure)}, worst {_number(worst, measure)}"
    if every > 1:
        summary += f"; each point is the worst of {every} frames"
    return Chart(
        measure=measure,
        summary=summary,
        curves=tuple(curves),
        missed=missed,
        x_ticks=tuple((round(x_of(x), 2), f"{x:g}") for x in _ticks(xs[0], xs[-1], 5) if x == int(x)),
        y_ticks=tuple((round(y_of(y), 2), f"{y:g}") for y in ticks),
        data={"x": [round(x_of(x), 2) for x in xs], "frame": xs, **texts},
    )


def _axis(low: float, high: float, start: float, stop: float) -> Callable[[float], float]:
    if high == low:
        return lambda value: (start + stop) / 2
    return lambda value: start + (value - low) / (high - low) * (stop - start)


def _y_range(values: Sequence[float], measure: Measure) -> tuple[float, float, list[float]]:
    if measure.higher_is_better:
        low, high = min(0.95, math.floor(min(values) * 20 - 1e-9) / 20), 1.0
        return low, high, _ticks(low, high, 4)
    high = max(max(values) * 1.05, 10.0**-measure.digits)
    step = _ticks(0, high, 4)
    top = step[-1] if step[-1] >= high else step[-1] + (step[1] - step[0])
    return 0.0, top, _ticks(0, top, 4)


def _ticks(low: float, high: float, count: int) -> list[float]:
    """Round numbers from low to high, about `count` of them."""
    span = high - low
    if span <= 0:
        return [low]
    raw = span / count
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= raw * 0.999)
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    return [round(index * step, 10) for index in range(first, last + 1)]


def _segments(
    xs: Sequence[float],
    values: Sequence[float | None],
    x_of: Callable[[float], float],
    y_of: Callable[[float], float],
) -> tuple[tuple[tuple[float, float], ...], ...]:
    segments: list[list[tuple[float, float]]] = [[]]
    for x, value in zip(xs, values, strict=True):
        if value is None:
            segments.append([])
        else:
            segments[-1].append((round(x_of(x), 2), round(y_of(value), 2)))
    return tuple(tuple(segment) for segment in segments if segment)


# ------------------------------------------------------------------------------------------------ tables


def _number(value: float | None, measure: Measure) -> str:
    return "–" if value is None else quantity(value, measure.unit, measure.digits)


def _worst_by(frames: Sequence[Mapping[str, Any]], measure: Measure) -> list[Mapping[str, Any]]:
    known = [frame for frame in frames if frame.get(measure.key) is not None]
    sign = 1 if measure.higher_is_better else -1
    return sorted(known, key=lambda frame: (sign * frame[measure.key], frame["frame_id"]))[:_WORST]


def _worst_frames(frames: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Missed frames first, then the worst by each plotted measure, each frame once."""
    missed = [frame for frame in frames if frame.get("missed")]
    rows: dict[int, dict[str, Any]] = {}
    reasons = [("face missed", missed[: 2 * _WORST])]
    reasons += [(measure.title, _worst_by(frames, measure)) for measure in PLOTTED]
    for reason, group in reasons:
        for frame in group:
            row = rows.setdefault(frame["frame_id"], {"frame": frame, "reasons": []})
            row["reasons"].append(reason)
    return list(rows.values())


def _fidelity_rows(fidelity: Mapping[str, Any]) -> list[dict[str, Any]]:
    """One row a measure: mean, median, 95th percentile and worst of the output, and the means beside it."""
    rows = []
    for measure in MEASURES:
        own = (fidelity["recovered"] or {}).get(measure.key)
        beside = [
            ((fidelity.get(kind) or {}).get(measure.key) or {}).get("mean") for kind in ("noise_floor", "obscured_only")
        ]
        if own is None and beside == [None, None]:
            continue
        rows.append(
            {
                "title": measure.title,
                "own": [_number((own or {}).get(key), measure) for key in _STATISTICS],
                "beside": [_number(value, measure) for value in beside],
            }
        )
    return rows


def _other_faces(others: Mapping[str, Any] | None) -> str | None:
    """How the further faces came back, in one line."""
    if others is None:
        return None
    means = [f"{m.title} {_number(others[m.key].get('mean'), m)}" for m in MEASURES if others.get(m.key) is not None]
    line = f"{_plain(others.get('frames'))} further faces read again, {_plain(others.get('missed'))} missed"
    return f"{line}; means: {', '.join(means)}." if means else f"{line}."


def _audit_limits(audit: Mapping[str, Any]) -> list[dict[str, Any]]:
    """One row a limit: the worst that was found, where the audit keeps it, and what it may be."""
    limits = audit.get("limits")
    if not isinstance(limits, Mapping):
        return []
    return [
        {"measure": key.replace("_", " "), "worst found": audit.get(f"worst_{key}"), "limit": limit}
        for key, limit in limits.items()
    ]


def _audit_rest(audit: Mapping[str, Any]) -> dict[str, Any]:
    """What has no table of its own."""
    shown = {"limits", "worst_frames", *(f"worst_{key}" for key in audit.get("limits") or {})}
    return {key: value for key, value in audit.items() if key not in shown}


def _plain(value: object) -> str:
    """A setting as a person reads it."""
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.5g}"
    if isinstance(value, list | tuple):
        return ", ".join(_plain(item) for item in value) or "–"
    return str(value)


def _is_table(value: object) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(item, Mapping) for item in value)


def _columns(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    return list(dict.fromkeys(key for row in rows for key in row))


# ------------------------------------------------------------------------------------------------ the page


def render_html(
    reports: Sequence[tuple[Path, Mapping[str, Any]]],
    *,
    include_original: bool = False,
    samples: int = SAMPLES,
    progress: Progress | None = None,
) -> str:
    """The page of checked reports, each with the path that it was read from (clips are looked for beside it, too).

    `include_original` puts stills of the original into the page; without it no pixel of an input is there but
    obscured ones. `samples`: stills of a clip at most; with many reports fewer.
    """
    count = min(samples, _PAGE_SAMPLES // max(1, len(reports)))
    progress = progress or Silent()
    progress.begin("Reading frames to be shown", 2 * count * len(reports))
    sections = []
    for number, (path, report) in enumerate(reports):
        stills, notes = _stills(report, path.parent, count, include_original, progress) if count else ([], [])
        charts = [chart for measure in PLOTTED if (chart := make_chart(report["frames"], measure)) is not None]
        recovered = report["fidelity"]["recovered"]
        sections.append(
            {
                "id": f"clip-{number + 1}",
                "report": report,
                "input_name": Path(report["input"]["path"]).name,
                "output_name": Path(report["output"]["path"]).name,
                "samples": stills,
                "notes": notes,
                "charts": charts,
                "tiles": [(m.title, _number((recovered.get(m.key) or {}).get("mean"), m)) for m in PLOTTED],
                "missed": recovered.get("missed"),
                "fidelity": _fidelity_rows(report["fidelity"]),
                "other_faces": _other_faces(report["fidelity"].get("other_faces")),
                "worst": _worst_frames(report["frames"]),
            }
        )
    folder = Path(__file__).parent / "templates"
    environment = Environment(
        loader=FileSystemLoader(folder),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"plain": _plain, "columns": _columns, "number": _number}
    environment.filters |= {"limits": _audit_limits, "rest": _audit_rest}
    environment.filters |= {"model_rows": model_rows, "identity_rows": identity_rows, "looked_at": looked_at}
    environment.tests |= {"table": _is_table}
    script = (folder / "report.js").read_text("utf-8")
    policy = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return environment.get_template("report.html.j2").render(
        sections=sections,
        measures=PLOTTED,
        include_original=include_original,
        script=script,
        style=(folder / "report.css").read_text("utf-8"),
        policy=f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{policy}'",
        Chart=Chart,
        leakage_headings=HEADINGS,
    )


def write_html(
    reports: Sequence[str | Path],
    output: str | Path,
    *,
    include_original: bool = False,
    samples: int = SAMPLES,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> Path:
    """Read reports and write their page; returns its path.

    Raises InputError for a report that is not one, OutputError for a place that cannot be written.
    """
    paths = [Path(path) for path in reports]
    place = AtomicOutput(Path(output), overwrite=overwrite, inputs=paths)
    try:
        page = render_html(
            [(path, read_report(path)) for path in paths],
            include_original=include_original,
            samples=samples,
            progress=progress,
        )
        try:
            place.temporary.write_text(page, "utf-8")
        except OSError as error:
            raise OutputError(
                f"{output} could not be written ({error.strerror}); check the space on the disk."
            ) from error
        return place.publish()
    finally:
        place.discard()
