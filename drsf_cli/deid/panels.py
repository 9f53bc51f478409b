"""`drsf viz`: one clip with what is read from it, or the classic three panels."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from attacks.obscure import Region, obscure
from drsf_cli.deid.survey import plan_cover, survey_video
from drsf_cli.media.files import report_path
from drsf_cli.media.reader import open_source
from drsf_cli.progress import Progress, Silent
from drsf_cli.readers.infer import infer
from drsf_cli.readers.models import Models
from drsf_cli.readers.rotation import turned
from drsf_cli.report.drawing import Panel, visualize
from drsf_cli.report.schema import read_report
from drsf_cli.settings import DeidSettings, settings_from_dict
from victims.base import Image
from victims.camera import Camera
from victims.face import FrameObservation
from weights.errors import InputError, UsageError

_DECIDING = ("victims", "mask", "start", "end", "max_gap", "regions", "cover_detectors")
"""Settings that decide how a clip is covered and read."""


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
    settings = settings_of(written, mask)
    reader = turned(open_source(original, settings), settings.rotate, models.reader("onnx").detector)
    intrinsics = None if camera is None else Camera.load(camera, reader.info.width, reader.info.height)
    observer = models.reader("onnx", intrinsics)
    progress.begin("Planning what to obscure", reader.info.frame_count)
    companions = models.covering(settings.cover_detectors, allow_unknown=True)
    survey = survey_video(reader, observer, progress=progress, companions=companions, min_face=settings.min_face)
    regions = plan_cover(survey, reader, settings)

    def covered() -> Iterator[tuple[Image, tuple[Region, ...]]]:
        for frame, own in zip(reader, regions, strict=True):
            yield obscure(frame.image, own, settings.obscuring), own

    progress.begin("Reading what is obscured", len(regions))
    hidden: list[FrameObservation] = []
    for frame, (image, _) in zip(reader, covered(), strict=True):
        (faces,) = observer.read_faces([image], observer.detector.detect([image]))
        hidden.append(FrameObservation(frame.index, frame.pts, faces))
        progress.advance()
    panels = [
        Panel(
            "original",
            reader,
            infer(reader, models, camera=camera, progress=progress),
        ),
        Panel("obscured", (image for image, _ in covered()), hidden),
        Panel("obscured + attacked", written, infer(written, models, camera=camera, progress=progress)),
    ]
    visualize(panels, output, camera=camera, overwrite=overwrite, progress=progress)


def settings_of(written: Path, mask: str | None) -> DeidSettings:
    """What decides how `written` was covered and is read, from the report beside it.

    The defaults where that says nothing.
    """
    path = report_path(written)
    report: Mapping[str, Any] = read_report(path) if path.is_file() else {}
    said: Mapping[str, Any] = report.get("settings", {})
    turn = {"rotate": str(report["input"].get("rotate", 0))} if report else {}
    try:
        settings = settings_from_dict({name: said[name] for name in _DECIDING if name in said} | turn)
    except UsageError as error:
        raise InputError(f"{path} is not a report that `drsf deid` wrote ({error}); write it again.") from error
    return replace(settings, mask=mask or settings.mask, on_no_face="solid")
