"""`drsf viz`: one clip with what is read from it, or the classic three panels."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from attacks.obscure import Region, obscure, parse_obscuring
from drsf_cli.deid.survey import plan_cover, survey_video
from drsf_cli.media.files import report_path
from drsf_cli.media.reader import VideoReader
from drsf_cli.progress import Progress, Silent
from drsf_cli.readers.infer import infer
from drsf_cli.readers.models import Models
from drsf_cli.report.drawing import Panel, visualize
from drsf_cli.report.schema import read_report
from drsf_cli.settings import DeidSettings, VictimNames
from victims.base import Image
from victims.camera import Camera
from victims.face import FrameObservation


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
    obscuring = parse_obscuring(settings.mask)
    reader = VideoReader(original, settings.start, settings.end)
    intrinsics = None if camera is None else Camera.load(camera, reader.info.width, reader.info.height)
    observer = models.reader("onnx", intrinsics)
    progress.begin("Planning what to obscure", reader.info.frame_count)
    companions = models.covering(settings.cover_detectors, allow_unknown=True)
    survey = survey_video(reader, observer, progress=progress, companions=companions)
    regions = plan_cover(survey, reader, settings, obscuring)

    def covered() -> Iterator[tuple[Image, tuple[Region, ...]]]:
        for frame, own in zip(reader, regions, strict=True):
            yield obscure(frame.image, own, obscuring), own

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
            infer(original, models, camera=camera, start=settings.start, end=settings.end, progress=progress),
        ),
        Panel("obscured", (image for image, _ in covered()), hidden),
        Panel("obscured + attacked", written, infer(written, models, camera=camera, progress=progress)),
    ]
    visualize(panels, output, camera=camera, overwrite=overwrite, progress=progress)


def settings_of(written: Path, mask: str | None) -> DeidSettings:
    """What decides how `written` was covered and is read, from the report beside it; the defaults where that says
    nothing."""
    path = report_path(written)
    said: Mapping[str, Any] = read_report(path)["settings"] if path.is_file() else {}
    defaults = DeidSettings()
    return DeidSettings(
        victims=VictimNames(**said["victims"]) if "victims" in said else defaults.victims,
        mask=mask or said.get("mask", defaults.mask),
        start=said.get("start"),
        end=said.get("end"),
        max_gap=said.get("max_gap", defaults.max_gap),
        regions=tuple(said.get("regions", ())),
        cover_detectors=tuple(said.get("cover_detectors", ())),
        on_no_face="solid",
    )
