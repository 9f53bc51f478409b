"""How far eyes and mouth are open, from facial landmarks.

Eye aspect ratio (EAR): Soukupová and Čech, "Real-Time Eye Blink Detection using Facial Landmarks" (CVWW 2016), eq. 1,
of the six points p1 to p6 of an eye: p1 and p4 are the corners, p2 and p3 lie on the upper lid, p6 and p5 below them:

    EAR = (|p2 - p6| + |p3 - p5|) / (2 |p1 - p4|)

An open eye seen from the front has about 0.3, a closed one about 0.1. Mouth aspect ratio (MAR) is the same ratio of the
inner lips: the mean height of three pairs of points over the width between the inner corners. 0 is a closed mouth.

Both are ratios of lengths in the image, so size and roll of the face do not matter; a head that is turned to the side
looks narrower, which raises both. The formulas use arithmetic and indexing alone: they take numpy arrays as well as
torch tensors, and are differentiable where points do not coincide.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from victims.face import Array

RIGHT_EYE = (36, 37, 38, 39, 40, 41)
LEFT_EYE = (42, 43, 44, 45, 46, 47)
"""p1 to p6 of the person's right and left eye among the 68 points of iBUG's order, 0-based."""
INNER_LIPS = (60, 61, 62, 63, 64, 65, 66, 67)
"""Image-left corner, three points on the upper lip, image-right corner, the three below from right to left."""


def eye_aspect_ratio(eye: Any) -> Any:
    """(..., 6, 2) points p1 to p6, px -> (...) EAR. Points that coincide at the corners give inf or NaN."""
    heights = _length(eye[..., 1, :] - eye[..., 5, :]) + _length(eye[..., 2, :] - eye[..., 4, :])
    return heights / (2 * _length(eye[..., 0, :] - eye[..., 3, :]))


def mouth_aspect_ratio(lips: Any) -> Any:
    """(..., 8, 2) points of the inner lips in the order of `INNER_LIPS`, px -> (...) MAR."""
    pairs = ((1, 7), (2, 6), (3, 5))
    height = sum(_length(lips[..., upper, :] - lips[..., lower, :]) for upper, lower in pairs)
    return height / (3 * _length(lips[..., 0, :] - lips[..., 4, :]))


def eye_openness(landmarks: Array | None) -> tuple[float | None, float | None]:
    """EAR of the person's (left, right) eye from (68, 2) px.

    None where a point of the eye is not finite or its corners coincide, or there are no landmarks.
    """
    if landmarks is None:
        return None, None
    return _finite(eye_aspect_ratio, landmarks, LEFT_EYE), _finite(eye_aspect_ratio, landmarks, RIGHT_EYE)


def mouth_openness(landmarks: Array | None) -> float | None:
    """MAR from (68, 2) px; None as for `eye_openness`."""
    return None if landmarks is None else _finite(mouth_aspect_ratio, landmarks, INNER_LIPS)


def _length(vectors: Any) -> Any:
    return (vectors**2).sum(-1) ** 0.5


def _finite(ratio: Any, landmarks: Array, indices: tuple[int, ...]) -> float | None:
    with np.errstate(divide="ignore", invalid="ignore"):
        value = float(ratio(np.asarray(landmarks, dtype=np.float64)[list(indices)]))
    return value if math.isfinite(value) else None
