"""The command line: parses, calls, prints, exits. Logic raises its own errors; here each becomes one line and an exit
code (weights/errors.py has the table).

Commands import what they work with when they are called, so that help and completion do not wait for torch.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.markup import escape

from drsf_cli import audit_command, choices
from drsf_cli.bars import FileBars, bars, shown
from drsf_cli.common_options import (
    ATTACK_PANEL,
    COVER_PANEL,
    FILE_PANEL,
    VICTIM_PANEL,
    AlignerOption,
    AllowUnknown,
    BatchSize,
    CameraOption,
    Detector,
    DeviceOption,
    End,
    Gaze,
    Overwrite,
    Quiet,
    ShownAligner,
    ShownDetector,
    ShownGaze,
    Start,
    examples,
    known_device,
)
from drsf_cli.files import page_path, report_path
from drsf_cli.options import RUN_PANEL, ConfigOption, HelpAllOption
from drsf_cli.settings import DeidSettings, VictimNames
from drsf_cli.shards import Shard, parse_shard
from drsf_cli.versions import versions
from drsf_cli.weights_command import app as weights_app
from weights.errors import BatchError, DrsfError, OutputError, UsageError
from weights.files import write_atomically

if TYPE_CHECKING:
    from drsf_cli.batch import Batch, Engine
    from drsf_cli.outputs import Job

app = typer.Typer(
    name="drsf",
    help="De-identify driver-facing video and keep what safety research reads from it.",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)
app.add_typer(weights_app, name="weights")
app.command(name="audit", epilog=audit_command.EPILOG)(audit_command.audit)

out = Console()
err = Console(stderr=True)

STOPPED = 130
"""Exit code after Ctrl-C, as shells have it."""


@app.command(epilog=examples("deid drive.mp4 -o drive_deid.mp4 --html", "deid drive.mp4 --config study.toml --dry-run"))
def deid(
    inputs: Annotated[list[Path] | None, typer.Argument(metavar="INPUT...", hidden=True)] = None,
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", help="Output file; a folder for several inputs.", rich_help_panel=FILE_PANEL),
    ] = None,
    manifest: Annotated[
        Path | None,
        typer.Option("--manifest", help="CSV or JSONL: inputs with own options.", rich_help_panel=FILE_PANEL),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Skip what is finished.", rich_help_panel=FILE_PANEL)
    ] = False,
    shard: Annotated[
        str | None, typer.Option("--shard", metavar="I/N", help="A share; or slurm.", rich_help_panel=FILE_PANEL)
    ] = None,
    engine: Annotated[
        str, typer.Option("--engine", help="local or ray.", hidden=True, rich_help_panel=FILE_PANEL)
    ] = "local",
    address: Annotated[
        str | None,
        typer.Option("--address", help="HOST:PORT of a Ray cluster, auto.", hidden=True, rich_help_panel=FILE_PANEL),
    ] = None,
    workers: Annotated[
        int | None, typer.Option("--workers", help="Ray workers.", hidden=True, rich_help_panel=FILE_PANEL)
    ] = None,
    detector: Detector = "mtcnn",
    aligner: AlignerOption = "fan-compact",
    gaze: Gaze = "gaze-compact",
    attack: Annotated[
        str,
        typer.Option(
            "-g",
            "--attack",
            help="Step rule, or none.",
            autocompletion=lambda: choices.ATTACKS,
            rich_help_panel=ATTACK_PANEL,
        ),
    ] = DeidSettings.attack,
    attack_opt: Annotated[
        list[str] | None,
        typer.Option(
            "--attack-opt",
            metavar="KEY=VALUE",
            help="A step rule's own parameter.",
            hidden=True,
            rich_help_panel=ATTACK_PANEL,
        ),
    ] = None,
    mask: Annotated[
        str, typer.Option("-m", "--mask", help="pixelate_N, blur_N or solid.", rich_help_panel=COVER_PANEL)
    ] = DeidSettings.mask,
    eps: Annotated[
        str, typer.Option("--eps", help="Largest change of a pixel.", rich_help_panel=ATTACK_PANEL)
    ] = DeidSettings.eps,
    max_iter: Annotated[
        int | None,
        typer.Option("--max-iter", help="Steps for the first frame.", hidden=True, rich_help_panel=ATTACK_PANEL),
    ] = None,
    warm_iter: Annotated[
        int | None,
        typer.Option("--warm-iter", help="Steps for the others.", hidden=True, rich_help_panel=ATTACK_PANEL),
    ] = None,
    robust: Annotated[
        bool,
        typer.Option("--robust", help="Outlive a transcoding better.", hidden=True, rich_help_panel=ATTACK_PANEL),
    ] = DeidSettings.robust,
    segment: Annotated[
        float,
        typer.Option(
            "--segment", help="Seconds after which it starts anew.", hidden=True, rich_help_panel=ATTACK_PANEL
        ),
    ] = DeidSettings.segment,
    refine: Annotated[
        int,
        typer.Option(
            "--refine", help="Rounds for frames short in the file.", hidden=True, rich_help_panel=ATTACK_PANEL
        ),
    ] = DeidSettings.refine,
    max_error: Annotated[
        float | None,
        typer.Option("--max-error", help="Fail over so many tolerances.", hidden=True, rich_help_panel=ATTACK_PANEL),
    ] = None,
    batch_size: BatchSize = DeidSettings.batch_size,
    codec: Annotated[
        str,
        typer.Option(
            "--codec",
            help="h264, h264-rgb or ffv1 (lossless).",
            autocompletion=lambda: choices.CODECS,
            rich_help_panel=FILE_PANEL,
        ),
    ] = DeidSettings.codec,
    crf: Annotated[
        int, typer.Option("--crf", help="H.264 quality, 0 best.", rich_help_panel=FILE_PANEL)
    ] = DeidSettings.crf,
    head_qp: Annotated[
        int,
        typer.Option(
            "--head-qp", help="Quantiser of H.264 at heads, less --crf's.", hidden=True, rich_help_panel=FILE_PANEL
        ),
    ] = DeidSettings.head_qp,
    keep_audio: Annotated[
        bool, typer.Option("--keep-audio", help="Copy the sound: voices identify too.", rich_help_panel=FILE_PANEL)
    ] = False,
    start: Start = None,
    end: End = None,
    camera: CameraOption = None,
    embed: Annotated[
        str,
        typer.Option("--embed", help="largest, all, or x,y px of a face.", hidden=True, rich_help_panel=COVER_PANEL),
    ] = DeidSettings.embed,
    cover_detector: Annotated[
        list[str] | None,
        typer.Option(
            "--cover-detector",
            metavar="NAME",
            help="Covers beside -d; default: all at hand.",
            rich_help_panel=COVER_PANEL,
        ),
    ] = None,
    region: Annotated[
        list[str] | None,
        typer.Option("--region", metavar="X1,Y1,X2,Y2[@S-E]", help="Cover this too.", rich_help_panel=COVER_PANEL),
    ] = None,
    max_gap: Annotated[
        float, typer.Option("--max-gap", help="Seconds interpolated.", hidden=True, rich_help_panel=COVER_PANEL)
    ] = DeidSettings.max_gap,
    on_no_face: Annotated[
        str,
        typer.Option("--on-no-face", help="refuse, solid or copy.", rich_help_panel=COVER_PANEL),
    ] = "refuse",
    keep_failed: Annotated[
        bool,
        typer.Option("--keep-failed", help="Keep what failed its audit.", hidden=True, rich_help_panel=COVER_PANEL),
    ] = False,
    repel: Annotated[
        list[str] | None,
        typer.Option(
            "--repel",
            metavar="NAME",
            help="A model that is to read nothing; all at hand by default; none.",
            rich_help_panel=ATTACK_PANEL,
        ),
    ] = None,
    audit: Annotated[
        str,
        typer.Option("--audit", help="file; full: what others can read, too.", rich_help_panel=RUN_PANEL),
    ] = DeidSettings.audit,
    device: DeviceOption = "auto",
    threads: Annotated[
        int | None, typer.Option("--threads", help="Cores of one worker.", hidden=True, rich_help_panel=RUN_PANEL)
    ] = None,
    report: Annotated[
        Path | None,
        typer.Option("--report", help="Default: OUTPUT.report.json.", hidden=True, rich_help_panel=FILE_PANEL),
    ] = None,
    html: Annotated[
        bool, typer.Option("--html", help="Write OUTPUT.report.html, too.", rich_help_panel=FILE_PANEL)
    ] = False,
    allow_unknown: AllowUnknown = False,
    overwrite: Overwrite = False,
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="Say what would be done, and how long it takes.", rich_help_panel=RUN_PANEL),
    ] = False,
    quiet: Quiet = False,
    config: ConfigOption = None,
    help_all: HelpAllOption = False,
) -> None:
    """Obscure every head of videos, pictures or folders of pictures, and embed what authorised models read."""
    from drsf_cli.batch import plan_batch
    from drsf_cli.plan import check

    if on_no_face not in ("refuse", "solid", "copy"):
        raise UsageError(f"--on-no-face {on_no_face} is unknown; it takes refuse, solid or copy.")
    settings = DeidSettings(
        victims=VictimNames().replaced(detector, aligner, gaze),
        attack=attack,
        attack_options=tuple(attack_opt or ()),
        mask=mask,
        eps=eps,
        max_iter=max_iter,
        warm_iter=warm_iter,
        robust=robust,
        segment=segment,
        refine=refine,
        batch_size=batch_size,
        codec=codec,
        crf=crf,
        head_qp=head_qp,
        keep_audio=keep_audio,
        start=start,
        end=end,
        camera=camera,
        device=known_device(device),
        threads=threads,
        allow_unknown_weights=allow_unknown,
        max_gap=max_gap,
        on_no_face=on_no_face,  # type: ignore[arg-type]
        regions=tuple(region or ()),
        cover_detectors=tuple(cover_detector or ()),
        embed=embed,
        keep_failed=keep_failed,
        max_error=max_error,
        overwrite=overwrite,
        html=html,
        repel=DeidSettings.repel if repel is None else tuple(repel),
        audit=audit,
    )
    plan = check(settings)
    for line in plan.warnings:
        err.print(f"[yellow]warning:[/] {escape(line)}")
    share = None if shard is None else parse_shard(shard, os.environ)
    batch = plan_batch(inputs or [], settings, output=output, manifest=manifest, report=report, shard=share)
    if dry_run:
        _forecast(batch, resume, quiet)
        return
    chosen = _engine(engine, address, workers)
    if batch.several or engine != "local":
        _deid_many(batch, chosen, resume, share, quiet)
    else:
        _deid_one(batch.jobs[0], resume, quiet)


def _forecast(batch: Batch, resume: bool, quiet: bool) -> None:
    from drsf_cli import tables
    from drsf_cli.dry_run import dry_run_of
    from drsf_cli.models import Models
    from drsf_cli.resume import finished

    models: dict[VictimNames, Models] = {}
    failures: list[Path] = []
    for job in batch.jobs:
        if resume and finished(job) is not None:
            out.print(f"{job.output} is finished already.", soft_wrap=True)
            continue
        s = job.settings
        if s.victims not in models:
            models[s.victims] = Models.load(s.victims, s.device, s.allow_unknown_weights, s.threads)
        try:
            with bars(quiet) as progress:
                forecast = dry_run_of(job, models[s.victims], folder_is_made=batch.several, progress=progress)
        except DrsfError as error:
            if not batch.several:
                raise
            _print_error(error)
            failures.append(job.source)
        else:
            out.print(tables.forecast(forecast))
    if failures:
        raise BatchError(f"{len(failures)} of {len(batch.jobs)} inputs would fail, the first is {failures[0]}.")


def _deid_one(job: Job, resume: bool, quiet: bool) -> None:
    from drsf_cli import tables
    from drsf_cli.models import Models
    from drsf_cli.pipeline import deidentify
    from drsf_cli.resume import clear_leftovers, finished, restore_page

    if resume:
        if (document := finished(job)) is not None:
            restore_page(job, document)
            out.print(f"{job.output} is finished already.", soft_wrap=True)
            return
        clear_leftovers(job)
    settings = job.settings
    models = Models.load(settings.victims, settings.device, settings.allow_unknown_weights, settings.threads)
    with bars(quiet) as progress:
        document = deidentify(job.source, job.output, settings, models=models, report=job.report, progress=progress)
    if not quiet:
        out.print(tables.fidelity(document))
        out.print(tables.cost(document))
        out.print(tables.audit(document))
        if document["leakage"] is not None:
            out.print(tables.leakage(document["leakage"]))
        written = [job.output, job.report, *([page_path(job.output)] if settings.html else [])]
        out.print(f"Wrote {', '.join(map(str, written))}.", soft_wrap=True)


def _deid_many(batch: Batch, engine: Engine, resume: bool, shard: Shard | None, quiet: bool) -> None:
    from drsf_cli import tables
    from drsf_cli.batch import run_batch

    with shown(quiet) as board:
        watch = FileBars(board, len(batch.jobs), quiet)
        results = run_batch(batch.jobs, engine, watch, resume=resume, shard=shard, summary=batch.summary)
    if not quiet:
        out.print(tables.batch(results))
        if batch.summary is None:
            out.print("Wrote each output beside its input, and no summary: that takes a folder, -o DIR.")
        else:
            out.print(f"Wrote {batch.summary}.", soft_wrap=True)
    failures = [result for result in results if result.state == "failed"]
    if failures:
        raise BatchError(f"{len(failures)} of {len(results)} inputs failed, the first is {failures[0].job.source}.")


def _engine(name: str, address: str | None, workers: int | None) -> Engine:
    if name == "local":
        if workers is not None or address is not None:
            raise UsageError("--workers and --address are for --engine ray; give that too.")
        from drsf_cli.batch import Local

        return Local()
    if name != "ray":
        raise UsageError(f"--engine {name} is unknown; it takes local or ray.")
    from drsf_cli.cluster import RayEngine

    return RayEngine(address, workers)


@app.command(epilog=examples("infer drive.mp4 -o drive.json", "infer drive.mp4 -o drive.json -z eth-xgaze"))
def infer(
    source: Annotated[Path, typer.Argument(metavar="INPUT", help="A video, a picture or a folder of pictures.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="JSON file.", rich_help_panel=FILE_PANEL)],
    detector: Detector = "mtcnn",
    aligner: AlignerOption = "fan-compact",
    gaze: Gaze = "gaze-compact",
    backend: Annotated[str, typer.Option("--backend", help="onnx or torch.", rich_help_panel=RUN_PANEL)] = "onnx",
    camera: CameraOption = None,
    start: Start = None,
    end: End = None,
    batch_size: BatchSize = 8,
    device: DeviceOption = "auto",
    allow_unknown: AllowUnknown = False,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
    config: ConfigOption = None,
    help_all: HelpAllOption = False,
) -> None:
    """Read box, landmarks, head pose and gaze from a video into JSON."""
    from drsf_cli import tables
    from drsf_cli.models import Models
    from drsf_cli.reading import infer as infer_video
    from drsf_cli.records import write_observations

    if backend not in ("onnx", "torch"):
        raise UsageError(f"--backend {backend} is unknown; it takes onnx or torch.")
    _refuse_existing(output, overwrite)
    models = Models.load(VictimNames().replaced(detector, aligner, gaze), known_device(device), allow_unknown)
    with bars(quiet) as progress:
        observations = infer_video(
            source,
            models,
            backend=backend,
            camera=camera,
            start=start,
            end=end,
            batch_size=batch_size,
            progress=progress,
        )
    write_observations(output, observations)
    if not quiet:
        seen = sum(bool(observation.faces) for observation in observations)
        ran = f"ONNX Runtime on {tables.provider_names(models.providers())}" if backend == "onnx" else "torch"
        out.print(f"{seen} of {len(observations)} frames have a face ({ran}). Wrote {output}.", soft_wrap=True)


@app.command(
    name="eval",
    epilog=examples("eval original.json deid.json --plot errors.png", "eval originals deids --json summary.json"),
)
def evaluate(
    gt: Annotated[Path, typer.Argument(metavar="GT", help="JSON of the original, or a folder of them.")],
    pred: Annotated[Path, typer.Argument(metavar="PRED", help="JSON of the other, or a folder of them.")],
    json_file: Annotated[
        Path | None, typer.Option("--json", help="Write all figures as JSON.", rich_help_panel=FILE_PANEL)
    ] = None,
    csv_file: Annotated[
        Path | None, typer.Option("--csv", help="Write per-frame errors as CSV.", rich_help_panel=FILE_PANEL)
    ] = None,
    plot: Annotated[
        Path | None, typer.Option("--plot", help="Draw the error curves: PNG, or a folder.", rich_help_panel=FILE_PANEL)
    ] = None,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
    config: ConfigOption = None,
) -> None:
    """Compare two readings of one clip, or folders of them paired by name."""
    from drsf_cli import tables
    from drsf_cli.evaluation import (
        FolderEvaluation,
        evaluate_files,
        evaluate_folders,
        evaluation_to_dict,
        plot_paths,
        write_csv,
        write_plots,
    )

    for path in (json_file, csv_file):
        if path is not None:
            _refuse_existing(path, overwrite)
    result = (evaluate_folders if gt.is_dir() or pred.is_dir() else evaluate_files)(gt, pred)
    for path in () if plot is None else plot_paths(result, plot):
        if path.exists() and not overwrite:
            raise OutputError(f"{path} exists already; give --overwrite or another --plot.")
    if not quiet:
        out.print(tables.evaluation(result))
        if isinstance(result, FolderEvaluation):
            out.print(tables.files(result))
    if json_file is not None:
        write_atomically(json_file, json.dumps(evaluation_to_dict(result), indent=1) + "\n")
    if csv_file is not None:
        write_csv(csv_file, result)
    if plot is not None:
        write_plots(result, plot)


@app.command(epilog=examples("demo demo"))
def demo(
    folder: Annotated[Path, typer.Argument(metavar="[DIR]", help="Where the files go.")] = Path("drsf-demo"),
    seconds: Annotated[float, typer.Option("--seconds", help="Length of the clip.", rich_help_panel=FILE_PANEL)] = 2.0,
    device: DeviceOption = "auto",
    overwrite: Overwrite = False,
    quiet: Quiet = False,
    config: ConfigOption = None,
) -> None:
    """Make a clip from a public-domain portrait, then deid, infer and eval it."""
    from drsf_cli import tables
    from drsf_cli.demo_clip import make_demo_clip
    from drsf_cli.evaluation import evaluate_files
    from drsf_cli.models import Models
    from drsf_cli.pipeline import deidentify
    from drsf_cli.reading import infer as infer_video
    from drsf_cli.records import write_observations

    folder.mkdir(parents=True, exist_ok=True)
    original, hidden = folder / "driver.mp4", folder / "driver_deid.mp4"
    make_demo_clip(original, seconds=seconds, overwrite=overwrite)
    settings = DeidSettings(device=known_device(device), overwrite=overwrite)
    models = Models.load(settings.victims, settings.device)
    with bars(quiet) as progress:
        document = deidentify(original, hidden, settings, models=models, progress=progress)
        readings = []
        for clip in (original, hidden):
            target = clip.with_suffix(".json")
            _refuse_existing(target, overwrite)
            write_observations(target, infer_video(clip, models, progress=progress))
            readings.append(target)
    result = evaluate_files(*readings)
    if not quiet:
        out.print(tables.fidelity(document))
        out.print(tables.cost(document))
        out.print(tables.evaluation(result))
        for path in (original, hidden, report_path(hidden), *readings):
            out.print(str(path), soft_wrap=True)


@app.command(epilog=examples("export -d retinaface -z mpiigaze -o onnx"))
def export(
    output: Annotated[
        Path, typer.Option("-o", "--output", help="Folder of the ONNX files.", rich_help_panel=FILE_PANEL)
    ],
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
    from drsf_cli import tables
    from drsf_cli.export_victims import export_victims

    with bars(quiet) as progress:
        rows, left_out = export_victims(
            output,
            {"detector": detector, "aligner": aligner, "gaze": gaze},
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


@app.command(epilog=examples("viz drive.mp4 -o seen.mp4", "viz drive_deid.mp4 -o panels.mp4 --compare drive.mp4"))
def viz(
    source: Annotated[Path, typer.Argument(metavar="INPUT", help="A video, a picture or a folder of pictures.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="Video or picture.", rich_help_panel=FILE_PANEL)],
    json_file: Annotated[
        Path | None, typer.Option("--json", help="Draw this reading of INPUT.", rich_help_panel=VICTIM_PANEL)
    ] = None,
    compare: Annotated[
        Path | None,
        typer.Option(
            "--compare", help="The original: original, obscured, and INPUT side by side.", rich_help_panel=FILE_PANEL
        ),
    ] = None,
    mask: Annotated[
        str | None,
        typer.Option(
            "-m", "--mask", help="Of the panel in the middle; else as in INPUT's report.", rich_help_panel=FILE_PANEL
        ),
    ] = None,
    detector: ShownDetector = None,
    aligner: ShownAligner = None,
    gaze: ShownGaze = None,
    camera: CameraOption = None,
    device: DeviceOption = "auto",
    allow_unknown: AllowUnknown = False,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
    config: ConfigOption = None,
    help_all: HelpAllOption = False,
) -> None:
    """Draw box, landmarks, head pose and gaze on a video."""
    from drsf_cli.models import Models
    from drsf_cli.panels import compare as compare_clips
    from drsf_cli.panels import settings_of, single
    from drsf_cli.reading import infer as infer_video
    from drsf_cli.records import read_observations

    if compare is not None and json_file is not None:
        raise UsageError("--compare reads all its panels itself; leave --json out.")
    if mask is not None and compare is None:
        raise UsageError("--mask is for the panel in the middle; give --compare as well.")
    known = VictimNames() if compare is None else settings_of(source, mask).victims
    names = known.replaced(detector, aligner, gaze)
    with bars(quiet) as progress:
        if json_file is not None:
            seen = read_observations(json_file)
            single(source, output, seen, camera=camera, overwrite=overwrite, progress=progress)
        else:
            models = Models.load(names, known_device(device), allow_unknown)
            if compare is None:
                seen = infer_video(source, models, camera=camera, progress=progress)
                single(source, output, seen, camera=camera, overwrite=overwrite, progress=progress)
            else:
                compare_clips(
                    compare, source, output, models, mask=mask, camera=camera, overwrite=overwrite, progress=progress
                )
    if not quiet:
        out.print(f"Wrote {output}.", soft_wrap=True)


@app.command(epilog=examples("report drive_deid.mp4.report.json -o report.html"))
def report(
    reports: Annotated[list[Path], typer.Argument(metavar="REPORT...", help="Reports that `drsf deid` wrote.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="HTML file.", rich_help_panel=FILE_PANEL)],
    include_original: Annotated[
        bool,
        typer.Option(
            "--include-original", help="Put frames of the original into the page.", rich_help_panel=FILE_PANEL
        ),
    ] = False,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
    config: ConfigOption = None,
) -> None:
    """Make one self-contained HTML page of reports."""
    from drsf_cli.report import write_html

    with bars(quiet) as progress:
        write_html(reports, output, include_original=include_original, overwrite=overwrite, progress=progress)
    if not quiet:
        out.print(f"Wrote {output}.", soft_wrap=True)


@app.command(epilog=examples("doctor && drsf deid drive.mp4"))
def doctor() -> int:
    """Say which providers, codecs, victims and weights are usable, and why not.

    Exits with 1 if the defaults are not.
    """
    from drsf_cli import tables
    from drsf_cli.doctor import examine, healthy

    checks = examine()
    out.print(tables.checks(checks))
    return 0 if healthy(checks) else 1


@app.callback(invoke_without_command=False)
def _root(
    version: Annotated[bool, typer.Option("--version", help="Show the version.", is_eager=True)] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
) -> None:
    if version:
        out.print(versions()["drsf"])
        raise typer.Exit
    if debug:
        os.environ["DRSF_DEBUG"] = "1"


def _refuse_existing(path: Path, overwrite: bool) -> None:
    if path.exists() and not overwrite:
        raise OutputError(f"{path} exists already; give --overwrite or another name.")
    if not path.parent.is_dir():
        raise OutputError(f"{path.parent} is not a folder; make it first.")


def _print_error(error: DrsfError | str) -> None:
    err.print(f"[red]error:[/] {escape(str(error))}", soft_wrap=True)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code, which the console script exits with."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    if threading.current_thread() is threading.main_thread():
        # what a job scheduler sends ends a run as Ctrl-C does: with nothing left behind
        signal.signal(signal.SIGTERM, signal.default_int_handler)
    if arguments == ["--version"]:
        out.print(versions()["drsf"])
        return 0
    try:
        code = app(args=arguments, prog_name="drsf", standalone_mode=False)
    except DrsfError as error:
        if os.environ.get("DRSF_DEBUG"):
            raise
        _print_error(error)
        return error.exit_code
    except typer.TyperException as error:  # a flag, a value or a command that it does not know
        if not error.format_message():  # the help has been printed
            return error.exit_code
        context = getattr(error, "ctx", None)
        command = "drsf" if context is None else context.command_path
        _print_error(f"{error.format_message().rstrip('.')}; see {command} --help.")
        return error.exit_code
    except (KeyboardInterrupt, typer.Abort):
        code = STOPPED
    except Exception as error:
        if os.environ.get("DRSF_DEBUG"):
            raise
        _print_error(f"{type(error).__name__}: {error} (a fault in drsf; drsf --debug shows where).")
        return DrsfError.exit_code
    if code == STOPPED:
        err.print("[red]stopped[/]: nothing was left behind")
    return code if isinstance(code, int) else 0
