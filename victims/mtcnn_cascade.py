"""The steps between MTCNN's networks: pyramid, boxes of cells, crops, suppression, and what each stage passes on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from victims.boxes import suppress
from victims.face import Array

MIN_FACE = 20
"""Smallest face sought, px."""
FACTOR = 0.709
"""Between levels of the pyramid."""
THRESHOLDS = (0.6, 0.7, 0.7)
"""Of P-, R- and O-Net's probability."""
CELL, STRIDE = 12, 2
"""P-Net's receptive field and step, px of the level."""
SIZES = {"rnet": 24, "onet": 48}


def normalize(values: Tensor) -> Tensor:
    """RGB 0..255 to what the networks were trained on, about -1..1."""
    return (values - 127.5) * 0.0078125


def pyramid_scales(height: int, width: int) -> list[float]:
    """Scales of the pyramid's levels for a frame of height x width px, the finest first."""
    scale = CELL / MIN_FACE
    scales = []
    while min(height, width) * scale >= CELL:
        scales.append(scale)
        scale *= FACTOR
    return scales


def level_size(height: int, width: int, scale: float) -> tuple[int, int]:
    """Height and width, px, of the level of a frame at `scale`."""
    return int(height * scale + 1), int(width * scale + 1)


def cell_boxes(rows: NDArray[np.intp], columns: NDArray[np.intp], scale: float) -> Array:
    """The boxes (k, 4) in frame px that P-Net's cells at (rows, columns) of a level look at."""
    corner = np.stack([columns, rows], axis=-1).astype(np.float32) * STRIDE
    # float32 as upstream: a float64 quotient would floor to another pixel now and then
    low = np.floor((corner + 1) / np.float32(scale))
    high = np.floor((corner + CELL) / np.float32(scale))
    return np.concatenate([low, high], axis=-1).astype(np.float64)


def regress(boxes: Array, shifts: Array, extra: float) -> Array:
    """Corners moved by `shifts` (k, 4) in units of width and height; `extra` is upstream's +1 of the later stages.

    In float32 as upstream: crops are cut at whole pixels, and another rounding cuts a pixel beside now and then.
    """
    boxes, shifts = boxes.astype(np.float32), shifts.astype(np.float32)
    sides = boxes[:, 2:] - boxes[:, :2] + np.float32(extra)
    return np.asarray(boxes + shifts * np.concatenate([sides, sides], axis=1), np.float64)


def squared(boxes: Array) -> Array:
    """The square around each box's centre with its longer side; in float32, see `regress`."""
    boxes = boxes.astype(np.float32)
    sides = boxes[:, 2:] - boxes[:, :2]
    longest = sides.max(axis=1, keepdims=True)
    low = boxes[:, :2] + sides * np.float32(0.5) - longest * np.float32(0.5)
    return np.concatenate([low, low + longest], axis=1).astype(np.float64)


def rectangles(boxes: Array, height: int, width: int) -> NDArray[np.int64]:
    """Whole-pixel crops (k, 4) x0, y0, x1, y1 (0-based, end exclusive) clipped to the frame, by upstream's rule."""
    whole = np.trunc(boxes).astype(np.int64)
    low = np.maximum(whole[:, :2], 1) - 1
    high = np.minimum(whole[:, 2:], np.array([width, height]))
    return np.concatenate([low, high], axis=1)


def suppress_contained(boxes: Array, scores: Array, threshold: float) -> NDArray[np.int64]:
    """Greedy NMS on intersection over the *smaller* area with upstream's +1 px, best first."""
    x1, y1, x2, y2 = boxes.T
    areas = (x2 - x1 + 1) * (y2 - y1 + 1)
    order = np.argsort(scores)[::-1]
    kept = []
    while len(order):
        best, rest = order[0], order[1:]
        kept.append(best)
        width = np.clip(np.minimum(x2[best], x2[rest]) - np.maximum(x1[best], x1[rest]) + 1, 0, None)
        height = np.clip(np.minimum(y2[best], y2[rest]) - np.maximum(y1[best], y1[rest]) + 1, 0, None)
        order = rest[width * height / np.minimum(areas[best], areas[rest]) <= threshold]
    return np.array(kept, dtype=np.int64)


def probability(logits: Tensor) -> Array:
    """Of "face", from two logits on dim 1."""
    return torch.softmax(logits.detach().float(), dim=1)[:, 1].cpu().numpy().astype(np.float64)


@dataclass(frozen=True)
class Proposals:
    """Candidates of one frame between stages."""

    boxes: Array  # (k, 4)
    scores: Array  # (k,)


LaterStage = Callable[[Array, Array, Array, float], Proposals]
"""`refine` or `finish`: of boxes (k, 4), scores (k,), shifts (k, 4) and a threshold."""


@dataclass(frozen=True)
class LevelOutput:
    """What P-Net says of one frame's level of the pyramid, or of the part of it that was looked at."""

    scale: float
    top: int  # first row and column of the part, in cells
    left: int
    probabilities: Array  # (h, w)
    shifts: Array  # (4, h, w)


def propose(levels: Sequence[LevelOutput], threshold: float) -> Proposals:
    """Stage 1 of one frame."""
    boxes, scores, shifts = [], [], []
    for level in levels:
        rows, columns = np.nonzero(level.probabilities >= threshold)
        level_boxes = cell_boxes(rows + level.top, columns + level.left, level.scale)
        level_scores = level.probabilities[rows, columns]
        kept = suppress(level_boxes, level_scores, 0.5)
        boxes.append(level_boxes[kept])
        scores.append(level_scores[kept])
        shifts.append(level.shifts[:, rows, columns].T[kept])
    found, score, shift = np.concatenate(boxes), np.concatenate(scores), np.concatenate(shifts)
    kept = suppress(found, score, 0.7)
    return Proposals(squared(regress(found[kept], shift[kept], 0.0)), score[kept])


def refine(boxes: Array, scores: Array, shifts: Array, threshold: float) -> Proposals:
    """Stage 2 of one frame, from R-Net's output for `boxes`."""
    passed = scores > threshold
    boxes, scores, shifts = boxes[passed], scores[passed], shifts[passed]
    kept = suppress(boxes, scores, 0.7)
    return Proposals(squared(regress(boxes[kept], shifts[kept], 1.0)), scores[kept])


def finish(boxes: Array, scores: Array, shifts: Array, threshold: float) -> Proposals:
    """Stage 3 of one frame, from O-Net's output for `boxes`."""
    passed = scores > threshold
    boxes, scores = regress(boxes[passed], shifts[passed], 1.0), scores[passed]
    kept = suppress_contained(boxes, scores, 0.7)
    return Proposals(boxes[kept], scores[kept])
