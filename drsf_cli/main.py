"""The command line: parses, calls, prints, exits. Logic raises its own errors; here each becomes one line and an exit
code (weights/errors.py has the table)."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import click
import typer
from rich.console import Console
from rich.markup import escape

from drsf_cli import audit_command, tables
from drsf_cli.bars import bars
from drsf_cli.deidentify import DeidSettings, check, deidentify, report_path
from drsf_cli.evaluate import evaluate_files, evaluate_folders, evaluation_to_dict, plot_errors, write_csv
from drsf_cli.infer import infer as infer_video
from drsf_cli.models import Models, VictimNames
from drsf_cli.outputs import plan_outputs
from drsf_cli.records import read_observations, write_observations
from drsf_cli.versions import versions
from drsf_cli.weights_command import app as weights_app
from weights.errors import BatchError, DrsfError, InputError, UsageError
from weights.files import write_atomically

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

VICTIM_PANEL, ATTACK_PANEL, COVER_PANEL, FILE_PANEL, RUN_PANEL = (
    "Victims",
    "Attack",
    "Covering",
    "Input and output",
    "Running",
)

Detector = Annotated[
    str,
    typer.Option(
        "-d",
        "--detector",
        help="mtcnn, retinaface, retinaface-resnet50; NAME@FILE for own weights.",
        rich_help_panel=VICTIM_PANEL,
    ),
]
AlignerOption = Annotated[str, typer.Option("-a", "--aligner", help="fan-compact, fan.", rich_help_panel=VICTIM_PANEL)]
Gaze = Annotated[
    str,
    typer.Option("-z", "--gaze", help="gaze-compact, mpiigaze, mpiifacegaze, eth-xgaze.", rich_help_panel=VICTIM_PANEL),
]
AllowUnknown = Annotated[
    bool,
    typer.Option(
        "--allow-unknown-weights",
        help="Take weight files that the catalogue does not know.",
        rich_help_panel=VICTIM_PANEL,
    ),
]
DeviceOption = Annotated[str, typer.Option("--device", help="auto, cpu or cuda.", rich_help_panel=RUN_PANEL)]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress bars, no tables.", rich_help_panel=RUN_PANEL)]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace existing outputs.", rich_help_panel=FILE_PANEL)]
CameraOption = Annotated[
    Path | None, typer.Option("--camera", help="Intrinsics, an OpenCV YAML file.", rich_help_panel=VICTIM_PANEL)
]
Start = Annotated[float | None, typer.Option("--start", help="First second read.", rich_help_panel=FILE_PANEL)]
End = Annotated[float | None, typer.Option("--end", help="Where reading stops, s.", rich_help_panel=FILE_PANEL)]
BatchSize = Annotated[
    int, typer.Option("-bs", "--batch-size", help="Frames worked on together.", rich_help_panel=RUN_PANEL)
]


def _device(name: str) -> Any:
    if name not in ("auto", "cpu", "cuda"):
        raise UsageError(f"--device {name} is unknown; it takes auto, cpu or cuda.")
    return name


def _names(detector: str, aligner: str, gaze: str) -> VictimNames:
    def optional(name: str) -> str | None:
        return None if name.strip().lower() == "none" else name

    return VictimNames(detector, optional(aligner), optional(gaze))


@app.command(
    epilog="Example: drsf deid drive.mp4 -o drive_deid.mp4 --attack mi-fgsm --mask pixelate_5",
)
def deid(
    inputs: Annotated[list[Path], typer.Argument(metavar="INPUT...", help="Videos, pictures or folders of pictures.")],
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", help="Output file; a folder for several inputs.", rich_help_panel=FILE_PANEL),
    ] = None,
    detector: Detector = "mtcnn",
    aligner: AlignerOption = "fan-compact",
    gaze: Gaze = "gaze-compact",
    attack: Annotated[
        str, typer.Option("-g", "--attack", help="Step rule, or none.", rich_help_panel=ATTACK_PANEL)
    ] = DeidSettings.attack,
    attack_opt: Annotated[
        list[str] | None,
        typer.Option(
            "--attack-opt", metavar="KEY=VALUE", help="A step rule's own parameter.", rich_help_panel=ATTACK_PANEL
        ),
    ] = None,
    mask: Annotated[
        str, typer.Option("-m", "--mask", help="pixelate_N, blur_N or solid.", rich_help_panel=COVER_PANEL)
    ] = DeidSettings.mask,
    eps: Annotated[
        str, typer.Option("--eps", help="Largest change of a pixel.", rich_help_panel=ATTACK_PANEL)
    ] = DeidSettings.eps,
    max_iter: Annotated[
        int | None, typer.Option("--max-iter", help="Steps for the first frame.", rich_help_panel=ATTACK_PANEL)
    ] = None,
    warm_iter: Annotated[
        int, typer.Option("--warm-iter", help="Steps for the others.", rich_help_panel=ATTACK_PANEL)
    ] = DeidSettings.warm_iter,
    refine: Annotated[
        int,
        typer.Option("--refine", help="Rounds for frames short in the file.", rich_help_panel=ATTACK_PANEL),
    ] = DeidSettings.refine,
    max_error: Annotated[
        float | None,
        typer.Option("--max-error", help="Fail over so many tolerances.", rich_help_panel=ATTACK_PANEL),
    ] = None,
    batch_size: BatchSize = DeidSettings.batch_size,
    codec: Annotated[
        str, typer.Option("--codec", help="h264, h264-rgb or ffv1 (lossless).", rich_help_panel=FILE_PANEL)
    ] = DeidSettings.codec,
    crf: Annotated[
        int, typer.Option("--crf", help="H.264 quality, 0 best.", rich_help_panel=FILE_PANEL)
    ] = DeidSettings.crf,
    keep_audio: Annotated[
        bool, typer.Option("--keep-audio", help="Copy the sound: voices identify too.", rich_help_panel=FILE_PANEL)
    ] = False,
    start: Start = None,
    end: End = None,
    camera: CameraOption = None,
    embed: Annotated[
        str, typer.Option("--embed", help="largest, or x,y px of a face.", rich_help_panel=COVER_PANEL)
    ] = DeidSettings.embed,
    region: Annotated[
        list[str] | None,
        typer.Option("--region", metavar="X1,Y1,X2,Y2[@S-E]", help="Cover this too.", rich_help_panel=COVER_PANEL),
    ] = None,
    max_gap: Annotated[
        float, typer.Option("--max-gap", help="Seconds interpolated.", rich_help_panel=COVER_PANEL)
    ] = DeidSettings.max_gap,
    on_no_face: Annotated[
        str,
        typer.Option("--on-no-face", help="refuse, solid or copy.", rich_help_panel=COVER_PANEL),
    ] = "refuse",
    keep_failed: Annotated[
        bool, typer.Option("--keep-failed", help="Keep what failed its audit.", rich_help_panel=COVER_PANEL)
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
    report: Annotated[
        Path | None,
        typer.Option("--report", help="Default: OUTPUT.report.json.", rich_help_panel=FILE_PANEL),
    ] = None,
    allow_unknown: AllowUnknown = False,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
) -> None:
    """Obscure every head of a video and embed what authorised models read."""
    if on_no_face not in ("refuse", "solid", "copy"):
        raise UsageError(f"--on-no-face {on_no_face} is unknown; it takes refuse, solid or copy.")
    settings = DeidSettings(
        victims=_names(detector, aligner, gaze),
        attack=attack,
        attack_options=tuple(attack_opt or ()),
        mask=mask,
        eps=eps,
        max_iter=max_iter,
        warm_iter=warm_iter,
        refine=refine,
        batch_size=batch_size,
        codec=codec,
        crf=crf,
        keep_audio=keep_audio,
        start=start,
        end=end,
        camera=camera,
        device=_device(device),
        allow_unknown_weights=allow_unknown,
        max_gap=max_gap,
        on_no_face=on_no_face,  # type: ignore[arg-type]
        regions=tuple(region or ()),
        embed=embed,
        keep_failed=keep_failed,
        max_error=max_error,
        overwrite=overwrite,
        repel=DeidSettings.repel if repel is None else tuple(repel),
        audit=audit,
    )
    plan = check(settings)
    for line in plan.warnings:
        err.print(f"[yellow]warning:[/] {escape(line)}")
    outputs = plan_outputs(inputs, output, codec)
    if report is not None and len(inputs) > 1:
        raise UsageError("--report names one file, and there are several inputs; leave it out.")
    models = Models.load(settings.victims, settings.device, settings.allow_unknown_weights)
    failures: list[tuple[Path, DrsfError]] = []
    for source, target in zip(inputs, outputs, strict=True):
        try:
            with bars(quiet) as progress:
                document = deidentify(source, target, settings, models=models, report=report, progress=progress)
        except DrsfError as error:
            if len(inputs) == 1:
                raise
            failures.append((source, error))
            _print_error(error)
            continue
        if not quiet:
            out.print(tables.fidelity(document))
            out.print(tables.cost(document))
            out.print(tables.audit(document))
            if document["leakage"] is not None:
                out.print(tables.leakage(document["leakage"]))
            out.print(f"Wrote {target} and {report or report_path(target)}.", soft_wrap=True)
    if failures:
        raise BatchError(f"{len(failures)} of {len(inputs)} inputs failed, the first is {failures[0][0]}.")


@app.command(epilog="Example: drsf infer drive.mp4 -o drive.json")
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
) -> None:
    """Read box, landmarks, head pose and gaze from a video into JSON."""
    if backend not in ("onnx", "torch"):
        raise UsageError(f"--backend {backend} is unknown; it takes onnx or torch.")
    _refuse_existing(output, overwrite)
    models = Models.load(_names(detector, aligner, gaze), _device(device), allow_unknown)
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


@app.command(name="eval", epilog="Example: drsf eval original.json deidentified.json")
def evaluate(
    gt: Annotated[Path, typer.Argument(metavar="GT", help="JSON of the original, or a folder of them.")],
    pred: Annotated[Path, typer.Argument(metavar="PRED", help="JSON of the other, or a folder of them.")],
    json_file: Annotated[Path | None, typer.Option("--json", help="Write all figures as JSON.")] = None,
    csv_file: Annotated[Path | None, typer.Option("--csv", help="Write per-frame errors as CSV.")] = None,
    plot: Annotated[Path | None, typer.Option("--plot", help="Draw the error curves, PNG.")] = None,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
) -> None:
    """Compare two readings of one clip, or folders of them paired by name."""
    for path in (json_file, csv_file, plot):
        if path is not None:
            _refuse_existing(path, overwrite)
    folders = gt.is_dir() or pred.is_dir()
    if folders and plot is not None:
        raise UsageError("--plot draws the curves of one clip; give two files.")
    single = None if folders else evaluate_files(gt, pred)
    result = single if single is not None else evaluate_folders(gt, pred)
    if not quiet:
        out.print(tables.evaluation(result))
    if json_file is not None:
        write_atomically(json_file, json.dumps(evaluation_to_dict(result), indent=1) + "\n")
    if csv_file is not None:
        write_csv(csv_file, result)
    if plot is not None and single is not None:
        plot_errors(single, plot)


@app.command(epilog="Example: drsf demo demo")
def demo(
    folder: Annotated[Path, typer.Argument(metavar="[DIR]", help="Where the files go.")] = Path("drsf-demo"),
    seconds: Annotated[float, typer.Option("--seconds", help="Length of the clip.")] = 2.0,
    device: DeviceOption = "auto",
    overwrite: Overwrite = False,
    quiet: Quiet = False,
) -> None:
    """Make a clip from a public-domain portrait, then deid, infer and eval it."""
    from drsf_cli.demo_clip import make_demo_clip

    folder.mkdir(parents=True, exist_ok=True)
    original, hidden = folder / "driver.mp4", folder / "driver_deid.mp4"
    make_demo_clip(original, seconds=seconds, overwrite=overwrite)
    settings = DeidSettings(device=_device(device), overwrite=overwrite)
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


@app.command(epilog="Example: drsf export -d retinaface -z mpiigaze -o onnx")
def export(
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder of the ONNX files.")],
    detector: Annotated[str | None, typer.Option("-d", "--detector", help="A detector.")] = None,
    aligner: Annotated[str | None, typer.Option("-a", "--aligner", help="An aligner.")] = None,
    gaze: Annotated[str | None, typer.Option("-z", "--gaze", help="A gaze estimator.")] = None,
    everything: Annotated[bool, typer.Option("--all", help="Every victim whose weights are here.")] = False,
    opset: Annotated[int, typer.Option("--opset", help="ONNX opset.")] = 17,
    fp16: Annotated[bool, typer.Option("--fp16", help="Half precision inside.")] = False,
    allow_unknown: AllowUnknown = False,
) -> None:
    """Write victims as ONNX files, run them beside torch, and fail if they differ."""
    from drsf_cli.export_victims import export_victims

    rows, left_out = export_victims(
        output,
        {"detector": detector, "aligner": aligner, "gaze": gaze},
        everything=everything,
        opset=opset,
        fp16=fp16,
        allow_unknown=allow_unknown,
    )
    out.print(tables.parity(rows))
    for reason in left_out:
        err.print(f"[yellow]left out:[/] {escape(reason)}", soft_wrap=True)


@app.command(epilog="Example: drsf viz drive_deid.mp4 -o panels.mp4 --compare drive.mp4")
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
    detector: Detector = "mtcnn",
    aligner: AlignerOption = "fan-compact",
    gaze: Gaze = "gaze-compact",
    camera: CameraOption = None,
    device: DeviceOption = "auto",
    allow_unknown: AllowUnknown = False,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
) -> None:
    """Draw box, landmarks, head pose and gaze on a video."""
    from drsf_cli.panels import comparison, single

    if compare is not None and json_file is not None:
        raise UsageError("--compare reads all its panels itself; leave --json out.")
    names = _names(detector, aligner, gaze)
    with bars(quiet) as progress:
        if json_file is not None:
            single(source, output, read_observations(json_file), camera=camera, overwrite=overwrite)
        else:
            models = Models.load(names, _device(device), allow_unknown)
            if compare is None:
                seen = infer_video(source, models, camera=camera, progress=progress)
                single(source, output, seen, camera=camera, overwrite=overwrite)
            else:
                comparison(compare, source, output, models, camera=camera, overwrite=overwrite, progress=progress)
    if not quiet:
        out.print(f"Wrote {output}.", soft_wrap=True)


@app.command(epilog="Example: drsf report drive_deid.mp4.report.json -o report.html")
def report(
    reports: Annotated[list[Path], typer.Argument(metavar="REPORT...", help="Reports that `drsf deid` wrote.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="HTML file.")],
    include_original: Annotated[
        bool, typer.Option("--include-original", help="Put frames of the original into the page.")
    ] = False,
    overwrite: Overwrite = False,
) -> None:
    """Make one self-contained HTML page of reports."""
    from drsf_cli.report import write_html

    write_html(reports, output, include_original=include_original, overwrite=overwrite)
    out.print(f"Wrote {output}.", soft_wrap=True)


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
        raise UsageError(f"{path} exists already; give --overwrite or another name.")
    if not path.parent.is_dir():
        raise InputError(f"{path.parent} is not a folder; make it first.")


def _print_error(error: DrsfError) -> None:
    err.print(f"[red]error:[/] {escape(str(error))}", soft_wrap=True)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code, which the console script exits with."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
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
    except click.exceptions.Abort:
        err.print("[red]stopped[/]")
        return 130
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except KeyboardInterrupt:
        err.print("[red]stopped[/]: nothing was left behind")
        return 130
    return code if isinstance(code, int) else 0
