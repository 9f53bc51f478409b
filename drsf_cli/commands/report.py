"""`drsf report`: the command."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from drsf_cli.commands import options
from drsf_cli.commands.bars import bars
from drsf_cli.commands.options import examples, file_flag, schema_option
from drsf_cli.commands.output import out

EPILOG = examples("report drive_deid.mp4.report.json -o report.html")


def report(
    reports: Annotated[list[Path], typer.Argument(metavar="REPORT...", help="Reports that `drsf deid` wrote.")],
    output: Annotated[Path, file_flag("-o", "--output", "HTML file.")],
    include_original: Annotated[
        bool, file_flag("--include-original", "Put frames of the original into the page.")
    ] = False,
    zones: options.ZonesName = None,
    overwrite: options.Overwrite = False,
    quiet: options.Quiet = False,
    config: options.Config = None,
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
