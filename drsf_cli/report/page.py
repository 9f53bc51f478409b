"""One self-contained HTML page of what runs measured (drsf_cli/report/schema.py).

The page shows frames of the *output*, read again when the page is made. The driver's own pixels are in it only where
that is asked for (`include_original`). It asks nothing of any network: scripts, styles and pictures are inside, and a
content security policy forbids the rest.
"""

from __future__ import annotations

import base64
import hashlib
import io
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template
from PIL import Image as Picture

from attacks.obscure import obscure, parse_obscuring, region_mask
from drsf_cli.measure.glances import DEFAULT, load_zones
from drsf_cli.measure.leakage_table import HEADINGS, MODEL_HEADINGS
from drsf_cli.measure.metrics import PLOTTED, REPORTED, STATISTICS, WORST, text_of, worst_by
from drsf_cli.media.atomic import AtomicOutput
from drsf_cli.media.files import digest
from drsf_cli.media.reader import VideoReader
from drsf_cli.progress import Progress, Silent
from drsf_cli.report.charts import Chart, make_chart, nothing
from drsf_cli.report.drawing import draw
from drsf_cli.report.filters import FILTERS, TESTS, plain
from drsf_cli.report.schema import (
    SAMPLES,
    FidelitySection,
    FileSection,
    FrameSection,
    OtherFacesSection,
    Report,
    SampleSection,
    read_report,
    reading,
    regions_of,
    sample_ids,
)
from drsf_cli.report.traces import make_traces
from victims.base import Image
from victims.camera import Camera
from victims.face import FrameObservation
from weights.errors import DrsfError, OutputError

_TEMPLATES = Path(__file__).parent / "templates"
_PAGE_SAMPLES = 48
"""Of all clips; beyond as many clips none is shown."""
_PANEL_WIDTH = 520
_WEBP_QUALITY = 78


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
    """A frame that the page shows."""

    frame_id: int
    caption: str
    stills: tuple[Still, ...]


def _stills(
    report: Report, folder: Path, count: int, include_original: bool, progress: Progress
) -> tuple[list[Sample], list[str]]:
    """Pictures of at most `count` samples, and why any are left out, one sentence each.

    These are 2 * `count` parts of the progress: each sample is read from the output and from the input.
    """
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
    written = dict(_pick(VideoReader(output), ids, progress))
    originals = dict(_pick(_source_reader(source, report), ids, progress)) if source is not None else {}
    progress.advance(2 * count - len(written) - len(originals))
    samples = []
    for index in ids:
        if index not in written:
            notes.append(f"Frame {index} is not in {output.name}.")
            continue
        entry = entries.get(index, {"frame_id": index})
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
    entry: SampleSection,
    written: Image,
    original: Image | None,
    settings: Mapping[str, Any],
    include_original: bool,
) -> list[tuple[str, Image, FrameObservation | None]]:
    """(title, picture, what is drawn in it): the original only where it was asked for."""
    target, recovered, weak = (reading(entry, kind, kind) for kind in ("original", "recovered", "obscured_only"))
    hidden = None
    mask = settings.get("mask")
    if original is not None and original.shape == written.shape and entry.get("regions") and isinstance(mask, str):
        # Only the rectangles come from the input: what a report fails to name can then not come to light.
        regions = regions_of(entry)
        covered = region_mask(regions, *written.shape[:2])
        hidden = np.where(covered[..., None], obscure(original, regions, parse_obscuring(mask)), written)
    changed = settings.get("targets") is not None or settings.get("shape", "own") != "own"
    panels: list[tuple[str, Image, FrameObservation | None]] = []
    if include_original and original is not None:
        title = "Original, with what is to be read" if changed else "Original, read by the victims"
        panels.append((title, original, target))
    elif target is not None:
        where = written if hidden is None else hidden
        title = "What is to be read" if changed else "What the original reads"
        panels.append((f"{title}, drawn on the obscured frame", where, target))
    if hidden is not None and (weak is not None or include_original):
        panels.append(("Obscured only" + _read(weak), hidden, weak))
    panels.append(("Output: obscured and perturbed" + _read(recovered), written, recovered))
    return panels


