"""`drsf viz`: the command."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from drsf_cli.commands.bars import bars
from drsf_cli.commands.config import ConfigOption, HelpAllOption
from drsf_cli.commands.output import out
from drsf_cli.commands.shared_options import (
    FILE_PANEL,
    VICTIM_PANEL,
    AllowUnknown,
    CameraOption,
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
from drsf_cli.settings import VictimNames
from weights.errors import UsageError

EPILOG = examples("viz drive.mp4 -o seen.mp4", "viz drive_deid.mp4 -o panels.mp4 --compare drive.mp4")


def viz(
    source: Annotated[Path, typer.Argument(metavar="INPUT", help="A video, a picture or a folder of pictures.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="Video or picture.", rich_help_panel=FILE_PANEL)],
    json_file: Annotated[
        Path | None, typer.Option("--json", help="Draw this reading of INPUT.", rich_help_panel=VICTIM_PANEL)
    ] = None,
    compare: Annotated[
        Path | None,
        typer.Option(
            "--compare",
            help="The original video: draw it, an obscured version and INPUT side by side.",
            rich_help_panel=FILE_PANEL,
        ),
    ] = None,
    mask: Annotated[
        str | None,
        typer.Option(
            "-m",
            "--mask",
            help="How the middle panel is obscured; default: as INPUT's report says.",
            rich_help_panel=FILE_PANEL,
        ),
    ] = None,
    chain: ShownChain = None,
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
    from drsf_cli.deid.panels import compare as compare_clips
    from drsf_cli.deid.panels import run_of, single
    from drsf_cli.measure.records import read_observations
    from drsf_cli.readers.infer import infer as infer_video
    from drsf_cli.readers.models import Models

    if compare is not None and json_file is not None:
        raise UsageError("--compare reads all its panels itself; leave --json out.")
    if mask is not None and compare is None:
        raise UsageError("--mask is for the panel in the middle; give --compare as well.")
    known = VictimNames() if compare is None else run_of(compare, source, mask).settings.victims
    names = known.replaced(detector, aligner, gaze, chain)
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
