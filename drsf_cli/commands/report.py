"""`drsf report`: the command."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from drsf_cli.commands.bars import bars
from drsf_cli.commands.config import ConfigOption
from drsf_cli.commands.output import out
from drsf_cli.commands.shared_options import (
    FILE_PANEL,
    Overwrite,
    Quiet,
    ZonesOption,
    examples,
    schema_option,
)

EPILOG = examples("report drive_deid.mp4.report.json -o report.html")


def report(
    reports: Annotated[list[Path], typer.Argument(metavar="REPORT...", help="Reports that `drsf deid` wrote.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="HTML file.", rich_help_panel=FILE_PANEL)],
    include_original: Annotated[
        bool,
        typer.Option(
            "--include-original", help="Put frames of the original into the page.", rich_help_panel=FILE_PANEL
        ),
    ] = False,
    zones: ZonesOption = None,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
    config: ConfigOption = None,
    schema: Annotated[bool, schema_option("drsf_cli.report.schema", "REPORT")] = False,
) -> None:
    """Make one self-contained HTML page of reports."""
    from drsf_cli.report.page import write_html

    with bars(quiet) as progress:
        write_html(
            reports, output, include_original=include_original, overwrite=overwrite, zones=zones, progress=progress
        )
    if not quiet:
        out.print(f"Wrote {output}.", soft_wrap=True)
