"""`drsf infer`: the command."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from drsf_cli.commands.bars import bars
from drsf_cli.commands.config import RUN_PANEL, ConfigOption, HelpAllOption
from drsf_cli.commands.output import out, refuse_existing
from drsf_cli.commands.shared_options import (
    FILE_PANEL,
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
    Start,
    examples,
    known_device,
)
from drsf_cli.settings import VictimNames
from weights.errors import UsageError

EPILOG = examples("infer drive.mp4 -o drive.json", "infer drive.mp4 -o drive.json -z eth-xgaze")


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
    from drsf_cli.commands import tables
    from drsf_cli.measure.records import write_observations
    from drsf_cli.readers.infer import infer as infer_video
    from drsf_cli.readers.models import Models

    if backend not in ("onnx", "torch"):
        raise UsageError(f"--backend {backend} is unknown; it takes onnx or torch.")
    refuse_existing(output, overwrite)
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
