"""Arithmetic of boxes: x1, y1, x2, y2 in floating-point px, arrays or tensors of shape (..., 4)."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from victims.face import Array


def iou(first: Array, second: Array) -> Array:
    """Intersection over union, broadcast over leading axes; 0 where a union is empty."""
    low = np.maximum(first[..., :2], second[..., :2])
    high = np.minimum(first[..., 2:], second[..., 2:])
    intersection = np.prod(np.clip(high - low, 0, None), axis=-1)
    union = (
        np.prod(np.clip(first[..., 2:] - first[..., :2], 0, None), axis=-1)
        + np.prod(np.clip(second[..., 2:] - second[..., :2], 0, None), axis=-1)
        - intersection
    )
    return np.where(union > 0, intersection / np.maximum(union, 1e-12), 0.0)


def iou_tensor(first: Tensor, second: Tensor) -> Tensor:
    """The same, differentiable."""
    low = torch.maximum(first[..., :2], second[..., :2])
    high = torch.minimum(first[..., 2:], second[..., 2:])
    intersection = (high - low).clamp_min(0).prod(-1)
    union = (
        (first[..., 2:] - first[..., :2]).clamp_min(0).prod(-1)
        + (second[..., 2:] - second[..., :2]).clamp_min(0).prod(-1)
        - intersection
    )
    return intersection / union.clamp_min(1e-6)
