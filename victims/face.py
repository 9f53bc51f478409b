"""What a victim reads from a frame."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Detections:
    """What a detector sees in one frame, best score first."""

    boxes: Array
    """(k, 4) x1, y1, x2, y2; px of the frame, floating point; may reach over the border."""
    scores: Array
    """(k,) probability of "face", 0..1."""

    def __len__(self) -> int:
        return len(self.boxes)


SURE = 0.9
"""Score from which a face is taken for one, as facenet-pytorch's `largest_over_threshold` has it."""


def most_prominent(boxes: Array, scores: Array) -> int:
    """Which of the boxes (k, 4), k > 0, is the frame's face: the largest of those with a score (k,) of at least SURE,
    or where there is none the largest of all. What a detector takes for half a face at the border is often large."""
    areas = np.clip(boxes[:, 2:] - boxes[:, :2], 0.0, None).prod(axis=1)
    sure = scores >= SURE
    return int(np.argmax(np.where(sure | ~sure.any(), areas, -1.0)))


@dataclass(frozen=True, eq=False)
class Face:
    """One face of one frame. Fields whose victim did not run are None."""

    box: Array
    """(4,) x1, y1, x2, y2; px of the frame; x to the right, y down."""
    score: float
    """The detector's probability, 0..1."""
    landmarks: Array | None = None
    """(68, 2) x, y; px of the frame; iBUG order."""
    euler_angles: Array | None = None
    """(3,) degrees, intrinsic X-Y-Z of the head's rotation to camera axes; a frontal head is 0, 0, 0."""
    gaze: Array | None = None
    """(3,) unit vector in the camera frame: x right, y down, z away; (0, 0, -1) looks into the camera."""
    gaze_angle: Array | None = None
    """(2,) pitch, yaw in rad as the network says them, in normalised camera space; pitch > 0 looks up, yaw > 0
    looks to the left of the image."""

    @property
    def area(self) -> float:
        """Of the box, px²."""
        x1, y1, x2, y2 = self.box
        return float(max(0.0, x2 - x1) * max(0.0, y2 - y1))


@dataclass(frozen=True, eq=False)
class FrameObservation:
    """All faces of one frame. A frame in which none is seen has none: never a neighbour's passed off as seen."""

    index: int
    """Counted from 0 at the first frame read."""
    pts: float
    """Presentation time, s."""
    faces: tuple[Face, ...] = ()

    @property
    def largest(self) -> Face | None:
        """The one the field calls the frame's: see `most_prominent`."""
        if not self.faces:
            return None
        boxes, scores = (np.array([getattr(face, name) for face in self.faces]) for name in ("box", "score"))
        return self.faces[most_prominent(boxes, scores)]
