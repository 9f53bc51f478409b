"""Arithmetic of boxes: x1, y1, x2, y2 in floating-point px, arrays or tensors of shape (..., 4)."""

from __future__ import annotations

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from victims.face import Array
from victims.face import iou as iou  # noqa: PLC0414  # found here too, beside its differentiable form

_ROUND = 1e-4
"""Rounds a length off at 0, where it has no gradient."""


def iou_tensor(first: Tensor, second: Tensor) -> Tensor:
    """`victims.face.iou`, differentiable."""
    low = torch.maximum(first[..., :2], second[..., :2])
    high = torch.minimum(first[..., 2:], second[..., 2:])
    intersection = (high - low).clamp_min(0).prod(-1)
    union = (
        (first[..., 2:] - first[..., :2]).clamp_min(0).prod(-1)
        + (second[..., 2:] - second[..., :2]).clamp_min(0).prod(-1)
        - intersection
    )
    return intersection / union.clamp_min(1e-6)


def suppress(boxes: Array, scores: Array, threshold: float) -> NDArray[np.int64]:
    """Indices of boxes (k, 4) that greedy non-maximum suppression keeps, best score first.

    A box goes when its IoU with a better one that stays is over `threshold`.
    """
    corners_and_sizes = np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], axis=1).astype(np.float64)
    # only the order of scores counts, and OpenCV takes no negative ones
    rank = np.empty(len(boxes))
    rank[np.argsort(-scores, kind="stable")] = np.arange(len(boxes), 0, -1)
    kept = cv2.dnn.NMSBoxes(corners_and_sizes.tolist(), rank.tolist(), 0.0, threshold) if len(boxes) else ()
    return np.asarray(kept, dtype=np.int64)


def box_distance(predicted: Tensor, target: Tensor) -> Tensor:
    """How far boxes are off, (...), in sizes of `target`.

    The mean distance of a side, plus 1 - IoU, plus three times the root of the mean square.

    The first two push all sides alike, however little one is off; the third pushes each by how far it is off, and is a
    length, so that a step that would bring it to 0 by its gradient is Newton's.
    """
    size = (target[..., 2:] - target[..., :2]).clamp_min(1.0)
    scaled = (predicted - target) / torch.cat([size, size], dim=-1)
    alike = scaled.abs().mean(dim=-1) + 1.0 - iou_tensor(predicted, target.expand_as(predicted))
    return alike + 3.0 * (scaled.square().mean(dim=-1) + _ROUND**2).sqrt()
