"""`drsf export`: the command."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from drsf_cli.commands.bars import bars
from drsf_cli.commands.config import ConfigOption, HelpAllOption
from drsf_cli.commands.output import err, out
from drsf_cli.commands.shared_options import (
    FILE_PANEL,
    VICTIM_PANEL,
    AllowUnknown,
    Quiet,
    examples,
)
from victims.chains import CHAINS, find_chain

EPILOG = examples("export -d retinaface -z mpiigaze -o onnx", "export --chain mediapipe -o onnx")


def export(
    output: Annotated[
        Path, typer.Option("-o", "--output", help="Folder of the ONNX files.", rich_help_panel=FILE_PANEL)
    ],
    chain: Annotated[
        str | None,
        typer.Option(
            "--chain",
            help=f"The three victims of a chain: {', '.join(CHAINS)}.",
            autocompletion=lambda: list(CHAINS),
            rich_help_panel=VICTIM_PANEL,
        ),
    ] = None,
    detector: Annotated[
        str | None, typer.Option("-d", "--detector", help="A detector.", rich_help_panel=VICTIM_PANEL)
    ] = None,
    aligner: Annotated[
        str | None, typer.Option("-a", "--aligner", help="An aligner.", rich_help_panel=VICTIM_PANEL)
    ] = None,
    gaze: Annotated[
        str | None, typer.Option("-z", "--gaze", help="A gaze estimator.", rich_help_panel=VICTIM_PANEL)
    ] = None,
    everything: Annotated[
        bool, typer.Option("--all", help="Every victim whose weights are here.", rich_help_panel=VICTIM_PANEL)
    ] = False,
    opset: Annotated[int, typer.Option("--opset", help="ONNX opset.", rich_help_panel=FILE_PANEL)] = 17,
    fp16: Annotated[bool, typer.Option("--fp16", help="Half precision inside.", rich_help_panel=FILE_PANEL)] = False,
    allow_unknown: AllowUnknown = False,
    quiet: Quiet = False,
    config: ConfigOption = None,
    help_all: HelpAllOption = False,
) -> None:
    """Write victims as ONNX files, run them beside torch, and fail if they differ."""
    from drsf_cli.commands import tables
    from drsf_cli.readers.export import export_victims

    known = (None, None, None) if chain is None else find_chain(chain)
    with bars(quiet) as progress:
        rows, left_out = export_victims(
            output,
            {"detector": detector or known[0], "aligner": aligner or known[1], "gaze": gaze or known[2]},
            everything=everything,
            opset=opset,
            fp16=fp16,
            allow_unknown=allow_unknown,
            progress=progress,
        )
    if not quiet:
        out.print(tables.parity(rows))
    for reason in left_out:
        err.print(f"[yellow]left out:[/] {escape(reason)}", soft_wrap=True)
