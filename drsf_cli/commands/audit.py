"""`drsf audit`: the command."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape

from drsf_cli.commands.bars import bars
from drsf_cli.commands.config import ConfigOption, HelpAllOption
from drsf_cli.commands.shared_options import (
    FILE_PANEL,
    AllowUnknown,
    DeviceOption,
    Overwrite,
    Quiet,
    ShownAligner,
    ShownChain,
    ShownDetector,
    ShownGaze,
    examples,
    known_device,
)
from drsf_cli.media.files import check_place
from drsf_cli.settings import DeidSettings
from weights.errors import UsageError
from weights.files import write_atomically

EPILOG = examples(
    "audit drive.mp4 drive_deid.mp4", "audit drive.mp4 drive_deid.mp4 --against dlib-hog --json leak.json"
)
READER_PANEL = "Who else reads"


def audit(
    original: Annotated[Path, typer.Argument(metavar="ORIGINAL", help="What `drsf deid` was given.")],
    deid: Annotated[Path, typer.Argument(metavar="DEID", help="What it wrote.")],
    against: Annotated[
        list[str] | None,
        typer.Option(
            "--against",
            metavar="NAME",
            help="NAME, NAME@FILE (weights or ONNX), lbp-cascade, yunet@FILE, ultraface@FILE; default: all installed.",
            rich_help_panel=READER_PANEL,
        ),
    ] = None,
    recogniser: Annotated[
        Path | None,
        typer.Option(
            "--recogniser",
            help="ONNX face recogniser or dlib's .dat; default: an installed one.",
            rich_help_panel=READER_PANEL,
        ),
    ] = None,
    gallery: Annotated[
        Path | None,
        typer.Option(
            "--gallery", help="Pictures of other people, for rank-1 and TAR@FAR.", rich_help_panel=READER_PANEL
        ),
    ] = None,
    far: Annotated[float, typer.Option("--far", help="False accept rate.", rich_help_panel=READER_PANEL)] = 0.01,
    every: Annotated[
        int | None, typer.Option("--every", help="Look at every Nth frame only.", rich_help_panel=READER_PANEL)
    ] = None,
    report: Annotated[
        Path | None,
        typer.Option(
            "--report",
            help="Report of the run; default: DEID.report.json where it is there.",
            rich_help_panel=FILE_PANEL,
        ),
    ] = None,
    mask: Annotated[
        str | None,
        typer.Option(
            "-m", "--mask", help="How DEID was obscured; default: as the report says.", rich_help_panel=FILE_PANEL
        ),
    ] = None,
    json_file: Annotated[
        Path | None, typer.Option("--json", help="Write all figures as JSON.", rich_help_panel=FILE_PANEL)
    ] = None,
    chain: ShownChain = None,
    detector: ShownDetector = None,
    aligner: ShownAligner = None,
    gaze: ShownGaze = None,
    device: DeviceOption = "auto",
    allow_unknown: AllowUnknown = False,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
    config: ConfigOption = None,
    help_all: HelpAllOption = False,
) -> None:
    """Measure what models that were not authorised read from a de-identified video."""
    from drsf_cli.commands import tables
    from drsf_cli.deid.audit import audit as measure_audit
    from drsf_cli.deid.known_run import KnownRun, read_run
    from drsf_cli.measure.identity import IdentityMeter, find_recogniser, read_gallery
    from drsf_cli.readers.models import Models
    from drsf_cli.readers.outsiders import named_outsiders

    if every is not None and every < 1:
        raise UsageError(f"--every {every} is too small; it takes 1 or more.")
    if not 0 < far < 1:
        raise UsageError(f"--far {far:g} is not a rate; give a number between 0 and 1.")
    if json_file is not None:
        check_place(json_file, overwrite)
    known = read_run(original, deid, report) or KnownRun(DeidSettings())
    names = known.settings.victims.replaced(detector, aligner, gaze, chain)
    settings = replace(
        known.settings,
        victims=names,
        mask=mask or known.settings.mask,
        device=known_device(device),
        allow_unknown_weights=allow_unknown or known.settings.allow_unknown_weights,
    )
    hidden_otherwise = mask is not None and mask != known.settings.mask
    known = replace(known, settings=settings, regions=None if hidden_otherwise else known.regions)
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
            known,
            models,
            outsiders,
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