def _read(seen: FrameObservation | None) -> str:
    """How a picture's title goes on."""
    if seen is None:
        return ""
    return ", as it is read" if seen.faces else ": no face is read"


def _unchanged(file: FileSection, folder: Path, notes: list[str]) -> Path | None:
    """The file of a report, where it is still what it was; else None and a note."""
    named = Path(file["path"])
    for path in (named, folder / named, folder / named.name):
        if path.exists():
            break
    else:
        notes.append(f"{named.name} is not where the report says, so frames of it are not shown.")
        return None
    if path.is_file() and digest(path) != file["sha256"]:
        notes.append(f"{named.name} has changed since the report was written, so frames of it are not shown.")
        return None
    return path


def _source_reader(path: Path, report: Report) -> VideoReader:
    """The input as the run read it: from --start on, and turned."""
    settings = report["settings"]
    start, end, fps = (_number(settings.get(key)) for key in ("start", "end", "fps"))
    rotate = report["input"].get("rotate")
    return VideoReader(path, start, end, fps=fps).rotated(rotate if rotate in (90, 180, 270) else 0)


def _number(value: object) -> float | None:
    """A setting, which a report need not have as drsf writes it."""
    return value if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) else None


def _pick(reader: VideoReader, ids: Sequence[int], progress: Progress) -> Iterator[tuple[int, Image]]:
    """(index, frame) of `ids` (rising); each is a part of the progress."""
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


def _window(entry: SampleSection, image: Image) -> tuple[int, int, int, int]:
    """x1, y1, x2, y2 px: what is shown of the frame, of its own shape: the head with its surroundings."""
    height, width = image.shape[:2]
    seen = reading(entry, "original", "original") or reading(entry, "recovered", "recovered")
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


def _caption(frames: Sequence[FrameSection], index: int) -> str:
    frame: Mapping[str, Any] = next((frame for frame in frames if frame["frame_id"] == index), {})
    parts = [f"frame {index}"]
    if frame.get("pts") is not None:
        parts.append(f"{frame['pts']:.2f} s")
    values = [f"{m.title} {text_of(frame[m.key], m)}" for m in PLOTTED if frame.get(m.key) is not None]
    return " · ".join([*parts, *(values or [nothing(frame)])])


# ------------------------------------------------------------------------------------------------ tables


def _worst_frames(frames: Sequence[FrameSection]) -> list[dict[str, Any]]:
    """Missed frames first, then the worst by each plotted measure, each frame once."""
    missed = [frame for frame in frames if frame.get("missed")]
    rows: dict[int, dict[str, Any]] = {}
    reasons: list[tuple[str, Sequence[Mapping[str, Any]]]] = [("face missed", missed[: 2 * WORST])]
    reasons += [(measure.title, worst_by(frames, measure)) for measure in PLOTTED]
    for reason, group in reasons:
        for frame in group:
            row = rows.setdefault(frame["frame_id"], {"frame": frame, "reasons": []})
            row["reasons"].append(reason)
    return list(rows.values())


def _fidelity_rows(fidelity: FidelitySection) -> list[dict[str, Any]]:
    """One row a metric: mean, median, 95th percentile and worst of the output, and the means beside it."""
    recovered, floor, weak = (
        _statistics(fidelity["recovered"]),
        _statistics(fidelity.get("noise_floor")),
        _statistics(fidelity.get("obscured_only")),
    )
    return [
        {
            "title": metric.title,
            "own": [text_of(recovered.get(metric.key, {}).get(name), metric) for name in STATISTICS],
            "beside": [text_of(one.get(metric.key, {}).get("mean"), metric) for one in (floor, weak)],
        }
        for metric in REPORTED
        if any(metric.key in one for one in (recovered, floor, weak))
    ]


