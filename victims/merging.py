"""What several detectors, or several looks, see in one frame, as one."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from victims.boxes import iou
from victims.face import Array, Detections

SAME_FACE_IOU = 0.4


def merge_detections(seen: Sequence[Detections]) -> Detections:
    """What several detectors see in one frame, as one.

    Boxes that overlap by an IoU over 0.4 become their union, with the turns of all.
    """
    boxes = [box for one in seen for box in one.boxes]
    scores = [float(score) for one in seen for score in one.scores]
    turns = [own for one in seen for own in one.head_turns]
    merged: list[Array] = []
    best: list[float] = []
    either: list[NDArray[np.bool_]] = []
    for index in sorted(range(len(boxes)), key=lambda i: -scores[i]):
        box = np.asarray(boxes[index], dtype=np.float64)
        overlaps = [float(iou(box, other)) for other in merged]
        if overlaps and max(overlaps) > SAME_FACE_IOU:
            near = int(np.argmax(overlaps))
            merged[near] = union(merged[near], box)
            either[near] = either[near] | turns[index]
        else:
            merged.append(box)
            best.append(scores[index])
            either.append(turns[index])
    return Detections(
        np.array(merged, dtype=np.float64).reshape(-1, 4),
        np.array(best, dtype=np.float64),
        np.array(either, dtype=bool).reshape(-1, 4),
    )


def union(a: Array, b: Array) -> Array:
    """(4,) the smallest box around two boxes (4,)."""
    return np.concatenate([np.minimum(a[:2], b[:2]), np.maximum(a[2:], b[2:])])
