"""The faces that the drawer is trained on, and what a chain of victims reads from each."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from victims.base import Image
from victims.boxes import iou
from victims.camera import Camera
from victims.compact.training.faces68 import load_faces68
from victims.face import Array
from victims.observe import Observer

log = logging.getLogger(__name__)

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

    def __len__(self) -> int:
        return len(self.images)


def read_faces(folder: Path, chain: Observer, validation: bool, limit: int, cache: Path) -> ReadFaces:
    """`limit` pictures of faces68, evenly over its people, as `chain` reads them.

    With `validation`, they are of the 36 people kept out. What was read is kept in the .npz file `cache`, and taken
    from there the next time.

    A face that the chain does not find is left out. Raises InputError where the set is missing.
    """
    faces = load_faces68(folder)
    rows = np.flatnonzero(faces.is_validation == validation)
    rows = rows[np.linspace(0, len(rows) - 1, min(limit, len(rows))).round().astype(int)]
    if cache.is_file():
        with np.load(cache, allow_pickle=False) as table:
            read = {name: table[name] for name in ("rows", "boxes", "landmarks", "gaze_angles")}
    else:
        read = _read(chain, faces.images, faces.landmark_boxes(), rows)
        cache.parent.mkdir(parents=True, exist_ok=True)
        np.savez(cache, **read)  # type: ignore[arg-type]
    images = [faces.images[row] for row in read["rows"]]
    return ReadFaces(images, read["boxes"], read["landmarks"], read["gaze_angles"])


def _read(chain: Observer, images: list[Image], labelled: Array, rows: NDArray[np.intp]) -> dict[str, NDArray[Any]]:
    assert chain.aligner is not None
    kept, boxes, landmarks, angles = [], [], [], []
    for place, row in enumerate(rows):
        image = images[row]
        found = chain.detector.detect([image])[0]
        overlap = iou(found.boxes, labelled[row]) if len(found) else np.zeros(1)
        if overlap.max() < SAME:
            continue
        box = found.boxes[int(overlap.argmax())]
        points = chain.aligner.align([image], [box[None]])[0]
        look = np.zeros(2)
        if chain.gaze is not None:
            height, width = image.shape[:2]
            look = chain.gaze.estimate([image], [points], Camera.default(width, height))[0][1][0]
        if not np.isfinite(look).all():
            continue
        kept.append(row)
        boxes.append(box)
        landmarks.append(points[0])
        angles.append(look)
        if place % 200 == 0:
            log.info("read %d of %d faces", place, len(rows))
    stacked = {"boxes": np.stack(boxes), "landmarks": np.stack(landmarks), "gaze_angles": np.stack(angles)}
    return {"rows": np.array(kept), **stacked}
