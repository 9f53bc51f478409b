"""What a victim reads from a frame."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

UPRIGHT: NDArray[np.bool_] = np.array([True, False, False, False])
"""The turns (4,) of a head whose crown points up; see `Detections.turns`."""


@dataclass(frozen=True, eq=False)
class Detections:
    """What a detector sees in one frame, best score first."""

    boxes: Array
    """(k, 4) x1, y1, x2, y2; px of the frame, floating point; may reach over the border."""
    scores: Array
    """(k,) probability of "face", 0..1."""
    turns: NDArray[np.bool_] | None = None
    """(k, 4) by which quarter turns clockwise the head may be turned: the crown points up, right, down, left. A box
    that several looks agree on has several. None: every head is upright, as detectors read."""

    def __len__(self) -> int:
        return len(self.boxes)

    @property
    def head_turns(self) -> NDArray[np.bool_]:
        """`turns`, also where it is None."""
        return np.tile(UPRIGHT, (len(self), 1)) if self.turns is None else self.turns


@dataclass(frozen=True, eq=False)
class Start:
    """Of a face that is read more than once: where that began, and what was read there."""

    box: Array
    """(4,) px: the detection's."""
    points: Array
    """(6, 2) px: the detection's; see `victims.mediapipe.blazeface.Candidates`."""
    mesh: Array
    """(n, 3) as in `Alignment`."""


@dataclass(frozen=True, eq=False)
class Alignment:
    """What an aligner reads from the k faces of one frame."""

    landmarks: Array
    """(k, 68, 2) x, y; px of the frame; iBUG order."""
    mesh: Array | None = None
    """(k, n, 3) x, y, z; px of the frame, z towards the camera negative; every point of a victim that has more than
    the 68, in its own order."""
    starts: tuple[Start | None, ...] | None = None
    """(k,) of faces that a detection of the aligner's own was found for."""
    present: NDArray[np.bool_] | None = None
    """(k,) whether there is a face; None: the aligner does not tell, and takes all for one."""


def iou(first: Array, second: Array) -> Array:
    """Intersection over union of boxes (..., 4), broadcast over leading axes; 0 where a union is empty."""
    low = np.maximum(first[..., :2], second[..., :2])
    high = np.minimum(first[..., 2:], second[..., 2:])
    intersection = np.prod(np.clip(high - low, 0, None), axis=-1)
    union = (
        np.prod(np.clip(first[..., 2:] - first[..., :2], 0, None), axis=-1)
        + np.prod(np.clip(second[..., 2:] - second[..., :2], 0, None), axis=-1)
        - intersection
    )
    return np.where(union > 0, intersection / np.maximum(union, 1e-12), 0.0)


SURE = 0.9
"""Score from which a face is taken for one, as facenet-pytorch's `largest_over_threshold` has it."""


INSIDE = 0.75
"""Share of a face's box that lies in the picture where the face is there to be read."""


def by_prominence(found: Detections, height: int, width: int) -> Detections:
    """The same faces, of a picture (height, width), the most prominent first.

    First come those with a score of at least SURE and INSIDE of their box in the picture, then the other sure ones,
    then the rest; each by size. The first is the frame's own: what a detector takes for half a face at the border is
    often larger than the face that speaks.
    """
    corners = found.boxes.reshape(-1, 2, 2)
    areas, seen = (
        np.clip(points[:, 1] - points[:, 0], 0.0, None).prod(axis=1)
        for points in (corners, corners.clip(0.0, [width, height]))
    )
    sure = found.scores >= SURE
    whole = sure & (seen >= INSIDE * areas)
    order = np.lexsort((-areas, ~sure, ~whole))
    return Detections(found.boxes[order], found.scores[order])


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
    mesh: Array | None = None
    """(n, 3) x, y, z px: every point of an aligner that has more than the 68; see `Alignment`."""
    start: Start | None = None
    """Where the reading of `mesh` began. Not part of any file."""
    followed: bool = False
    """Whether no detector saw it, and it was read where it was read one frame earlier."""

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
    """The frame's own first: see `by_prominence`."""

    @property
    def own(self) -> Face | None:
        """The one the field calls the frame's."""
        return self.faces[0] if self.faces else None
