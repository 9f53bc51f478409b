"""Readings whose openness and gaze are given."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from victims.camera import angles_to_vector
from victims.face import Face, FrameObservation
from victims.openness import INNER_LIPS, LEFT_EYE, RIGHT_EYE

_EYE = np.array([[0, 0], [10, -15], [20, -15], [30, 0], [20, 15], [10, 15]], dtype=np.float64)
"""EAR 1."""
_LIPS = np.array([[0, 0], [10, -20], [20, -20], [30, -20], [40, 0], [30, 20], [20, 20], [10, 20]], dtype=np.float64)
"""MAR 1."""


def face(
    eyes: float | tuple[float, float] | None = 0.3, gaze: tuple[float, float] | None = (0, 10), mouth: float = 0.1
) -> Face:
    """`eyes`: EAR of both, or of the left and the right, or no landmarks; `gaze`: yaw and pitch, degrees, or none."""
    landmarks = None
    if eyes is not None:
        left, right = eyes if isinstance(eyes, tuple) else (eyes, eyes)
        landmarks = np.random.default_rng(0).uniform(0, 200, (68, 2))
        landmarks[list(RIGHT_EYE)] = _EYE * [1, right] + [60, 80]
        landmarks[list(LEFT_EYE)] = _EYE * [1, left] + [120, 80]
        landmarks[list(INNER_LIPS)] = _LIPS * [1, mouth] + [80, 150]
    vector = None if gaze is None else angles_to_vector(np.radians([gaze[1], gaze[0]]))
    return Face(np.array([0.0, 0, 200, 200]), 1.0, landmarks, None, vector)


def clip(faces: Sequence[Face | None], fps: float = 25.0) -> list[FrameObservation]:
    """A frame for each; None is a frame without a face."""
    return [FrameObservation(i, i / fps, () if own is None else (own,)) for i, own in enumerate(faces)]
