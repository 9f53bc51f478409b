"""`drsf eval`: the command."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from drsf_cli.commands import options
from drsf_cli.commands.options import examples, file_flag
from drsf_cli.commands.output import err, out
from drsf_cli.media.files import check_place, refuse_existing
from weights.files import write_atomically

if TYPE_CHECKING:
    from drsf_cli.measure.evaluation import Evaluation

EPILOG = examples("eval original.json deid.json --plot errors.png", "eval originals deids --json summary.json")


def evaluate(
    gt: Annotated[Path, typer.Argument(metavar="GT", help="JSON of the original, or a folder of them.")],
    pred: Annotated[Path, typer.Argument(metavar="PRED", help="JSON of the other, or a folder of them.")],
    json_file: options.JsonFile = None,
    csv_file: Annotated[Path | None, file_flag("--csv", "Write per-frame errors as CSV.")] = None,
    plot: Annotated[Path | None, file_flag("--plot", "Draw the error curves: a PNG, or a folder for many.")] = None,
    offset: Annotated[int, file_flag("--offset", "Add this to the frame numbers of PRED.")] = 0,
    zones: options.ZonesName = None,
    overwrite: options.Overwrite = False,
    quiet: options.Quiet = False,
    config: options.Config = None,
) -> None:
    """Compare two readings of one clip, or folders of them paired by name."""
    from drsf_cli.commands import tables
    from drsf_cli.measure.evaluation import FolderEvaluation, evaluate_files, evaluate_folders
    from drsf_cli.measure.evaluation_files import evaluation_to_dict, plot_paths, write_csv, write_plots

    for path in (json_file, csv_file):
        if path is not None:
            check_place(path, overwrite)
    result = (evaluate_folders if gt.is_dir() or pred.is_dir() else evaluate_files)(gt, pred, offset, zones)
    _warn_of_offsets(result.files if isinstance(result, FolderEvaluation) else {pred.name: result})
    for path in () if plot is None else plot_paths(result, plot):
        refuse_existing(path, overwrite)
    if not quiet:
        out.print(tables.comparison(result))
    if json_file is not None:
        write_atomically(json_file, json.dumps(evaluation_to_dict(result), indent=1) + "\n")
    if csv_file is not None:
        write_csv(csv_file, result)
    if plot is not None:
        write_plots(result, plot)


def _warn_of_offsets(compared: Mapping[str, Evaluation]) -> None:
    for name, one in compared.items():
        if one.likely_offset:
            err.print(
                f"[yellow]warning:[/] {escape(name)} has as many frames as the original, but its numbers begin with "
                f"{0 if one.likely_offset > 0 else 1} and the original's with {max(0, one.likely_offset)}; if they are "
                f"the same frames, give --offset {one.likely_offset}.",
                soft_wrap=True,
            )
