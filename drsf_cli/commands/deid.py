"""`drsf deid`: the command."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, get_args

import typer
from rich.markup import escape

from attacks.effort import EFFORTS
from attacks.names import CODECS
from attacks.steps import METHODS
from drsf_cli.batch.shards import Shard, parse_shard
from drsf_cli.commands import options
from drsf_cli.commands.bars import FileBars, bars, shown
from drsf_cli.commands.options import attack_flag, cover_flag, examples, file_flag, one_thread_each, run_flag
from drsf_cli.commands.output import ErrorStyle, err, out, print_error
from drsf_cli.settings import DeidSettings, Shape, VictimNames
from weights.errors import BatchError, DrsfError, UsageError
from weights.files import make_folder

if TYPE_CHECKING:
    from drsf_cli.batch.jobs import Job
    from drsf_cli.batch.run import Batch, Engine

EPILOG = examples("deid drive.mp4 -o drive_deid.mp4 --html", "deid drive.mp4 --config study.toml --dry-run")


def deid(
    context: typer.Context,
    inputs: Annotated[list[Path] | None, typer.Argument(metavar="INPUT...", hidden=True)] = None,
    output: Annotated[
        str | None,  # a path would lose the slash at its end
        file_flag("-o", "--output", "Output file, or folder (NAME/) for several inputs.", metavar="PATH"),
    ] = None,
    manifest: Annotated[
        Path | None, file_flag("--manifest", "CSV or JSONL list of inputs with options.", rare=True)
    ] = None,
    resume: Annotated[bool, file_flag("--resume", "Skip finished files.")] = False,
    shard: Annotated[
        str | None, file_flag("--shard", "Process only share I of N, or slurm's.", metavar="I/N", rare=True)
    ] = None,
    engine: Annotated[
        str, file_flag("--engine", "Where the work runs.", metavar="local|ray[:WORKERS][@HOST:PORT]", rare=True)
    ] = "local",
    chain: options.Chain = "default",
    detector: options.Detector = None,
    aligner: options.Aligner = None,
    gaze: options.Gaze = None,
    attack: Annotated[
        str | None,
        attack_flag("-g", "--attack", "Step optimiser, or none; NAME:KEY=VALUE,...", words=("none", *METHODS)),
    ] = DeidSettings.attack,
    mask: Annotated[
        str, cover_flag("-m", "--mask", "What hides heads, such as pixelate_5, blur_20 or solid.")
    ] = DeidSettings.mask,
    eps: Annotated[
        str, attack_flag("--eps", "Largest change of a pixel, such as 16/255.", rare=True)
    ] = DeidSettings.eps,
    effort: Annotated[
        str, attack_flag("--effort", "Work for embedding: fast, normal or best.", words=list(EFFORTS))
    ] = DeidSettings.effort,
    drawer: Annotated[
        Path | None, attack_flag("--drawer", "Weights of a drawer of your own (weights fit).", rare=True)
    ] = None,
    batch_size: Annotated[int | None, run_flag("-bs", "--batch-size", "Frames worked on together.", rare=True)] = None,
    codec: Annotated[
        str, file_flag("--codec", "h264, h264-rgb or ffv1 (lossless).", words=CODECS, rare=True)
    ] = DeidSettings.codec,
    crf: Annotated[int, file_flag("--crf", "H.264 quality; 0 is best.", rare=True)] = DeidSettings.crf,
    audio: Annotated[
        str, file_flag("--audio", "drop, copy or aac; a voice can identify.", rare=True)
    ] = DeidSettings.audio,
    start: options.Start = None,
    end: options.End = None,
    fps: options.Fps = None,
    rotate: options.Rotate = DeidSettings.rotate,
    camera: options.Camera = None,
    embed: Annotated[
        str, cover_flag("--embed", "Whose attributes to embed: largest, all, or of the face at x,y px.", rare=True)
    ] = DeidSettings.embed,
    targets: Annotated[
        Path | None,
        attack_flag(
            "--targets", "Embed the attributes in this file, not those of the input.", metavar="READING.json", rare=True
        ),
    ] = None,
    shape: Annotated[
        str,
        attack_flag(
            "--shape",
            "Proportions of embedded landmarks: own, or average (nobody's).",
            words=get_args(Shape),
            rare=True,
        ),
    ] = DeidSettings.shape,
    region: Annotated[
        list[str] | None,
        cover_flag("--region", "Also cover this rectangle, px, from S to E seconds.", metavar="X1,Y1,X2,Y2[@S-E]"),
    ] = None,
    min_face: Annotated[
        float,
        cover_flag(
            "--min-face",
            "Smallest turned or cut face to find: px, or a share (below 1) of the shorter side.",
            rare=True,
        ),
    ] = DeidSettings.min_face,
    on_no_face: Annotated[
        str, cover_flag("--on-no-face", "If the whole input shows no face: refuse, solid or copy.", rare=True)
    ] = DeidSettings.on_no_face,
    repel: Annotated[
        list[str] | None,
        attack_flag(
            "--repel",
            "Model that should read nothing; all (installed, the default) or none.",
            metavar="NAME",
            rare=True,
        ),
    ] = None,
    device: options.DeviceName = "auto",
    threads: Annotated[int | None, run_flag("--threads", "Processor cores to use, of each worker.", rare=True)] = None,
    html: Annotated[bool, file_flag("--html", "Also write OUTPUT.report.html.")] = False,
    allow_unknown: options.AllowUnknown = False,
    overwrite: options.Overwrite = False,
    dry_run: Annotated[bool, run_flag("--dry-run", "Only say what would be done and how long it would take.")] = False,
    quiet: options.Quiet = False,
    config: options.Config = None,
    help_all: options.HelpAll = False,
) -> None:
    """Obscure every head of videos, pictures or folders of pictures, and embed what authorised models read."""
    from drsf_cli.batch.run import plan_batch

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
    one_thread_each()
    if dry_run:
        _forecast(batch, resume, quiet, into_folder)
        return
    chosen = _engine(engine)
    if batch.several or engine != "local":
        _deid_many(batch, chosen, resume, share, quiet, context.obj)
    else:
        if into_folder:
            make_folder(batch.jobs[0].output.parent, "-o")
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
        out.print(f"Wrote {', '.join(map(str, job.files))}.", soft_wrap=True)


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
