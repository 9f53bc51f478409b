"""`drsf export`: the command."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from rich.markup import escape

from drsf_cli.commands import options
from drsf_cli.commands.bars import bars
from drsf_cli.commands.options import examples, file_flag, victim_flag
from drsf_cli.commands.output import err, out
from victims.chains import find_chain

EPILOG = examples("export -d retinaface -z mpiigaze -o onnx", "export --chain mediapipe -o onnx")


def export(
    output: Annotated[Path, file_flag("-o", "--output", "Folder of the ONNX files.")],
    chain: options.Chain = None,
    detector: options.Detector = None,
    aligner: options.Aligner = None,
    gaze: options.Gaze = None,
    everything: Annotated[bool, victim_flag("--all", "Every victim whose weights are here.")] = False,
    opset: Annotated[int, file_flag("--opset", "ONNX opset.")] = 17,
    fp16: Annotated[bool, file_flag("--fp16", "Half precision inside the networks.")] = False,
    allow_unknown: options.AllowUnknown = False,
    quiet: options.Quiet = False,
    config: options.Config = None,
    help_all: options.HelpAll = False,
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
