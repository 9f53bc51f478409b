"""The tables that commands print."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from drsf_cli.measure import leakage_table
from drsf_cli.measure.behaviour import Behaviour, figure_rows
from drsf_cli.measure.evaluation import Evaluation, FolderEvaluation
from drsf_cli.measure.metrics import COMPARABLE, METRICS, PLOTTED, STATISTICS, measured, text_of
from drsf_cli.measure.quantities import quantity

if TYPE_CHECKING:
    from drsf_cli.batch.dry_run import Forecast
    from drsf_cli.batch.run import Result
    from drsf_cli.measure.leakage_form import IdentityLeakage, Leakage
    from drsf_cli.readers.checkup import Check
    from drsf_cli.report.schema import Report
    from export.onnx import ExportedNetwork


def numbers(title: str | None, *columns: str, words: int = 1) -> Table:
    """An empty table: the first columns hold `words` and are to the left, the others hold numbers."""
    table = Table(title=title, title_justify="left")
    for place, name in enumerate(columns):
        table.add_column(name, justify="left" if place < words else "right", overflow="fold")
    return table


def fidelity(document: Report) -> RenderableType:
    """How far the reading of the written file is from that of the original, beside the codec's noise floor."""
    recovered, floor = document["fidelity"]["recovered"], document["fidelity"]["noise_floor"]
    alone = measured(floor)
    table = numbers("Read back from the written file", "", "mean", "median", "95 %", "worst", "codec alone")
    for metric, values in measured(recovered).items():
        cells = [text_of(values[name], metric) for name in STATISTICS]
        table.add_row(metric.title, *cells, text_of(alone[metric]["mean"], metric) if metric in alone else "")
    total = document["input"]["frames"]
    line = f"{recovered['frames']} frames compared of {total}, {recovered['missed']} missed"
    said = Text(line, style="red" if recovered["missed"] else "")
    if (given := document.get("targets")) is not None:
        said.append(f"\nagainst the attributes that were given: {given['faces']} faces of {given['path']}")
    others = document["fidelity"].get("other_faces")
    if others is not None:
        means = [text_of(one["mean"], metric) for metric, one in measured(others).items()]
        line = f"\n{others['frames']} further faces read again, {others['missed']} missed; means: {', '.join(means)}"
        said.append(line, style="red" if others["missed"] else "")
    return Group(table, said) if table.row_count else said


def cost(document: Report) -> RenderableType:
    """What the run took, for each frame."""
    spent = document["cost"]
    seen = document.get("visibility")
    strength = ""
    if seen is not None and seen["rms"] is not None:
        strength = f"perturbation: root mean square {seen['rms']:.1f} of 255 in the face's box\n"
    return Text(
        f"{strength}"
        f"{spent['victim_passes_per_frame']:.1f} victim passes, {spent['victim_checks_per_frame']:.1f} checks and "
        f"{spent['seconds_per_frame']:.2f} s a frame; {spent['peak_memory_mb']:.0f} MB at most"
    )


def audit(document: Report) -> RenderableType:
    """The result of the written file's audit."""
    found = document["audit"]
    assert found is not None
    if found["passed"]:
        return Text(f"audit passed: {found['frames']} frames, {found['regions_checked']} regions hidden", style="green")
    return Text("audit FAILED: " + " ".join(found["problems"]), style="red")


def batch(results: Sequence[Result]) -> RenderableType:
    """The result of each input, failures last."""
    titles = (metric.title for metric in PLOTTED)
    table = numbers("Inputs", "input", "", "frames", "missed", *titles, "s", words=2)
    colours = {"done": "green", "skipped": "cyan", "failed": "red"}
    for result in results:
        found = result.figures
        cells = [str(found.get(key, "")) for key in ("frames", "missed")]
        cells += ["" if found.get(one.key) is None else text_of(found[one.key], one) for one in PLOTTED]
        state = Text(result.state, style=colours[result.state])
        table.add_row(Text(str(result.job.source)), state, *cells, f"{result.seconds:.1f}")
    counts = {state: sum(result.state == state for result in results) for state in colours}
    line = f"{len(results)} inputs: {counts['done']} done, {counts['skipped']} skipped, {counts['failed']} failed"
    errors = [Text(f"{one.job.source}: exit code {one.exit_code}. {one.error}", "red") for one in results if one.error]
    return Group(table, *errors, Text(line, style="red" if counts["failed"] else ""))


def comparison(result: Evaluation | FolderEvaluation) -> RenderableType:
    """Everything that `drsf eval` shows."""
    parts = [evaluation(result)]
    if isinstance(result, FolderEvaluation):
        parts.append(files(result))
    if result.behaviour is not None:
        parts.append(behaviour(result.behaviour))
    return Group(*parts)


def evaluation(result: Evaluation | FolderEvaluation) -> RenderableType:
    """Every metric of a comparison."""
    table = numbers(None, "", "mean", "median", "95 %", "worst", "in frame")
    for metric in METRICS:
        one = result.summaries.get(metric.key)
        if one is None:
            continue
        cells = [quantity(getattr(one, name), "", metric.digits) for name in STATISTICS]
        place = str(one.worst_frame) if one.worst_file is None else f"{one.worst_file}: {one.worst_frame}"
        table.add_row(f"{metric.title} {metric.unit}".strip(), *cells, place)
    missed, extra = (len(v) if isinstance(v, tuple) else v for v in (result.missed, result.extra))
    lines = [f"{result.compared} frames compared, {missed} missed, {extra} extra"]
    if isinstance(result, Evaluation) and result.others is not None:
        own = result.others
        means = [
            f"{metric.title} {own.summaries[metric.key].mean:.3g} {metric.unit}".strip()
            for metric in COMPARABLE
            if metric.key in own.summaries
        ]
        lines.append(f"of {own.faces} further faces {own.missed} missed; means: {', '.join(means)}")
    for title, ids in (("only in the first", result.only_in_gt), ("only in the second", result.only_in_pred)):
        if ids:
            lines.append(f"{len(ids)} {title}")
    return Group(table, Text("; ".join(lines)))


