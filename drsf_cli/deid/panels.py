"""`drsf viz`: one clip with what is read from it, or the classic three panels."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from attacks.obscure import obscure
from drsf_cli.deid.audit import planned_again
from drsf_cli.deid.known_run import KnownRun, read_run
from drsf_cli.media.reader import Frame, open_source
from drsf_cli.progress import Progress, Silent
from drsf_cli.readers.infer import infer
from drsf_cli.readers.models import Models
from drsf_cli.readers.rotation import turned
from drsf_cli.report.drawing import Panel, visualize
from drsf_cli.settings import DeidSettings
from victims.base import Image
from victims.camera import Camera
from victims.face import FrameObservation
from weights.errors import InputError


def single(
    source: Path,
    output: Path,
    observations: Sequence[FrameObservation],
    *,
    camera: Path | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> None:
    """Draw `observations` on the frames of `source`."""
    visualize([Panel(source.name, source, observations)], output, camera=camera, overwrite=overwrite, progress=progress)


def compare(
    original: str | Path,
    written: str | Path,
    output: str | Path,
    models: Models,
    *,
    mask: str | None = None,
    camera: str | Path | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> None:
    """Original, obscured only, and obscured + attacked (`written`), side by side, each with what is read from it.

    The one in the middle is made again from the original as the report beside `written` says, or, where there is
    none, with `mask` (by default the tool's own); it is never written by itself. Size, rate and times are those of
    `written`. `camera` is an OpenCV calibration file. Raises InputError for clips that do not belong together,
    OutputError, UsageError.
    """
    original, written = Path(original), Path(written)
    progress = progress or Silent()
    run = run_of(original, written, mask)
    settings = run.settings
    reader = turned(open_source(original, settings), settings.rotate, models.reader("onnx").detector)
    intrinsics = None if camera is None else Camera.load(camera, reader.info.width, reader.info.height)
    observer = models.reader("onnx", intrinsics)
    regions = run.regions
    if regions is None:
        regions = planned_again(reader, settings, models, observer, progress)

    def covered() -> Iterator[tuple[Frame, Image]]:
        for frame, own in itertools.zip_longest(reader, regions):
            if frame is None or own is None:
                raise InputError(f"{original} is not what {written} was made of; name the right original.")
            yield frame, obscure(frame.image, own, settings.obscuring)

    progress.begin("Reading what is obscured", len(regions))
    hidden: list[FrameObservation] = []
    for frame, image in covered():
        (faces,) = observer.read_faces([image], observer.detector.detect([image]))
        hidden.append(FrameObservation(frame.index, frame.pts, faces))
        progress.advance()
    panels = [
        Panel(
            "original",
            reader,
            infer(reader, models, camera=camera, progress=progress),
        ),
        Panel("obscured", (image for _, image in covered()), hidden),
        Panel("obscured + attacked", written, infer(written, models, camera=camera, progress=progress)),
    ]
    visualize(panels, output, camera=camera, overwrite=overwrite, progress=progress)


def run_of(original: Path, written: Path, mask: str | None) -> KnownRun:
    """How `written` was covered and is read, from the report beside it; the defaults where there is none.

    With another `mask` the covering is planned anew. Raises InputError.
    """
    run = read_run(original, written) or KnownRun(DeidSettings())
    other = mask is not None and mask != run.settings.mask
    settings = replace(run.settings, mask=mask or run.settings.mask, on_no_face="solid")
    return replace(run, settings=settings, regions=None if other else run.regions)
