"""Aiming off: a drawing that is read a little to the left is drawn again a little to the right.

The drawer is, nearly, a map from attributes to the same attributes as they are read; what is left is a bias that
differs from face to face, and the codec's noise. So the bias is taken out as in any control loop, without a gradient:
look at what is read, and draw again for attributes that lie as much to the other side.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
from torch import Tensor

from attacks.drawer import Attributes
from victims.camera import vector_to_angles
from victims.face import Array, Face

GAIN = 0.7
"""Share of an error that is taken back: some of what is read is noise."""
FARTHEST = 0.08
"""How far box and landmarks may be aimed off, in sizes of the box, ..."""
FARTHEST_GAZE = 0.35
"""... and gaze, rad."""


def aimed(aim: Attributes, face: Face, read: Mapping[str, Tensor], row: int) -> Attributes:
    """Attributes to draw next for `face`, after a drawing for `aim` was read.

    `read` holds what each victim read (role -> boxes (n, 4), landmarks (n, 68, 2), gaze (n, 3)); the drawing is its row
    `row`. What was not read stays as it is.
    """
    sides = np.maximum(face.box[2:] - face.box[:2], 1.0)
    size = float(np.sqrt(sides.prod()))
    limit = FARTHEST * size
    new = replace(aim, box=_nearer(aim.box, face.box, _row(read, "detector", row), limit))
    if aim.landmarks is not None and face.landmarks is not None:
        new = replace(new, landmarks=_nearer(aim.landmarks, face.landmarks, _row(read, "aligner", row), limit))
    vector = _row(read, "gaze", row)
    if aim.gaze_angle is not None and face.gaze_angle is not None and face.gaze is not None and vector is not None:
        # the normalised view is nearly the camera's, but for the head's roll, which is small
        seen = face.gaze_angle + vector_to_angles(vector) - vector_to_angles(face.gaze)
        new = replace(new, gaze_angle=_nearer(aim.gaze_angle, face.gaze_angle, seen, FARTHEST_GAZE))
    return new


def _row(read: Mapping[str, Tensor], role: str, row: int) -> Array | None:
    values = read[role][row].double().numpy() if role in read else None
    return values if values is not None and np.isfinite(values).all() else None


def _nearer(aim: Array, target: Array, seen: Array | None, limit: float) -> Array:
    if seen is None:
        return aim
    return target + np.clip(aim + GAIN * (target - seen) - target, -limit, limit)
