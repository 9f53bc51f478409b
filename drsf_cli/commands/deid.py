"""`drsf deid`: the command."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from drsf_cli.batch.shards import Shard, parse_shard
from drsf_cli.commands import choices
from drsf_cli.commands.bars import FileBars, bars, shown
from drsf_cli.commands.config import RUN_PANEL, ConfigOption, HelpAllOption
from drsf_cli.commands.output import ErrorStyle, err, out, print_error
from drsf_cli.commands.shared_options import (
    ATTACK_PANEL,
    COVER_PANEL,
    FILE_PANEL,
    AlignerOption,
    AllowUnknown,
    CameraOption,
    ChainOption,
    Detector,
    DeviceOption,
    End,
    Fps,
    Gaze,
    Overwrite,
    Quiet,
    Rotate,
    Start,
    examples,
)
from drsf_cli.media.files import page_path
from drsf_cli.settings import DeidSettings, VictimNames
from weights.errors import BatchError, DrsfError, UsageError

if TYPE_CHECKING:
    from drsf_cli.batch.jobs import Job
    from drsf_cli.batch.run import Batch, Engine

EPILOG = examples("deid drive.mp4 -o drive_deid.mp4 --html", "deid drive.mp4 --config study.toml --dry-run")


def deid(
    context: typer.Context,
    inputs: Annotated[list[Path] | None, typer.Argument(metavar="INPUT...", hidden=True)] = None,
    output: Annotated[
        str | None,  # a path would lose the slash at its end
        typer.Option(
            "-o",
            "--output",
            metavar="PATH",
            help="Output file, or folder (NAME/) for several inputs.",
            rich_help_panel=FILE_PANEL,
        ),
    ] = None,
    manifest: Annotated[
        Path | None,
        typer.Option(
            "--manifest", help="CSV or JSONL list of inputs with options.", hidden=True, rich_help_panel=FILE_PANEL
        ),
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Skip finished files.", rich_help_panel=FILE_PANEL)] = False,
    shard: Annotated[
        str | None,
        typer.Option(
            "--shard",
            metavar="I/N",
            help="Process only share I of N, or slurm's.",
            hidden=True,
            rich_help_panel=FILE_PANEL,
        ),
    ] = None,
    engine: Annotated[
        str,
        typer.Option(
            "--engine",
            metavar="local|ray[:WORKERS][@HOST:PORT]",
            help="Where the work runs.",
            hidden=True,
            rich_help_panel=FILE_PANEL,
        ),
    ] = "local",
    chain: ChainOption = "default",
    detector: Detector = None,
    aligner: AlignerOption = None,
    gaze: Gaze = None,
    attack: Annotated[
        str | None,
        typer.Option(
            "-g",
            "--attack",
            help="Step rule, or none; NAME:KEY=VALUE,...",
            autocompletion=lambda: choices.ATTACKS,
            rich_help_panel=ATTACK_PANEL,
        ),
    ] = DeidSettings.attack,
    mask: Annotated[
        str,
        typer.Option(
            "-m", "--mask", help="What hides heads, such as pixelate_5, blur_20 or solid.", rich_help_panel=COVER_PANEL
        ),
    ] = DeidSettings.mask,
    eps: Annotated[
        str, typer.Option("--eps", help="Largest change of a pixel.", hidden=True, rich_help_panel=ATTACK_PANEL)
    ] = DeidSettings.eps,
    effort: Annotated[
        str,
        typer.Option(
            "--effort",
            help="fast, normal or best.",
            autocompletion=lambda: choices.EFFORTS,
            rich_help_panel=ATTACK_PANEL,
        ),
    ] = DeidSettings.effort,
    drawer: Annotated[
        Path | None,
        typer.Option("--drawer", help="Weights of a drawer of your own.", hidden=True, rich_help_panel=ATTACK_PANEL),
    ] = None,
    batch_size: Annotated[
        int | None,
        typer.Option("-bs", "--batch-size", help="Frames worked on together.", hidden=True, rich_help_panel=RUN_PANEL),
    ] = None,
    codec: Annotated[
        str,
        typer.Option(
            "--codec",
            help="h264, h264-rgb or ffv1 (lossless).",
            autocompletion=lambda: choices.CODECS,
            hidden=True,
            rich_help_panel=FILE_PANEL,
        ),
    ] = DeidSettings.codec,
    crf: Annotated[
        int, typer.Option("--crf", help="H.264 quality; 0 is best.", hidden=True, rich_help_panel=FILE_PANEL)
    ] = DeidSettings.crf,
    audio: Annotated[
        str,
        typer.Option(
            "--audio", help="drop, copy or aac; a voice can identify.", hidden=True, rich_help_panel=FILE_PANEL
        ),
    ] = DeidSettings.audio,
    start: Start = None,
    end: End = None,
    fps: Fps = None,
    rotate: Rotate = DeidSettings.rotate,
    camera: CameraOption = None,
    embed: Annotated[
        str,
        typer.Option(
            "--embed", help="Face to embed: largest, all, or x,y px.", hidden=True, rich_help_panel=COVER_PANEL
        ),
    ] = DeidSettings.embed,
    targets: Annotated[
        Path | None,
        typer.Option(
            "--targets",
            metavar="READING.json",
            help="Embed these attributes, in the form of infer's.",
            hidden=True,
            rich_help_panel=ATTACK_PANEL,
        ),
    ] = None,
    shape: Annotated[
        str,
        typer.Option(
            "--shape",
            help="own; average: proportions of nobody.",
            autocompletion=lambda: choices.SHAPES,
            hidden=True,
            rich_help_panel=ATTACK_PANEL,
        ),
    ] = DeidSettings.shape,
    region: Annotated[
        list[str] | None,
        typer.Option("--region", metavar="X1,Y1,X2,Y2[@S-E]", help="Also cover this.", rich_help_panel=COVER_PANEL),
    ] = None,
    min_face: Annotated[
        float,
        typer.Option(
            "--min-face",
            help="Smallest turned or cut face to find: px, or (below 1) share of the shorter side.",
            hidden=True,
            rich_help_panel=COVER_PANEL,
        ),
    ] = DeidSettings.min_face,
    on_no_face: Annotated[
        str,
        typer.Option("--on-no-face", help="refuse, solid or copy.", hidden=True, rich_help_panel=COVER_PANEL),
    ] = DeidSettings.on_no_face,
    repel: Annotated[
        list[str] | None,
        typer.Option(
            "--repel",
            metavar="NAME",
            help="Model that should read nothing, or none; default: all installed.",
            hidden=True,
            rich_help_panel=ATTACK_PANEL,
        ),
    ] = None,
    device: DeviceOption = "auto",
    threads: Annotated[
        int | None, typer.Option("--threads", help="Cores of one worker.", hidden=True, rich_help_panel=RUN_PANEL)
    ] = None,
    html: Annotated[
        bool, typer.Option("--html", help="Also write OUTPUT.report.html.", rich_help_panel=FILE_PANEL)
    ] = False,
    allow_unknown: AllowUnknown = False,
    overwrite: Overwrite = False,
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="Say what would be done and how long it would take.", rich_help_panel=RUN_PANEL),
    ] = False,
    quiet: Quiet = False,
    config: ConfigOption = None,
    help_all: HelpAllOption = False,
) -> None:
    """Obscure every head of videos, pictures or folders of pictures, and embed what authorised models read."""
    from drsf_cli.batch.run import make_folder, plan_batch

    settings = DeidSettings(
        victims=VictimNames().replaced(detector, aligner, gaze, chain),
        attack=attack,
        mask=mask,
        eps=eps,
        effort=effort,  # type: ignore[arg-type]
        drawer=drawer,
        batch_size=batch_size,
        codec=codec,
        crf=crf,
        audio=audio,  # type: ignore[arg-type]
        start=start,
        end=end,
        fps=fps,
        rotate=rotate,  # type: ignore[arg-type]
        min_face=min_face,
        camera=camera,
        device=device,  # type: ignore[arg-type]
        threads=threads,
        allow_unknown_weights=allow_unknown,
        on_no_face=on_no_face,  # type: ignore[arg-type]
        regions=tuple(region or ()),
        embed=embed,
        targets=targets,
        shape=shape,  # type: ignore[arg-type]
        overwrite=overwrite,
        html=html,
        repel=DeidSettings.repel if repel is None else tuple(repel),
    )
    use_threads(settings)
    for line in settings.warnings:
        err.print(f"[yellow]warning:[/] {escape(line)}")
    share = None if shard is None else parse_shard(shard, os.environ)
    into_folder = output is not None and output.endswith("/")
    batch = plan_batch(
        inputs or [],
        settings,
        output=None if output is None else Path(output),
        manifest=manifest,
        shard=share,
        into_folder=into_folder,
    )
    for line in batch.passed_over:
        err.print(f"[yellow]passed over:[/] {escape(line)}", soft_wrap=True)
    if dry_run:
        _forecast(batch, resume, quiet, into_folder)
        return
    chosen = _engine(engine)
    if batch.several or engine != "local":
        _deid_many(batch, chosen, resume, share, quiet, context.obj)
    else:
        if into_folder:
            make_folder(batch.jobs[0].output.parent)
        _deid_one(batch.jobs[0], resume, quiet)


def _forecast(batch: Batch, resume: bool, quiet: bool, into_folder: bool) -> None:
    from drsf_cli.batch.dry_run import dry_run_of
    from drsf_cli.batch.resume import finished
    from drsf_cli.batch.run import ModelShelf
    from drsf_cli.commands import tables

    shelf = ModelShelf()
    failures: list[Path] = []
    for job in batch.jobs:
        if resume and finished(job) is not None:
            out.print(f"{job.output} is finished already.", soft_wrap=True)
            continue
        models = shelf.get(job.settings)
        try:
            with bars(quiet) as progress:
                forecast = dry_run_of(job, models, folder_is_made=batch.several or into_folder, progress=progress)
        except DrsfError as error:
            if not batch.several:
                raise
            print_error(error)
            failures.append(job.source)
        else:
            out.print(tables.forecast(forecast))
    if failures:
        raise BatchError(f"{len(failures)} of {len(batch.jobs)} inputs would fail, the first is {failures[0]}.")


def _deid_one(job: Job, resume: bool, quiet: bool) -> None:
    from drsf_cli.batch.resume import clear_leftovers, finished, restore_page
    from drsf_cli.commands import tables
    from drsf_cli.deid.pipeline import deidentify
    from drsf_cli.readers.models import Models

    if resume:
        if (document := finished(job)) is not None:
            restore_page(job, document)
            out.print(f"{job.output} is finished already.", soft_wrap=True)
            return
        clear_leftovers(job)
    settings = job.settings
    models = Models.of(settings)
    with bars(quiet) as progress:
        document = deidentify(job.source, job.output, settings, models=models, report=job.report, progress=progress)
    if not quiet:
        out.print(tables.fidelity(document))
        out.print(tables.cost(document))
        out.print(tables.audit(document))
        for note in document["input"]["notes"]:
            out.print(f"[yellow]note:[/] {escape(note)}", soft_wrap=True)
        if document["leakage"] is not None:
            out.print(tables.leakage(document["leakage"]))
        written = [job.output, job.report, *([page_path(job.output)] if settings.html else [])]
        out.print(f"Wrote {', '.join(map(str, written))}.", soft_wrap=True)


def _deid_many(
    batch: Batch, engine: Engine, resume: bool, shard: Shard | None, quiet: bool, errors: ErrorStyle
) -> None:
    from drsf_cli.batch.run import run_batch
    from drsf_cli.commands import tables

    with shown(quiet) as board:
        watch = FileBars(board, len(batch.jobs), quiet, traces=errors.debug)
        results = run_batch(batch.jobs, engine, watch, resume=resume, shard=shard, summary=batch.summary)
    if not quiet:
        out.print(tables.batch(results))
        if batch.summary is None:
            note = "Wrote each output beside its input. There is no summary: that takes a folder, -o DIR."
            out.print(note, soft_wrap=True)
        else:
            out.print(f"Wrote {batch.summary}.", soft_wrap=True)
    failures = [result for result in results if result.state == "failed"]
    if failures:
        raise BatchError(f"{len(failures)} of {len(results)} inputs failed, the first is {failures[0].job.source}.")


def use_threads(settings: DeidSettings) -> None:
    """Make torch use the number of threads that was asked for. It holds for the process, so the command sets it."""
    if settings.threads is not None:
        import torch

        torch.set_num_threads(settings.threads)


def _engine(text: str) -> Engine:
    """`local`, `ray`, `ray:4`, `ray@HOST:PORT` or `ray:4@HOST:PORT`."""
    if text == "local":
        from drsf_cli.batch.run import Local

        return Local()
    match = re.fullmatch(r"ray(?::([0-9]+))?(?:@(.+))?", text)
    if match is None:
        raise UsageError(f"--engine {text} is unknown; it takes local or ray, ray:WORKERS, ray@HOST:PORT.")
    from drsf_cli.batch.ray_engine import RayEngine

    return RayEngine(match[2], None if match[1] is None else int(match[1]))
