"""The training images of our own networks: 3,674 faces of 300 people with 68 landmarks each.

Files (of udacity/P1_Facial_Keypoints, frames of the YouTube Faces set): `faces68.tar` with one JPEG a face,
longest side at most 256 px, and `faces68_landmarks.npz` with `name`, `landmarks` (N, 68, 2) px, `identity` and
`is_validation` (36 people whose faces no training may see). Landmarks are index coordinates in px: (0, 0) is the
centre of the first pixel; the order is 300-W's.
"""

from __future__ import annotations

import tarfile
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from victims.base import Image
from victims.boxes import iou
from victims.face import Array
from weights.errors import InputError

# A landmarks' box (w, h) mapped to the box MTCNN draws around the same face: medians over the training people.
BOX_SHIFT_X = 0.0
BOX_SHIFT_Y = -0.173
BOX_SCALE_W = 0.919
BOX_SCALE_H = 1.268


@dataclass(frozen=True)
class Faces68:
    """The set in memory; rows of all fields belong together."""

    images: list[Image]
    """uint8 (H, W, 3) RGB, each of its own size."""
    landmarks: Array
    """(N, 68, 2) px."""
    identity: NDArray[np.int64]
    """(N,) which person."""
    is_validation: NDArray[np.bool_]
    """(N,) True for the faces of the 36 people kept out of training."""

    def landmark_boxes(self) -> Array:
        """(N, 4) xyxy px: the landmarks' bounding boxes."""
        return np.concatenate((self.landmarks.min(axis=1), self.landmarks.max(axis=1)), axis=1)


def load_faces68(folder: Path) -> Faces68:
    """Read the two files from `folder`.

    Raises:
        InputError: a file is missing or is not this set.
    """
    table_path, tar_path = folder / "faces68_landmarks.npz", folder / "faces68.tar"
    for path in (table_path, tar_path):
        if not path.is_file():
            raise InputError(f"{path} is missing; --data must name the folder that holds faces68.tar and its .npz.")
    with np.load(table_path, allow_pickle=False) as table:
        names = [str(name) for name in table["name"]]
        landmarks = table["landmarks"].astype(np.float64)
        identity = table["identity"].astype(np.int64)
        is_validation = table["is_validation"].astype(bool)
    read: dict[str, Image] = {}
    with tarfile.open(tar_path) as archive:
        for member in archive:
            stream = archive.extractfile(member)
            if stream is None:
                continue
            decoded = cv2.imdecode(np.frombuffer(stream.read(), np.uint8), cv2.IMREAD_COLOR)
            if decoded is None:
                raise InputError(f"{member.name} in {tar_path} is not an image; fetch the file again.")
            read[member.name] = np.ascontiguousarray(decoded[:, :, ::-1], dtype=np.uint8)
    missing = [name for name in names if name not in read]
    if missing:
        raise InputError(f"{tar_path} lacks {missing[0]}, which {table_path.name} lists; fetch both files again.")
    return Faces68([read[name] for name in names], landmarks, identity, is_validation)


def detector_boxes(faces: Faces68, cache: Path | None = None) -> Array:
    """(N, 4) xyxy px: for each face the MTCNN box that overlaps its landmarks best; NaN where none reaches IoU 0.3.

    Runs `facenet_pytorch.MTCNN.detect` on every image (about five minutes on two CPU cores); with `cache` the
    result is kept in that .npy file and read from it the next time.
    """
    if cache is not None and cache.is_file():
        boxes: Array = np.load(cache, allow_pickle=False)
        if boxes.shape == (len(faces.images), 4):
            return boxes
        raise InputError(f"{cache} holds {boxes.shape} boxes for {len(faces.images)} faces; remove it and run again.")

    from facenet_pytorch import MTCNN  # heavy, and only training needs it

    detector = MTCNN(min_face_size=40, keep_all=True, device=torch.device("cpu"))
    boxes = np.full((len(faces.images), 4), np.nan)
    for row, (image, target) in enumerate(zip(faces.images, faces.landmark_boxes(), strict=True)):
        found, _ = detector.detect(image)
        if found is None:
            continue
        candidates = np.stack([np.asarray(box, dtype=np.float64) for box in found])
        overlap = iou(candidates, target)
        if overlap.max() >= 0.3:
            boxes[row] = candidates[int(overlap.argmax())]
    if cache is not None:
        cache.parent.mkdir(parents=True, exist_ok=True)
        np.save(cache, boxes)
    return boxes


def boxes_of_landmarks(landmarks: Tensor) -> Tensor:
    """The box MTCNN would draw, (N, 4) xyxy px, for landmarks (N, 68, 2): an affine fit, see the constants."""
    low, high = landmarks.amin(dim=1), landmarks.amax(dim=1)
    sizes = high - low
    shift = sizes.new_tensor((BOX_SHIFT_X, BOX_SHIFT_Y))
    scale = sizes.new_tensor((BOX_SCALE_W, BOX_SCALE_H))
    centres = (low + high) / 2 + shift * sizes
    return torch.cat((centres - scale * sizes / 2, centres + scale * sizes / 2), dim=1)


def points_in_image(points: Tensor, windows: Tensor) -> Tensor:
    """Decoded points (N, 68, 2) in 0..1 of their windows (N, 4), as px in *index* coordinates of the image."""
    origin, side = windows[:, None, :2], (windows[:, 2:] - windows[:, :2])[:, None, :]
    return origin + points * side - 0.5