def _statistics(summary: Mapping[str, Any] | None) -> dict[str, Mapping[str, Any]]:
    """Metric -> its statistics, of those that were measured."""
    return {metric.key: one for metric in REPORTED if (one := (summary or {}).get(metric.key)) is not None}


def _other_faces(others: OtherFacesSection | None) -> str | None:
    """How the further faces came back, in one line."""
    if others is None:
        return None
    known = _statistics(others)
    means = [f"{m.title} {text_of(known[m.key].get('mean'), m)}" for m in REPORTED if m.key in known]
    line = f"{plain(others.get('frames'))} further faces read again, {plain(others.get('missed'))} missed"
    return f"{line}; means: {', '.join(means)}." if means else f"{line}."


# ------------------------------------------------------------------------------------------------ the page


def render_html(
    reports: Sequence[tuple[Path, Report]],
    *,
    include_original: bool = False,
    samples: int = SAMPLES,
    zones: str | Path | None = None,
    progress: Progress | None = None,
) -> str:
    """The page of checked reports, each with the path that it was read from (clips are looked for beside it, too).

    `include_original` puts stills of the original into the page; without it no pixel of an input is there but
    obscured ones. `samples`: stills of a clip at most; with many reports fewer. `zones`: of gaze
    (drsf_cli/measure/glances.py). Raises InputError for zones that are none.
    """
    count = min(samples, _PAGE_SAMPLES // max(1, len(reports)))
    progress = progress or Silent()
    progress.begin("Reading frames to be shown", 2 * count * len(reports))
    sections = []
    ranges = load_zones(zones)
    for number, (path, report) in enumerate(reports):
        stills, notes = _stills(report, path.parent, count, include_original, progress) if count else ([], [])
        shown = {"id": f"clip-{number + 1}", "samples": stills, "notes": notes}
        sections.append(shown | _section(report) | {"traces": make_traces(report["frames"], ranges)})
    script = (_TEMPLATES / "report.js").read_text("utf-8")
    policy = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return _template().render(
        sections=sections,
        measures=PLOTTED,
        include_original=include_original,
        script=script,
        style=(_TEMPLATES / "report.css").read_text("utf-8"),
        policy=f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{policy}'",
        Chart=Chart,
        leakage_headings=HEADINGS,
        zones_name=str(zones or DEFAULT),
        leakage_model_headings=MODEL_HEADINGS,
    )


def _section(report: Report) -> dict[str, Any]:
    """What the page shows of a report's figures."""
    recovered = _statistics(report["fidelity"]["recovered"])
    return {
        "report": report,
        "input_name": Path(report["input"]["path"]).name,
        "output_name": Path(report["output"]["path"]).name,
        "charts": [chart for measure in PLOTTED if (chart := make_chart(report["frames"], measure)) is not None],
        "tiles": [(m.title, text_of(recovered.get(m.key, {}).get("mean"), m)) for m in PLOTTED],
        "missed": report["fidelity"]["recovered"].get("missed"),
        "fidelity": _fidelity_rows(report["fidelity"]),
        "other_faces": _other_faces(report["fidelity"].get("other_faces")),
        "worst": _worst_frames(report["frames"]),
    }


def _template() -> Template:
    environment = Environment(
        loader=FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= FILTERS
    environment.tests |= TESTS
    return environment.get_template("report.html.j2")


def write_html(
    reports: Sequence[str | Path],
    output: str | Path,
    *,
    include_original: bool = False,
    samples: int = SAMPLES,
    overwrite: bool = False,
    zones: str | Path | None = None,
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
            zones=zones,
            progress=progress,
        )
        try:
            place.temporary.write_text(page, "utf-8", "backslashreplace")  # names of files need not be UTF-8
        except OSError as error:
            raise OutputError(
                f"{output} could not be written ({error.strerror}); check the space on the disk."
            ) from error
        return place.publish()
    finally:
        place.discard()
