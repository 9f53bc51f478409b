"""`drsf viz`: the command."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from drsf_cli.commands import options
from drsf_cli.commands.bars import bars
from drsf_cli.commands.options import examples, file_flag, known_device
from drsf_cli.commands.output import out
from drsf_cli.settings import VictimNames
from weights.errors import UsageError

EPILOG = examples("viz drive.mp4 -o seen.mp4", "viz drive_deid.mp4 -o panels.mp4 --compare drive.mp4")


def viz(
    source: Annotated[Path, typer.Argument(metavar="INPUT", help="A video, a picture or a folder of pictures.")],
    output: Annotated[Path, file_flag("-o", "--output", "Video or picture.")],
    json_file: Annotated[Path | None, file_flag("--json", "Draw this reading of INPUT.")] = None,
    compare: Annotated[
        Path | None, file_flag("--compare", "The original video: draw it, an obscured version and INPUT side by side.")
    ] = None,
    mask: options.Mask = None,
    chain: options.Chain = None,
    detector: options.Detector = None,
    aligner: options.Aligner = None,
    gaze: options.Gaze = None,
    camera: options.Camera = None,
    device: options.DeviceName = "auto",
    allow_unknown: options.AllowUnknown = False,
    overwrite: options.Overwrite = False,
    quiet: options.Quiet = False,
    config: options.Config = None,
    help_all: options.HelpAll = False,
) -> None:
    """Draw box, landmarks, head pose and gaze on a video.

    With --compare the models are those of INPUT's report, unless they are named here.
    """
    from drsf_cli.deid.known_run import run_of
    from drsf_cli.deid.panels import compare as compare_clips
    from drsf_cli.measure.records import read_observations
    from drsf_cli.readers.infer import infer as infer_video
    from drsf_cli.readers.models import Models
    from drsf_cli.report.drawing import Panel, visualize

    if compare is not None and json_file is not None:
        raise UsageError("--compare reads all its panels itself; leave --json out.")
    if mask is not None and compare is None:
        raise UsageError("--mask is for the panel in the middle; give --compare as well.")
    known = VictimNames() if compare is None else run_of(compare, source).settings.victims
    names = known.replaced(detector, aligner, gaze, chain)
    with bars(quiet) as progress:
        how: dict[str, Any] = {"camera": camera, "overwrite": overwrite, "progress": progress}
        if json_file is not None:
            visualize([Panel(source.name, source, read_observations(json_file))], output, **how)
        else:
            models = Models.load(names, known_device(device), allow_unknown)
            if compare is None:
                seen = infer_video(source, models, camera=camera, progress=progress)
                visualize([Panel(source.name, source, seen)], output, **how)
            else:
                compare_clips(compare, source, output, models, mask=mask, **how)
    if not quiet:
        out.print(f"Wrote {output}.", soft_wrap=True)
