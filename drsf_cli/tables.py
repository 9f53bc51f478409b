"""What is printed as tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from drsf_cli.batch import Result
from drsf_cli.evaluate import METRICS, Evaluation, FolderEvaluation
from export.onnx import ExportedNetwork

_FIDELITY = (
    ("iou", "box IoU", "", 3),
    ("landmarks_px", "landmarks", "px", 2),
    ("nme", "landmarks, NME", "%", 2),
    ("gaze_deg", "gaze", "°", 2),
    ("head_pose_deg", "head pose", "°", 2),
)
_STATISTICS = ("mean", "median", "p95", "worst")


def fidelity(document: Mapping[str, Any]) -> RenderableType:
    """How far what comes back from the written file is from the original; beside it the codec's noise floor."""
    recovered, floor = document["fidelity"]["recovered"], document["fidelity"]["noise_floor"]
    table = Table(title="Read back from the written file", title_justify="left")
    for name in ("", "mean", "median", "95 %", "worst", "codec alone"):
        table.add_column(name, justify="left" if not name else "right")
    for key, title, unit, digits in _FIDELITY:
        values = recovered.get(key)
        if values is None:
            continue
        alone = (floor or {}).get(key)
        cells = [_number(values[name], unit, digits) for name in _STATISTICS]
        table.add_row(title, *cells, "" if alone is None else _number(alone["mean"], unit, digits))
    total = document["input"]["frames"]
    line = f"{recovered['frames']} frames compared of {total}, {recovered['missed']} missed"
    return Group(table, Text(line, style="red" if recovered["missed"] else ""))


def cost(document: Mapping[str, Any]) -> RenderableType:
    spent = document["cost"]
    return Text(
        f"{spent['victim_passes_per_frame']:.1f} victim passes, {spent['steps_per_frame']:.1f} steps and "
        f"{spent['seconds_per_frame']:.2f} s a frame; {spent['peak_memory_mb']:.0f} MB at most"
    )


def audit(document: Mapping[str, Any]) -> RenderableType:
    """What the audit of the written file says."""
    found = document["audit"]
    if found["passed"]:
        return Text(f"audit passed: {found['frames']} frames, {found['regions_checked']} regions hidden", style="green")
    return Text("audit FAILED: " + " ".join(found["problems"]), style="red")


def batch(results: Sequence[Result]) -> RenderableType:
    """What became of each input, failures last."""
    table = Table(title="Inputs", title_justify="left")
    for name in ("input", "", "frames", "missed", "IoU", "NME", "gaze", "s"):
        table.add_column(name, justify="right" if name not in ("input", "") else "left", overflow="fold")
    colours = {"done": "green", "skipped": "cyan", "failed": "red"}
    for result in results:
        found = result.figures
        cells = [
            "" if found.get(key) is None else _number(found[key], unit, digits)
            for key, unit, digits in (
                ("frames", "", 0),
                ("missed", "", 0),
                ("iou", "", 3),
                ("nme_percent", "%", 2),
                ("gaze_deg", "°", 2),
            )
        ]
        state = Text(result.state, style=colours[result.state])
        table.add_row(Text(str(result.job.source)), state, *cells, f"{result.seconds:.1f}")
    counts = {state: sum(result.state == state for result in results) for state in colours}
    line = f"{len(results)} inputs: {counts['done']} done, {counts['skipped']} skipped, {counts['failed']} failed"
    errors = [Text(f"{one.job.source}: exit code {one.exit_code}. {one.error}", "red") for one in results if one.error]
    return Group(table, *errors, Text(line, style="red" if counts["failed"] else ""))


def evaluation(result: Evaluation | FolderEvaluation) -> RenderableType:
    """Every metric of a comparison."""
    table = Table()
    for name in ("", "mean", "median", "95 %", "worst", "in frame"):
        table.add_column(name, justify="left" if not name else "right")
    for metric in METRICS:
        one = result.summaries.get(metric.key)
        if one is None:
            continue
        digits = 3 if metric.key in ("iou", "gaze_cosine") else 2
        cells = [_number(getattr(one, name), "", digits) for name in _STATISTICS]
        place = str(one.worst_frame) if one.worst_file is None else f"{one.worst_file}: {one.worst_frame}"
        table.add_row(f"{metric.title} {metric.unit}".strip(), *cells, place)
    missed, extra = (len(v) if isinstance(v, tuple) else v for v in (result.missed, result.extra))
    lines = [f"{result.compared} frames compared, {missed} missed, {extra} extra"]
    for title, ids in (("only in the first", result.only_in_gt), ("only in the second", result.only_in_pred)):
        if ids:
            lines.append(f"{len(ids)} {title}")
    return Group(table, Text("; ".join(lines)))


def parity(rows: Sequence[ExportedNetwork]) -> RenderableType:
    """How far ONNX Runtime is from torch for each exported network."""
    table = Table(title="ONNX Runtime beside torch", title_justify="left")
    for name in ("file", "MB", "largest difference", "of the range", "limit"):
        table.add_column(name, justify="left" if name == "file" else "right", overflow="fold")
    for row in rows:
        table.add_row(
            str(row.path),
            f"{row.bytes / 1e6:.2f}",
            f"{row.max_difference:.1e}",
            f"{row.relative:.1e}",
            f"{row.limit:.0e}",
        )
    return table


def provider_names(providers: Mapping[str, Sequence[str]]) -> str:
    """Those that really ran, without repetition."""
    return ", ".join(sorted({name.removesuffix("ExecutionProvider") for used in providers.values() for name in used}))


def _number(value: float, unit: str, digits: int) -> str:
    return f"{value:.{digits}f}{' ' if unit not in ('', '°') else ''}{unit}"
