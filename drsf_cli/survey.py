"""The first pass: every face of every frame of the original, and what each frame must hide because of them."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from attacks.obscure import Obscuring, Region, plan_regions, whole_frame
from drsf_cli.covering import see_all
from drsf_cli.progress import Progress, Silent, runs
from drsf_cli.segments import in_segments
from drsf_cli.settings import DeidSettings
from drsf_cli.video import VideoReader
from victims.base import Detector
from victims.face import Detections, FrameObservation
from victims.observe import Observer
from victims.track import CoverBox, add_regions, cover_boxes, link, parse_region
from weights.errors import NoFaceError


@dataclass
class Survey:
    """What the first pass found."""

    observations: list[FrameObservation]
    """Of each frame at most one face: the one whose attributes are embedded."""
    seen: list[Detections]
    """Every face of each frame, for covering."""
    times: list[float]

    @classmethod
    def joined(cls, parts: Sequence[Survey]) -> Survey:
        """The survey of a clip from those of its parts, each of which counts its frames from 0."""
        whole = cls([], [], [])
        for part in parts:
            first = len(whole.times)
            whole.observations += [replace(one, index=first + one.index) for one in part.observations]
            whole.seen += part.seen
            whole.times += part.times
        return whole

    @property
    def any_face(self) -> bool:
        return any(len(found) for found in self.seen)


def survey_video(
    reader: VideoReader,
    observer: Observer,
    point: tuple[float, float] | None = None,
    batch_size: int = 8,
    progress: Progress | None = None,
    companions: Sequence[Detector] = (),
    segment: float = DeidSettings.segment,
) -> Survey:
    """See every frame of the original. `point`: embed the face nearest to it instead of the largest. `companions`:
    detectors that cover too. `segment`: seconds after which a batch of frames ends in any case."""
    survey = Survey([], [], [])
    segments = in_segments(reader, segment, reader.info.time_base)
    for frames in itertools.chain.from_iterable(runs(one, batch_size) for one in segments):
        images = [frame.image for frame in frames]
        reported, covering = see_all(observer.detector, companions, images)
        faces = observer.read_faces(images, [_chosen(found, point) for found in reported])
        for frame, own, found in zip(frames, faces, covering, strict=True):
            survey.observations.append(FrameObservation(frame.index, frame.pts, own))
            survey.seen.append(found)
            survey.times.append(frame.pts)
        (progress or Silent()).advance(len(frames))
    return survey


def plan_cover(
    survey: Survey, reader: VideoReader, settings: DeidSettings, obscuring: Obscuring
) -> list[tuple[Region, ...]]:
    """What each frame must hide. Raises NoFaceError where nothing was seen and `on_no_face` says to refuse."""
    height, width = reader.info.height, reader.info.width
    manual = [parse_region(text) for text in settings.regions]
    if not survey.any_face and not manual:
        if settings.on_no_face == "refuse":
            raise NoFaceError(
                f"{reader.path}: no face is seen in any frame; cover a part by hand with --region, cover everything "
                "with --on-no-face solid, or copy the clip as it is with --on-no-face copy."
            )
        if settings.on_no_face == "solid":
            return [(whole_frame(height, width, obscuring),)] * len(survey.times)
        return [()] * len(survey.times)
    tracks = link(survey.seen, survey.times, settings.max_gap)
    covers: list[list[CoverBox]] = cover_boxes(tracks, survey.times, settings.max_gap)
    return plan_regions(add_regions(covers, manual, survey.times), obscuring, height, width)


def _chosen(found: Detections, point: tuple[float, float] | None) -> Detections:
    """The one face of `found` whose attributes are embedded."""
    if not len(found):
        return found
    if point is None:
        best = int(np.argmax((found.boxes[:, 2] - found.boxes[:, 0]) * (found.boxes[:, 3] - found.boxes[:, 1])))
    else:
        centres = (found.boxes[:, :2] + found.boxes[:, 2:]) / 2
        best = int(np.argmin(np.linalg.norm(centres - np.array(point), axis=1)))
    return Detections(found.boxes[best : best + 1], found.scores[best : best + 1])
