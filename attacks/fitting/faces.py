"""Faces to fit a drawer on: pictures, and what a chain of victims reads of one face in each."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from victims.base import Detector, Image
from victims.boxes import iou
from victims.camera import Camera
from victims.face import Array
from victims.observe import Observer
from weights.errors import UsageError

SAME = 0.3
"""IoU with the landmarks' box from which a detection is of the labelled face."""


@dataclass(frozen=True)
class ReadFaces:
    """Pictures with what the chain reads in each; rows of all fields belong together."""

    images: list[Image]
    boxes: Array
    """(N, 4)"""
    landmarks: Array
    """(N, 68, 2)"""
    gaze_angles: Array
    """(N, 2) pitch, yaw, rad, in the reader's normalised view."""
    meshes: Array | None = None
    """(N, n, 3) every point of an aligner that has more than 68."""

    def __len__(self) -> int:
        return len(self.images)

    def of(self, rows: NDArray[np.intp]) -> ReadFaces:
        """Some of them."""
        images = [self.images[row] for row in rows]
        meshes = None if self.meshes is None else self.meshes[rows]
        return ReadFaces(images, self.boxes[rows], self.landmarks[rows], self.gaze_angles[rows], meshes)


def read_faces(
    images: Sequence[Image], chain: Observer, labelled: Array | None = None, advance: Callable[[], None] = lambda: None
) -> tuple[NDArray[np.intp], ReadFaces]:
    """What `chain` reads of one face in each picture, and of which pictures (N,): the others show it no face.

    The face is the most prominent one, or the one at the box `labelled` (4,) of its picture. `advance` is called after
    each picture. Raises UsageError for a chain without an aligner, whose landmarks a drawer needs.
    """
    if chain.aligner is None:
        raise UsageError("A drawer is fitted to a detector and an aligner; name an aligner, too.")
    rows, boxes, landmarks, angles, meshes = [], [], [], [], []
    for row, image in enumerate(images):
        box = _box(chain.detector, image, None if labelled is None else labelled[row])
        if box is not None:
            (aligned,) = chain.aligner.align_faces([image], [box[None]])
            points = aligned.landmarks
            look = np.zeros(2)
            if chain.gaze is not None:
                height, width = image.shape[:2]
                look = chain.gaze.estimate_faces([image], [aligned], Camera.default(width, height))[0][1][0]
            if np.isfinite(look).all() and np.isfinite(points).all():
                rows.append(row)
                boxes.append(box)
                landmarks.append(points[0])
                angles.append(look)
                if aligned.mesh is not None:
                    meshes.append(aligned.mesh[0])
        advance()
    own = [images[row] for row in rows]
    read = ReadFaces(
        own,
        np.array(boxes, dtype=np.float64).reshape(-1, 4),
        np.array(landmarks, dtype=np.float64).reshape(-1, 68, 2),
        np.array(angles, dtype=np.float64).reshape(-1, 2),
        np.stack(meshes) if meshes else None,
    )
    return np.array(rows, dtype=np.intp), read


def _box(detector: Detector, image: Image, labelled: Array | None) -> Array | None:
    (found,) = detector.detect([image])
    if not len(found):
        return None
    if labelled is None:
        return np.asarray(detector.in_order(found, *image.shape[:2]).boxes[0])
    overlap = iou(found.boxes, labelled)
    best = int(overlap.argmax())
    return np.asarray(found.boxes[best]) if overlap[best] >= SAME else None
