"""`drsf audit`: the command."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape

from drsf_cli.bars import bars
from drsf_cli.options import ConfigOption
from drsf_cli.settings import DeidSettings
from weights.errors import OutputError, UsageError
from weights.files import write_atomically

EPILOG = "Example: drsf audit drive.mp4 drive_deid.mp4 --against all --json leakage.json"


def audit(
    original: Annotated[Path, typer.Argument(metavar="ORIGINAL", help="What `drsf deid` was given.")],
    deid: Annotated[Path, typer.Argument(metavar="DEID", help="What it wrote.")],
    against: Annotated[
        list[str] | None,
        typer.Option(
            "--against",
            metavar="NAME",
            help="A model: NAME, NAME@FILE (weights or ONNX), lbp-cascade, yunet@FILE, ultraface@FILE; all at hand.",
        ),
    ] = None,
    report: Annotated[
        Path | None, typer.Option("--report", help="Report of the run; DEID.report.json where it is there.")
    ] = None,
    detector: Annotated[str | None, typer.Option("-d", "--detector", help="Authorised; else the report's.")] = None,
    aligner: Annotated[str | None, typer.Option("-a", "--aligner", help="Likewise.")] = None,
    gaze: Annotated[str | None, typer.Option("-z", "--gaze", help="Likewise.")] = None,
    mask: Annotated[str | None, typer.Option("-m", "--mask", help="How it was obscured; else the report's.")] = None,
    recogniser: Annotated[
        Path | None, typer.Option("--recogniser", help="ONNX face recogniser, or dlib's .dat; else one at hand.")
    ] = None,
    gallery: Annotated[
        Path | None, typer.Option("--gallery", help="Pictures of other people, for rank-1 and TAR@FAR.")
    ] = None,
    far: Annotated[float, typer.Option("--far", help="False accept rate.")] = 0.01,
    every: Annotated[int | None, typer.Option("--every", help="Look at every so many frames.")] = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write all figures as JSON.")] = None,
    device: Annotated[str, typer.Option("--device", help="auto, cpu or cuda.")] = "auto",
    allow_unknown: Annotated[
        bool, typer.Option("--allow-unknown-weights", help="Take weight files that the catalogue does not know.")
    ] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an existing --json.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress bars, no table.")] = False,
    config: ConfigOption = None,
) -> None:
    """Measure what models that were not authorised read from a de-identified video."""
    from drsf_cli import tables
    from drsf_cli.identity import IdentityMeter, find_recogniser, read_gallery
    from drsf_cli.leakage_audit import Run, read_run
    from drsf_cli.leakage_audit import audit as measure_audit
    from drsf_cli.models import Models
    from drsf_cli.outsiders import named_outsiders

    if device not in ("auto", "cpu", "cuda"):
        raise UsageError(f"--device {device} is unknown; it takes auto, cpu or cuda.")
    if every is not None and every < 1:
        raise UsageError(f"--every {every} is too small; it takes 1 or more.")
    if not 0 < far < 1:
        raise UsageError(f"--far {far:g} is no rate; give a number between 0 and 1.")
    if json_file is not None and json_file.exists() and not overwrite:
        raise OutputError(f"{json_file} exists already; give --overwrite or another name.")
    known = read_run(original, deid, report) or Run(DeidSettings())
    names = known.settings.victims.replaced(detector, aligner, gaze)
    settings = replace(
        known.settings,
        victims=names,
        mask=mask or known.settings.mask,
        device=device,  # type: ignore[arg-type]
        allow_unknown_weights=allow_unknown or known.settings.allow_unknown_weights,
    )
    models = Models.load(names, settings.device, settings.allow_unknown_weights)
    outsiders = named_outsiders(against or ["all"], models, settings.allow_unknown_weights)
    found, missing = find_recogniser(recogniser, settings.device)
    if found is None and gallery is not None:
        raise UsageError(f"--gallery needs a recogniser: {missing}")
    others = None
    if found is not None and gallery is not None:
        others = read_gallery(gallery, models.reader("onnx"), found)
    meter = None if found is None else IdentityMeter(found, others, far)
    console = Console(stderr=True)
    with bars(quiet) as progress:
        document = measure_audit(
            original,
            deid,
            settings,
            models,
            outsiders,
            repelled=known.repelled,
            identity=meter,
            every=every,
            progress=progress,
        )
    if json_file is not None:
        write_atomically(json_file, json.dumps(document, indent=1, allow_nan=False) + "\n")
    if not quiet:
        Console().print(tables.leakage(document))
        if meter is None:
            console.print(f"[yellow]identity not measured:[/] {escape(missing)}", soft_wrap=True)
