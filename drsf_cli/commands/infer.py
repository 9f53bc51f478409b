"""`drsf infer`: the command."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from drsf_cli.commands import options
from drsf_cli.commands.bars import bars
from drsf_cli.commands.options import examples, file_flag, known_device, run_flag, schema_option
from drsf_cli.commands.output import out
from drsf_cli.media.files import check_place
from drsf_cli.settings import DeidSettings, VictimNames
from weights.errors import UsageError

EPILOG = examples("infer drive.mp4 -o drive.json", "infer drive.mp4 -o drive.json --chain mediapipe --mesh")


def infer(
    source: Annotated[Path, typer.Argument(metavar="INPUT", help="A video, a picture or a folder of pictures.")],
    output: Annotated[Path, file_flag("-o", "--output", "JSON file.")],
    chain: options.Chain = "default",
    detector: options.Detector = None,
    aligner: options.Aligner = None,
    gaze: options.Gaze = None,
    mesh: Annotated[bool, file_flag("--mesh", "Also write all 478 points that facemesh reads.")] = False,
    backend: Annotated[str, run_flag("--backend", "What runs the networks: onnx or torch.")] = "onnx",
    camera: options.Camera = None,
    start: options.Start = None,
    end: options.End = None,
    fps: options.Fps = None,
    rotate: options.Rotate = DeidSettings.rotate,
    batch_size: Annotated[int, run_flag("-bs", "--batch-size", "Frames processed together.", rare=True)] = 8,
    device: options.DeviceName = "auto",
    allow_unknown: options.AllowUnknown = False,
    overwrite: options.Overwrite = False,
    quiet: options.Quiet = False,
    config: options.Config = None,
    schema: Annotated[bool, schema_option("drsf_cli.measure.records", "READING")] = False,
    help_all: options.HelpAll = False,
) -> None:
    """Read box, landmarks, head pose and gaze from a video into JSON."""
    from drsf_cli.commands import tables
    from drsf_cli.measure.records import write_observations
    from drsf_cli.media.reader import VideoReader
    from drsf_cli.readers.infer import infer as infer_video
    from drsf_cli.readers.models import Models
    from victims.mediapipe.facemesh import FaceMesh

    if backend not in ("onnx", "torch"):
        raise UsageError(f"--backend {backend} is unknown; it takes onnx or torch.")
    check_place(output, overwrite)
    models = Models.load(VictimNames().replaced(detector, aligner, gaze, chain), known_device(device), allow_unknown)
    if mesh and not isinstance(models.torch_chain.aligner, FaceMesh):
        raise UsageError("--mesh needs an aligner that reads one; use -a facemesh.")
    with bars(quiet) as progress:
        observations = infer_video(
            VideoReader(source, start, end, fps=fps),
            models,
            backend=backend,
            camera=camera,
            rotate=rotate,
            batch_size=batch_size,
            progress=progress,
        )
    write_observations(output, observations, mesh)
    if not quiet:
        seen = sum(bool(observation.faces) for observation in observations)
        ran = f"ONNX Runtime on {tables.provider_names(models.providers())}" if backend == "onnx" else "torch"
        out.print(f"{seen} of {len(observations)} frames have a face ({ran}). Wrote {output}.", soft_wrap=True)
