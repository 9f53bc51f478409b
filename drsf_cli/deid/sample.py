"""What a drawer is fitted to: faces of one segment that differ, read from the source once more."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from attacks.embed import Target
from drsf_cli.deid.changes import FaceKey
from drsf_cli.deid.clip import SurveyedClip
from drsf_cli.deid.segments import end_of
from drsf_cli.media.reader import Frame
from victims.face import Array, Face
from victims.openness import eye_openness, mouth_openness

MEMORY = 2**28
"""Bytes of frames that are held at once, at most."""
GAZE, EYES, MOUTH = 0.5, 1.0, 0.3
"""What a radian, and a unit of openness, counts in the difference of two faces, beside the mean distance of their
landmarks in sizes of the box."""


def sample_of(clip: SurveyedClip, first: Frame, length: float, count: int) -> dict[int, list[Target]]:
    """At most `count` faces of the segment of `length` s that begins with the frame `first`, by track.

    Raises SourceChangedError.
    """
    base = clip.reader.info.time_base
    end = end_of(first, length, base)
    last = first.index
    while last < len(clip) and round(clip.survey.times[last] / float(base)) * base < end:
        last += 1
    chosen = chosen_faces(clip, range(first.index, last), min(count, max(MEMORY // first.image.nbytes, 1)))
    start = first.pts_ticks * base
    until = end if clip.reader.end is None else min(end, clip.reader.end)
    found: dict[int, list[Target]] = {track: [] for _, track in chosen}
    indices = {index for index, _ in chosen}
    for own in clip.reader.part(start, until):
        frame = replace(own, index=first.index + own.index)
        if frame.index >= last or frame.pts != clip.survey.times[frame.index]:
            raise clip.changed()
        if frame.index in indices:
            covered = clip.covered(frame)
            targets = {track: clip.target(frame, covered, track) for track in clip.tracks(frame)}
            for track, target in targets.items():
                if target is not None and (frame.index, track) in chosen:
                    found[track].append(target)
    return found


def chosen_faces(clip: SurveyedClip, frames: range, count: int) -> set[FaceKey]:
    """`count` of the faces to embed in `frames`: half of them at even distances, the others as they differ most."""
    faces = {
        (index, track): face
        for index in frames
        for track, face in zip(clip.targets.tracks[index], clip.targets.observations[index].faces, strict=True)
    }
    keys = list(faces)
    return {keys[row] for row in unlike([features(face) for face in faces.values()], count)}


def unlike(rows: Sequence[Array], count: int) -> list[int]:
    """Which `count` of `rows` (d,) to take: half of them evenly, then again and again the farthest from those taken."""
    if len(rows) <= count:
        return list(range(len(rows)))
    table = np.stack(rows)
    chosen = np.unique(np.linspace(0, len(rows) - 1, max(count // 2, 1)).round().astype(int)).tolist()
    distances = np.min([np.linalg.norm(table - table[row], axis=1) for row in chosen], axis=0)
    while len(chosen) < count:
        distances[chosen] = -1.0  # none twice, though faces be equal
        chosen.append(int(distances.argmax()))
        distances = np.minimum(distances, np.linalg.norm(table - table[chosen[-1]], axis=1))
    return sorted(chosen)


def features(face: Face) -> Array:
    """(141,) what makes a face another drawing: shape and pose, gaze, openness of eyes and mouth, and size."""
    x1, y1, x2, y2 = face.box
    size = max(np.sqrt((x2 - x1) * (y2 - y1)), 1.0)
    points = np.zeros((68, 2)) if face.landmarks is None else (face.landmarks - [(x1 + x2) / 2, (y1 + y2) / 2]) / size
    look = np.zeros(2) if face.gaze_angle is None else GAZE * face.gaze_angle
    opened = [*(EYES * (value or 0.0) for value in eye_openness(face.landmarks))]
    opened += [MOUTH * (mouth_openness(face.landmarks) or 0.0), 0.1 * np.log2(size)]
    row: Array = np.concatenate([points.ravel() / np.sqrt(68), look, opened])
    return np.nan_to_num(row)
