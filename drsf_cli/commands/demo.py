"""`drsf demo`: the command."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from drsf_cli.commands import options
from drsf_cli.commands.bars import bars
from drsf_cli.commands.options import examples, file_flag, known_device, one_thread_each
from drsf_cli.commands.output import out
from drsf_cli.media.files import check_place, report_path
from drsf_cli.settings import DeidSettings

EPILOG = examples("demo demo")


def demo(
    folder: Annotated[Path, typer.Argument(metavar="[DIR]", help="Where the files go; it is made if needed.")] = Path(
        "drsf-demo"
    ),
    seconds: Annotated[float, file_flag("--seconds", "Length of the clip.")] = 2.0,
    device: options.DeviceName = "auto",
    overwrite: options.Overwrite = False,
    quiet: options.Quiet = False,
    config: options.Config = None,
) -> None:
    """Make a clip from a public-domain portrait, then deid, infer and eval it."""
    from drsf_cli.commands import tables
    from drsf_cli.deid.pipeline import deidentify
    from drsf_cli.measure.evaluation import evaluate_files
    from drsf_cli.measure.records import write_observations
    from drsf_cli.media.demo_clip import make_demo_clip
    from drsf_cli.readers.infer import infer as infer_video
    from drsf_cli.readers.models import Models

    folder.mkdir(parents=True, exist_ok=True)
    original, hidden = folder / "driver.mp4", folder / "driver_deid.mp4"
    make_demo_clip(original, seconds=seconds, overwrite=overwrite)
    settings = DeidSettings(device=known_device(device), overwrite=overwrite)
    one_thread_each()
    models = Models.of(settings)
    with bars(quiet) as progress:
        document = deidentify(original, hidden, settings, models=models, progress=progress)
        readings = []
        for clip in (original, hidden):
            target = clip.with_suffix(".json")
            check_place(target, overwrite)
            write_observations(target, infer_video(clip, models, progress=progress))
            readings.append(target)
    result = evaluate_files(readings[0], readings[1])
    if not quiet:
        out.print(tables.fidelity(document))
        out.print(tables.cost(document))
        out.print(tables.evaluation(result))
        for path in (original, hidden, report_path(hidden), *readings):
            out.print(str(path), soft_wrap=True)