def behaviour(found: Behaviour) -> RenderableType:
    """Blinks, PERCLOS, glances and the like, before and after. A figure that cannot be had is a dash with a reason."""
    table = numbers("Behaviour", "", "original", "recovered", "agreement or difference", "95 % interval")
    for row in figure_rows(found):
        table.add_row(row.title, *row.numbers, Text(row.reason, style="dim") if row.reason else row.interval)
    if not found.zones:
        return table
    counts = numbers("Frames by glance zone", "original \\ recovered", *found.zones)
    for name, own in zip(found.zones, found.confusion.tolist(), strict=True):
        counts.add_row(name, *map(str, own))
    return Group(table, counts)


def files(result: FolderEvaluation) -> RenderableType:
    """One row for each pair of files: its means, and the frames that were missed."""
    titles = (f"{metric.title} {metric.unit}".strip() for metric in COMPARABLE)
    table = numbers("Means of each file", "file", *titles, "compared", "missed")
    for name, one in result.files.items():
        means = [one.summaries[metric.key].mean if metric.key in one.summaries else None for metric in COMPARABLE]
        cells = [
            "–" if mean is None else quantity(mean, "", metric.digits)
            for metric, mean in zip(COMPARABLE, means, strict=True)
        ]
        table.add_row(name, *cells, str(one.compared), str(len(one.missed)))
    return table


def forecast(found: Forecast) -> RenderableType:
    """What `--dry-run` says about one input."""
    settings, trial = found.settings, found.trial
    victims = ", ".join(victim["name"] for victim in trial["victims"].values() if victim is not None)
    recovered = trial["fidelity"]["recovered"]
    back = [f"{metric.title} {text_of(one['mean'], metric)}" for metric, one in measured(recovered).items()]
    table = Table(title=f"{found.source}: nothing was written", title_justify="left", show_header=False)
    table.add_column()
    table.add_column(overflow="fold")
    size, rate = f"{found.info.width}x{found.info.height}", float(found.info.average_rate)
    table.add_row("input", f"{size}, {found.frames} frames at {rate:g} a second")
    table.add_row("would write", "\n".join(map(str, found.writes)))
    table.add_row("mask, attack", f"{settings.mask}, {settings.attack or settings.effort}")
    table.add_row("authorised", f"{victims} ({provider_names(trial['providers'])})")
    table.add_row("time", f"about {_duration(found.seconds)}, measured on {found.tried} frames")
    table.add_row("read back from those", "; ".join(back) or f"nothing; {recovered['missed']} missed")
    for note in found.notes:
        table.add_row("note", note)
    return table


def checks(found: Sequence[Check]) -> RenderableType:
    """What `drsf doctor` found."""
    table = Table("", "", "", "", box=box.SIMPLE_HEAD, show_header=False, pad_edge=False)
    table.columns[3].overflow = "fold"
    kind = ""
    for check in found:
        if check.kind != kind:
            table.add_section()
        colour = "green" if check.usable else "red" if check.needed else "yellow"
        word = "usable" if check.usable else "not usable"
        table.add_row("" if check.kind == kind else check.kind, check.name, f"[{colour}]{word}[/]", Text(check.detail))
        kind = check.kind
    broken = [check.name for check in found if check.needed and not check.usable]
    if broken:
        return Group(table, Text(f"The defaults need these, which are not usable: {', '.join(broken)}.", style="red"))
    return Group(table, Text("The defaults work here.", style="green"))


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"


def parity(rows: Sequence[ExportedNetwork]) -> RenderableType:
    """How far ONNX Runtime is from torch for each exported network."""
    table = numbers("ONNX Runtime beside torch", "file", "MB", "largest difference", "of the range", "limit")
    for row in rows:
        table.add_row(
            "" if row.path is None else row.path.name,
            f"{row.bytes / 1e6:.2f}",
            f"{row.max_difference:.1e}",
            f"{row.relative:.1e}",
            f"{row.limit:.0e}",
        )
    return table


def leakage(document: Leakage) -> RenderableType:
    """What each model reads from the original, from the obscured video and from the written one.

    Beside it the gap between the last two, and what a reader gets who is told the true box and looks at no pixel.
    """
    table = numbers("What others can read", "model", "", *leakage_table.MODEL_HEADINGS, words=2)
    for model in leakage_table.model_rows(document):
        label = f"{model.name} ({model.mark})" if model.mark else model.name
        for row in model.rows:
            table.add_row(Text(label), row.title, *row.cells)
            label = ""
        table.add_section()
    parts: list[RenderableType] = [table]
    if document["identity"] is not None:
        parts.append(_identity(document["identity"]))
    return Group(*parts, Text(leakage_table.looked_at(document)))


def _identity(document: IdentityLeakage) -> RenderableType:
    table = numbers(f"Identity, by {document['recogniser']}", "", *leakage_table.HEADINGS)
    for row in leakage_table.identity_rows(document):
        table.add_row(row.title, *row.cells)
    return table


def provider_names(providers: Mapping[str, Sequence[str]]) -> str:
    """The providers that really ran, without repetition."""
    return ", ".join(sorted({name.removesuffix("ExecutionProvider") for used in providers.values() for name in used}))
