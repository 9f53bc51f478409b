"""The JSON that `drsf deid` writes of a run. It holds numbers, never pixels:

    {"drsf": version,
     "input": {"path", "sha256", "frames", "width", "height", "fps", "notes", "rotate"},
     "output": {"path", "sha256", "bytes"},
     "settings": {...}, "targets": {"path", "sha256", "frames", "faces"} or null,
     "victims": {role: {"name", "weights": {file: sha256}}}, "versions": {...}, "providers": {...},
     "fidelity": {"recovered": summary, "noise_floor": summary or null, "obscured_only": summary or null,
                  "other_faces": {"frames", "missed", metric: ..., "tracks": [...]} or null},
     "frames": [{"frame_id", "pts", "missed", "iou", "nme", "gaze_deg", "landmarks_px", "head_pose_deg", "passes",
                 "steps", "floor": {"iou", "nme", "gaze_deg"} or null,
                 "signals": {"original": signals or null, "recovered": signals or null}}],
     "repelled": {name: as a victim}, "leakage": {...} or null (drsf_cli/measure/leakage.py),
     "cost": {...}, "audit": {...} or null, "covering": {...},
     "samples": [{"frame_id", "regions", "original", "recovered", "obscured_only"}]}

    summary: {"frames", "missed", metric: {"mean", "median", "p95", "worst"}} with the metrics "iou", "landmarks_px",
    "nme" (%), "gaze_deg", "head_pose_deg" and "diff_score". A number that was not measured is null or not there.
    signals: {"yaw_deg", "pitch_deg", "eye_openness", "mouth_openness"}, as docs/signals.md has them; older reports have
    none. They are of the face that the frame's errors are of.
    Errors are against what was to be embedded: what is read of the original or, where "targets" is not null, the file
    that was given; with the shape that the settings say. "obscured_only" is of the frames in `samples` alone.
    "recovered" and "frames" are of the largest face of each frame that was embedded for, "other_faces" of the further
    ones; its "tracks", of all faces, have "track", "first_frame" and "last_frame" as well.

The input's `notes` are what was taken for granted when it was read, a sentence each (optional).
"rotate" (of "input"): degrees clockwise by which frames were turned at `--rotate`'s word; "width" and "height", and all
places, are of the turned frame.

`samples` (optional) names a few frames to be shown, with what was read from them in the field's form and the
rectangles that were obscured; "original" is what was to be embedded. `sample_ids` chooses them and `sample` makes an
entry.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from attacks.obscure import Region
from drsf_cli.measure.leakage_table import COLUMNS
from drsf_cli.measure.metrics import MEASURES, PLOTTED, worst_by
from drsf_cli.measure.records import from_records, to_records
from victims.face import FrameObservation
from weights.errors import InputError

SAMPLES = 12
"""Frames shown of one clip; of many clips fewer, so that the page stays small."""
STATISTICS = ("mean", "median", "p95", "worst")


def read_report(path: str | Path) -> dict[str, Any]:
    """A report. Raises InputError naming the place that is not of the form."""
    path = Path(path)
    try:
        report = json.loads(path.read_text("utf-8-sig"))
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
    if not all(isinstance(note, str) for note in _list(root["input"].get("notes") or [], source, "input.notes")):
        _refuse(source, "input.notes", "a list of texts")
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
        _check_signals(frame.get("signals"), source, f"{place}.signals")
    for position, entry in enumerate(_list(root.get("samples") or [], source, "samples")):
        place = f"samples[{position}]"
        _frame_id(_mapping(entry, source, place), source, place)
        regions_of(entry, source, place)
        for kind in ("original", "recovered", "obscured_only"):
            reading(entry, kind, f"{source}: {place}.{kind}")


def _check_signals(signals: object, source: str, place: str) -> None:
    for which, values in ({} if signals is None else _mapping(signals, source, place)).items():
        if values is not None:
            inner = f"{place}.{which}"
            _check_numbers(_mapping(values, source, inner), values, source, inner)


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
            _check_numbers(_mapping(entries[measure.key], source, inner), STATISTICS, source, inner)


def _check_numbers(mapping: Mapping[str, Any], keys: Iterable[str], source: str, place: str) -> None:
    for key in keys:
        value = mapping.get(key)
        if value is not None and not is_number(value):
            _refuse(source, f"{place}.{key}", "a finite number or null")


def is_number(value: object) -> bool:
    """Whether JSON's `value` is a finite number."""
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


def sample_ids(frames: Sequence[Mapping[str, Any]], count: int = SAMPLES) -> list[int]:
    """At most `count` frame ids to be shown, rising: the worst by each plotted measure, the others evenly spread."""
    ids = sorted(frame["frame_id"] for frame in frames)
    if len(ids) <= count:
        return ids
    worst = [table[0]["frame_id"] for table in (worst_by(frames, measure) for measure in PLOTTED) if table]
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
    perturbation, and the rectangles that were obscured.
    """
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


def reading(entry: Mapping[str, Any], kind: str, place: str) -> FrameObservation | None:
    """What an entry of `samples` says was read of `kind`: "original", "recovered" or "obscured_only"."""
    record = entry.get(kind)
    return None if record is None else from_records([record], place)[0]


def regions_of(entry: Mapping[str, Any], source: str, place: str) -> list[Region]:
    """What an entry of `samples` says was obscured; raises InputError naming what is not of the form."""
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
