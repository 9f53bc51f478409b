"""`drsf viz --compare`: the classic three panels."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from attacks.obscure import obscure
from drsf_cli.deid.known_run import run_of
from drsf_cli.deid.work import Work
from drsf_cli.media.reader import Frame
from drsf_cli.progress import SILENT, Progress, counted
from drsf_cli.readers.infer import infer
from drsf_cli.readers.models import Models
from drsf_cli.report.drawing import Panel, visualize
from weights.errors import InputError


def compare(
    original: str | Path,
    written: str | Path,
    output: str | Path,
    models: Models,
    *,
    mask: str | None = None,
    camera: str | Path | None = None,
    overwrite: bool = False,
    progress: Progress = SILENT,
) -> None:
    """Draw the original, the obscured video and the de-identified one (`written`) side by side, each with its reading.

    The obscured video in the middle is made again from the original, with the regions and the mask in the report beside
    `written`; without a report the heads are searched again, and `mask` (or the default) hides them. It is never
    written by itself. Size, rate and times are those of `written`. `camera` is an OpenCV calibration file. Raises
    InputError for clips that do not belong together, OutputError, UsageError.
    """
    original, written = Path(original), Path(written)
    run = run_of(original, written, mask=mask)
    intrinsics = None if camera is None else Path(camera)
    work = Work.on(original, replace(run.settings, on_no_face="solid", camera=intrinsics), models)
    reader, observer, regions = work.reader, work.observer, run.regions
    if regions is None:
        regions = work.cover(work.survey(progress))

    def covered() -> Iterator[Frame]:
        for frame, own in itertools.zip_longest(reader, regions):
            if frame is None or own is None:
                raise InputError(f"{original} is not what {written} was made of; name the right original.")
            yield replace(frame, image=obscure(frame.image, own, work.settings.obscuring))

    progress.begin("Reading what is obscured", len(regions))
    hidden = list(counted(models.each(lambda frame: observer.observe([frame])[0], covered()), progress))
    panels = [
        Panel("original", reader, infer(reader, models, camera=camera, progress=progress)),
        Panel("obscured", (frame.image for frame in covered()), hidden),
        Panel("obscured + attacked", written, infer(written, models, camera=camera, progress=progress)),
    ]
    visualize(panels, output, camera=camera, overwrite=overwrite, progress=progress)
