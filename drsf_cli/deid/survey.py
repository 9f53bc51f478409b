"""The first pass: finds every face in every frame of the original.

From it follows what each frame must hide, and whose attributes are embedded.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import assert_never

import numpy as np

from attacks.obscure import Region, plan_regions, whole_frame
from drsf_cli.deid.segments import in_segments
from drsf_cli.media.files import SourceState, state_of
from drsf_cli.media.reader import Frame, VideoReader
from drsf_cli.progress import SILENT, Progress, runs, with_last
from drsf_cli.readers.around import Around
from drsf_cli.readers.covering import Plain
from drsf_cli.readers.watch import Watch
from drsf_cli.settings import DeidSettings, Whose
from victims.base import Detector
from victims.drawn_regions import add_regions, refuse_idle
from victims.face import Detections, Face, FrameObservation
from victims.observe import Observer
from victims.track import CoverBox, cover_boxes, is_sustained, link
from weights.errors import NoFaceError


@dataclass
class Survey:
    """What the first pass found."""

    observations: list[FrameObservation] = field(default_factory=list)
    """Of each frame the faces whose attributes are embedded: at most one, unless those of all are."""
    tracks: list[tuple[int, ...]] = field(default_factory=list)
    """Of each of them, whose face it is: a number from 0 that it keeps through a segment."""
    seen: list[Detections] = field(default_factory=list)
    """Every face of each frame, for covering."""
    times: list[float] = field(default_factory=list)
    around: list[bool] = field(default_factory=list)
    """Whether each frame was looked at all around (drsf_cli/readers/watch.py)."""
    source: SourceState = ()
    """The source as it was when the survey began."""

    @classmethod
    def joined(cls, parts: Sequence[Survey]) -> Survey:
        """The survey of a clip from those of its parts, each of which counts its frames from 0."""
        states = {part.source for part in parts}
        whole = cls(source=states.pop() if len(states) == 1 else ())
        for part, (first, track) in zip(parts, cls.starts(parts), strict=True):
            whole.observations += [replace(one, index=first + one.index) for one in part.observations]
            whole.tracks += [tuple(track + number for number in own) for own in part.tracks]
            whole.seen += part.seen
            whole.times += part.times
            whole.around += part.around
        return whole

    @staticmethod
    def starts(parts: Sequence[Survey]) -> list[tuple[int, int]]:
        """The frame and the track that the first of each part is in the whole."""
        sizes = [(len(part.times), part.track_count) for part in parts]
        return [(sum(n for n, _ in sizes[:k]), sum(n for _, n in sizes[:k])) for k in range(len(sizes))]

    @property
    def track_count(self) -> int:
        """How many tracks there are."""
        return 1 + max((number for own in self.tracks for number in own), default=-1)


def survey_video(
    reader: VideoReader,
    observer: Observer,
    whose: Whose = "largest",
    batch_size: int = 8,
    progress: Progress = SILENT,
    companions: Sequence[Detector] = (),
    segment: float = DeidSettings.segment,
    around: Around = Around(DeidSettings.min_face),  # noqa: B008 (it does not change)
) -> Survey:
    """See every frame of the original.

    `companions`: detectors that cover too. `segment`: seconds after which a batch of frames, and every track, ends in
    any case. `around`: how frames are looked at all around, and what shares the work.
    """
    watch = Watch(observer.detector, companions, around, always=reader.info.kind != "video")

    def read(run: tuple[list[Frame], bool]) -> tuple[list[Frame], bool, Plain, list[tuple[Face, ...]]]:
        (frames, last), images = run, [frame.image for frame in run[0]]
        plain, (height, width) = watch.read(frames), images[0].shape[:2]
        chosen = [_chosen(observer.detector.in_order(one, height, width), whose) for one in plain[0]]
        return frames, last, plain, observer.read_faces(images, chosen)

    survey = Survey(source=state_of(reader.path))
    track = 0
    for segment_frames in in_segments(reader, segment, reader.info.time_base):
        first = len(survey.times)
        watch.begin()
        for frames, last, plain, own_faces in around.each(read, with_last(runs(segment_frames, batch_size))):
            seen = watch.see(frames, last, plain)
            before = survey.observations[-1].faces if len(survey.times) > first else ()
            faces = observer.follow([frame.image for frame in frames], own_faces, before)
            for frame, own, one in zip(frames, faces, seen, strict=True):
                survey.observations.append(FrameObservation(frame.index, frame.pts, own if whose == "all" else own[:1]))
                survey.seen.append(one.covering)
                survey.times.append(frame.pts)
                survey.around.append(one.around)
            progress.advance(len(frames))
        parted = told_apart(survey.observations[first:], survey.times[first:], sustained=whose == "all")
        survey.observations[first:] = [observation for observation, _ in parted]
        survey.tracks += [tuple(track + number for number in own) for _, own in parted]
        track = max((number + 1 for own in survey.tracks[first:] for number in own), default=track)
    return survey


def plan_cover(survey: Survey, reader: VideoReader, settings: DeidSettings) -> list[tuple[Region, ...]]:
    """What each frame must hide.

    Raises NoFaceError where no face was seen, weak alarms apart, and `on_no_face` says to refuse, whatever regions
    there are: these may be meant for other clips; UsageError where a region meets no frame.
    """
    height, width, obscuring = reader.info.height, reader.info.width, settings.obscuring
    refuse_idle(settings.manual_regions, survey.times)
    tracks = link(survey.seen, survey.times, settings.max_gap)
    if not tracks:
        match settings.on_no_face:
            case "refuse":
                raise NoFaceError(
                    f"{reader.path}: no face is seen in any frame; cover everything with --on-no-face solid, or show "
                    "what --region does not cover with --on-no-face copy."
                )
            case "solid":
                return [(whole_frame(height, width, obscuring),)] * len(survey.times)
            case "copy":
                pass
            case _:
                assert_never(settings.on_no_face)
    covers: list[list[CoverBox]] = cover_boxes(tracks, survey.times, settings.max_gap)
    return plan_regions(add_regions(covers, settings.manual_regions, survey.times), obscuring, height, width)


def _chosen(found: Detections, whose: Whose) -> Detections:
    """Those faces of `found`, by prominence, that may be embedded for."""
    if not len(found):
        return found
    match whose:
        case "all":
            return found
        case "largest":
            best = 0
        case (x, y):
            centres = (found.boxes[:, :2] + found.boxes[:, 2:]) / 2
            best = int(np.argmin(np.linalg.norm(centres - np.array((x, y)), axis=1)))
        case _:
            assert_never(whose)
    return Detections(found.boxes[best : best + 1], found.scores[best : best + 1])


def told_apart(
    observations: Sequence[FrameObservation], times: Sequence[float], sustained: bool
) -> list[tuple[FrameObservation, tuple[int, ...]]]:
    """The faces of frames that follow one another, with their tracks.

    `sustained`: those that are not seen often enough for a track of their own are left out: a passer-by of a frame or
    two, a false alarm.
    """
    seen = [
        Detections(
            np.array([face.box for face in one.faces]).reshape(-1, 4), np.array([face.score for face in one.faces])
        )
        for one in observations
    ]
    tracks = link(seen, times, confirm_score=0.0)
    if sustained:
        tracks = [track for track in tracks if is_sustained(track, times)]
    found = []
    for row, one in enumerate(observations):
        kept = [
            (face, number)
            for face in one.faces
            for number, track in enumerate(tracks)
            if row in track.boxes and np.array_equal(track.boxes[row], face.box)
        ]
        faces = tuple(face for face, _ in kept)
        found.append((replace(one, faces=faces), tuple(number for _, number in kept)))
    return found
