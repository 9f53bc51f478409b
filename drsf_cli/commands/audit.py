"""`drsf audit`: the command."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape

from drsf_cli.commands import options
from drsf_cli.commands.bars import bars
from drsf_cli.commands.options import examples, file_flag, known_device, panel
from drsf_cli.media.files import check_place
from weights.errors import UsageError
from weights.files import write_atomically

EPILOG = examples(
    "audit drive.mp4 drive_deid.mp4", "audit drive.mp4 drive_deid.mp4 --against dlib-hog --json leak.json"
)
reader_flag = panel("Who else reads")


def audit(
    original: Annotated[Path, typer.Argument(metavar="ORIGINAL", help="What `drsf deid` was given.")],
    deid: Annotated[Path, typer.Argument(metavar="DEID", help="What it wrote.")],
    against: Annotated[
        list[str] | None,
        reader_flag(
            "--against",
            "NAME, NAME@FILE (weights or ONNX), lbp-cascade, yunet@FILE, ultraface@FILE; default: all installed.",
            metavar="NAME",
        ),
    ] = None,
    recogniser: Annotated[
        Path | None, reader_flag("--recogniser", "ONNX face recogniser or dlib's .dat; default: an installed one.")
    ] = None,
    gallery: Annotated[
        Path | None, reader_flag("--gallery", "Pictures of other people, for rank-1 and TAR@FAR.")
    ] = None,
    far: Annotated[float, reader_flag("--far", "False accept rate.")] = 0.01,
    every: Annotated[int | None, reader_flag("--every", "Look at every Nth frame only.")] = None,
    report: Annotated[
        Path | None, file_flag("--report", "Report of the run; default: DEID.report.json, if it is there.")
    ] = None,
    mask: options.Mask = None,
    json_file: options.JsonFile = None,
    chain: options.Chain = None,
    detector: options.Detector = None,
    aligner: options.Aligner = None,
    gaze: options.Gaze = None,
    device: options.DeviceName = "auto",
    allow_unknown: options.AllowUnknown = False,
    overwrite: options.Overwrite = False,
    quiet: options.Quiet = False,
    config: options.Config = None,
    help_all: options.HelpAll = False,
) -> None:
    """Measure what models that were not authorised read from a de-identified video.

    The authorised models are those of its report, unless they are named here.
    """
    from drsf_cli.commands import tables
    from drsf_cli.deid.audit import audit as measure_audit
    from drsf_cli.deid.known_run import run_of
    from drsf_cli.measure.identity import IdentityMeter, find_recogniser, read_gallery
    from drsf_cli.readers.models import Models
    from drsf_cli.readers.outsiders import named_outsiders

    if every is not None and every < 1:
        raise UsageError(f"--every {every} is too small; it takes 1 or more.")
    if not 0 < far < 1:
        raise UsageError(f"--far {far:g} is not a rate; give a number between 0 and 1.")
    if json_file is not None:
        check_place(json_file, overwrite)
    known = run_of(original, deid, report, mask)
    settings = replace(
        known.settings,
        victims=known.settings.victims.replaced(detector, aligner, gaze, chain),
        device=known_device(device),
        allow_unknown_weights=allow_unknown or known.settings.allow_unknown_weights,
    )
    known = replace(known, settings=settings)
    models = Models.load(settings.victims, settings.device, settings.allow_unknown_weights)
    outsiders = named_outsiders(against or ["all"], models, settings.allow_unknown_weights)
    found, missing = find_recogniser(recogniser, settings.device)
    if found is None and gallery is not None:
        raise UsageError(f"--gallery needs a recogniser: {missing}")
    people = None
    if found is not None and gallery is not None:
        people = read_gallery(gallery, models.reader("onnx"), found)
    meter = None if found is None else IdentityMeter(found, people, far)
    console = Console(stderr=True)
    with bars(quiet) as progress:
        document = measure_audit(
            original, deid, known, models, outsiders, identity=meter, every=every, progress=progress
        )
    if json_file is not None:
        write_atomically(json_file, json.dumps(document, indent=1, allow_nan=False) + "\n")
    if not quiet:
        Console().print(tables.leakage(document))
        if meter is None:
            console.print(f"[yellow]identity not measured:[/] {escape(missing)}", soft_wrap=True)
