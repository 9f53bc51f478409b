"""One self-contained HTML page of what runs measured (drsf_cli/report/schema.py).

The page shows frames of the *output*, read again when the page is made. The driver's own pixels are in it only where
that is asked for (`include_original`). It asks nothing of any network: scripts, styles and pictures are inside, and a
content security policy forbids the rest.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template

from drsf_cli.measure.glances import DEFAULT, load_zones
from drsf_cli.measure.leakage_table import HEADINGS, MODEL_HEADINGS
from drsf_cli.measure.metrics import PLOTTED, REPORTED, STATISTICS, WORST, measured, text_of, worst_by
from drsf_cli.media.atomic import AtomicOutput
from drsf_cli.progress import SILENT, Progress
from drsf_cli.report.charts import Chart, make_chart
from drsf_cli.report.filters import FILTERS, TESTS, plain
from drsf_cli.report.schema import SAMPLES, FidelitySection, FrameSection, OtherFacesSection, Report, read_report
from drsf_cli.report.stills import stills_of
from drsf_cli.report.traces import make_traces

_TEMPLATES = Path(__file__).parent / "templates"
_PAGE_SAMPLES = 48
"""Samples of all clips together; with more clips than this, none is shown."""


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
    recovered = measured(fidelity["recovered"])
    beside = [measured(fidelity.get("noise_floor")), measured(fidelity.get("obscured_only"))]
    return [
        {
            "title": metric.title,
            "own": [text_of(recovered.get(metric, {}).get(name), metric) for name in STATISTICS],
            "beside": [text_of(one.get(metric, {}).get("mean"), metric) for one in beside],
        }
        for metric in REPORTED
        if any(metric in one for one in (recovered, *beside))
    ]


def _other_faces(others: OtherFacesSection | None) -> str | None:
    """How the further faces came back, in one line."""
    if others is None:
        return None
    means = [f"{metric.title} {text_of(one.get('mean'), metric)}" for metric, one in measured(others).items()]
    line = f"{plain(others.get('frames'))} further faces read again, {plain(others.get('missed'))} missed"
    return f"{line}; means: {', '.join(means)}." if means else f"{line}."


def render_html(
    reports: Sequence[tuple[Path, Report]],
    *,
    include_original: bool = False,
    zones: str | Path | None = None,
    progress: Progress = SILENT,
) -> str:
    """The page of checked reports, each with the path that it was read from (clips are looked for beside it, too).

    `include_original` puts stills of the original into the page; without it no pixel of an input is there but
    obscured ones. `zones`: of gaze (drsf_cli/measure/glances.py). Raises InputError for zones that are none.
    """
    count = min(SAMPLES, _PAGE_SAMPLES // max(1, len(reports)))
    progress.begin("Reading frames to be shown", 2 * count * len(reports))
    sections = []
    ranges = load_zones(zones)
    for number, (path, report) in enumerate(reports):
        stills, notes = stills_of(report, path.parent, count, include_original, progress) if count else ([], [])
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
    recovered = measured(report["fidelity"]["recovered"])
    return {
        "report": report,
        "input_name": Path(report["input"]["path"]).name,
        "output_name": Path(report["output"]["path"]).name,
        "charts": [chart for measure in PLOTTED if (chart := make_chart(report["frames"], measure)) is not None],
        "tiles": [(m.title, text_of(recovered.get(m, {}).get("mean"), m)) for m in PLOTTED],
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
    overwrite: bool = False,
    zones: str | Path | None = None,
    progress: Progress = SILENT,
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
            zones=zones,
            progress=progress,
        )
        place.fill([page.encode(errors="backslashreplace")])  # names of files need not be UTF-8
        return place.publish()
    finally:
        place.discard()
