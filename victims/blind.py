"""The yardstick of what others read: a reader who is told the true box and looks at no pixel.

It answers with the mean face of the training people, put into the box, and with their mean gaze. Whoever reads no
better has learnt nothing from the pixels, however near the truth it comes. The numbers are those of blind.json, which
`attacks.training.blind` writes.
"""

from __future__ import annotations

import functools
import json
from importlib.resources import files

import numpy as np

from victims.camera import Camera, angles_to_vector
from victims.face import Array, Face


@functools.cache
def _numbers() -> tuple[Array, Array]:
    """Landmarks (68, 2) in units of the box, and pitch, yaw (2,), rad."""
    document = json.loads(files("victims").joinpath("blind.json").read_text(encoding="utf-8"))
    return np.array(document["landmarks"]), np.array(document["gaze_angle"])


def blind_landmarks(box: Array) -> Array:
    """(68, 2) px, index coordinates: the mean face in `box` (4,)."""
    return box[:2] + _numbers()[0] * (box[2:] - box[:2]) - 0.5


def blind_face(box: Array, camera: Camera) -> Face:
    """What that reader says of a face in `box` (4,), px of a frame seen by `camera`.

    The gaze is the mean one of the normalised view (Zhang et al. 2018, "Revisiting data normalization") that looks at
    the middle of the box; nothing is known of the head's roll, so the view is upright.
    """
    angle = _numbers()[1]
    x, y = (box[:2] + box[2:]) / 2 - 0.5
    ray = np.linalg.solve(camera.matrix, np.array([x, y, 1.0]))
    forward = ray / np.linalg.norm(ray)
    right = np.cross(np.array([0.0, 1.0, 0.0]), forward)
    right /= np.linalg.norm(right)
    view = np.stack([right, np.cross(forward, right), forward])
    return Face(box, 1.0, blind_landmarks(box), None, angles_to_vector(angle) @ view, angle.copy())
