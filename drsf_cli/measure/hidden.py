"""Two measures of how much of a source an obscured region still shows, used by drsf_cli/deid/checks.py."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from attacks.obscure import Obscuring, Region
from victims.base import Image
from victims.face import Array

SCALE = 128
"""Shorter side of a region, px, at which it is compared; larger regions are reduced."""
TILE = 16
"""px"""
MIN_DETAIL = 2.0
"""A tile whose source detail (root mean square of the slope, grey levels a px) is below this says nothing."""
SSIM_LIMIT = 0.92
DETAIL_LIMIT = 0.92
FEW = 2
"""So many open tiles of a region may be chance."""
SPOT = 0.005
"""Share of a region's area that is enough to show something."""
WINDOW = 12
"""Detail is compared in windows of this many px, of `SCALE` across the region."""
MIN_REMOVED = 8.0
"""Windows in which obscuring took away less than this (root mean square, grey levels) say nothing."""


def compare_region(
    source: Image, written: Image, region: Region, obscuring: Obscuring, others: Sequence[Region] = ()
) -> tuple[float, float, float]:
    """(highest SSIM, highest correlation of detail, share of open tiles) of a region of two frames of one size.

    Detail is the slope of brightness from pixel to pixel. The edges of blocks are left out, also those of the frame's
    `others` regions: an edge of the picture may happen to lie on one, and inside a block there is no detail.
    """
    x1, y1, x2, y2 = region.rect
    scale = min(1.0, SCALE / min(x2 - x1, y2 - y1))
    a, b = (_grey(image[y1:y2, x1:x2], scale) for image in (source, written))
    sigma = 1.0 if not obscuring.has_blocks or region.cell * scale >= 12 else 0.0
    smooth_a, smooth_b = (cv2.GaussianBlur(plane, (0, 0), sigma) if sigma else plane for plane in (a, b))
    counted = np.ones(a.shape, dtype=np.float32)
    if obscuring.has_blocks:
        for one in (region, *others):
            _leave_out_edges(counted, region, one, 3 if sigma else 1)
    energy_a, energy_b, both = (np.zeros(a.shape) for _ in range(3))
    for axis in (0, 1):
        slope_a, slope_b = (np.gradient(plane, axis=axis) for plane in (smooth_a, smooth_b))
        energy_a += slope_a * slope_a
        energy_b += slope_b * slope_b
        both += slope_a * slope_b
    area = _tiles(counted)
    used = area >= 0.1
    planes = (energy_a, energy_b, both, ssim_map(a, b))
    energy_a, energy_b, both, ssim = (_tiles(plane * counted) / np.maximum(area, 1e-6) for plane in planes)
    telling = used & (np.sqrt(energy_a) >= MIN_DETAIL)
    if not telling.any():
        return 0.0, 0.0, 0.0
    # flat areas correlate with nothing; what differs there is the encoder's noise
    seen = telling & (np.sqrt(energy_b) >= MIN_DETAIL / 8)
    detail = both / np.sqrt(np.maximum(energy_a * energy_b, 1e-9))
    is_open = seen & (detail > DETAIL_LIMIT) & (ssim > SSIM_LIMIT)
    share = float(is_open.sum() / telling.sum()) if is_open.sum() > FEW else 0.0
    return float(ssim[telling].max()), float(detail[seen].max(initial=0.0)), share


def returned_share(source: Image, hidden: Image, written: Image, rect: tuple[int, int, int, int]) -> float:
    """How much of the detail that obscuring removed from the region `rect` of `source` is back in the written frame.

    `hidden` is the obscured frame; all are (H, W, 3) of one size. In every window, with means taken off,

        1 - |written - source|² / |hidden - source|²

    is 0 if the region is hidden and unchanged, below 0 for changes that have nothing to do with the source, and 1 for
    the source itself. The function returns the value that `SPOT` of the region's area reaches or surpasses, and 0 if
    obscuring removed nothing.
    """
    x1, y1, x2, y2 = rect
    scale = min(1.0, SCALE / min(x2 - x1, y2 - y1))
    whole, covered, shown = (_grey(image[y1:y2, x1:x2], scale) for image in (source, hidden, written))
    size = min(whole.shape) / SCALE
    window = max(4, round(WINDOW * size))
    removed, missing = (_local_variance(whole - other, window) for other in (covered, shown))
    telling = removed >= MIN_REMOVED**2
    values = np.sort(1.0 - missing[telling] / removed[telling])[::-1]
    place = round(SPOT * (SCALE * size) ** 2)
    return float(max(0.0, values[place])) if len(values) > place else 0.0


def _local_variance(plane: NDArray[np.float32], window: int) -> NDArray[np.float32]:
    """In windows of (window, window) px around every pixel."""
    mean, square = (
        cv2.boxFilter(values, -1, (window, window), borderType=cv2.BORDER_REFLECT) for values in (plane, plane * plane)
    )
    return np.asarray(np.maximum(square - mean * mean, 0.0), dtype=np.float32)


def _leave_out_edges(counted: NDArray[np.float32], region: Region, other: Region, margin: int) -> None:
    """Set `counted`, the scaled plane of `region`, to 0 at the edges of the blocks of `other`.

    That is within `margin` px of them, where `other` lies over `region`.
    """
    x1, y1, x2, y2 = region.rect
    low_x, low_y = max(x1, other.rect[0]), max(y1, other.rect[1])
    high_x, high_y = min(x2, other.rect[2]), min(y2, other.rect[3])
    if low_x >= high_x or low_y >= high_y:
        return
    height, width = counted.shape
    scale_x, scale_y = width / (x2 - x1), height / (y2 - y1)
    part = counted[
        max(0, round((low_y - y1) * scale_y) - margin) : round((high_y - y1) * scale_y) + margin,
        max(0, round((low_x - x1) * scale_x) - margin) : round((high_x - x1) * scale_x) + margin,
    ]
    for axis, start, low, high, origin, scale in (
        (1, x1, low_x, high_x, other.origin[0], scale_x),
        (0, y1, low_y, high_y, other.origin[1], scale_y),
    ):
        offset = max(0, round((low - start) * scale) - margin)
        first = low - (low - origin) % other.cell
        for line in (low, high, *range(first, high + other.cell, other.cell)):
            at = round((line - start) * scale) - offset
            place = slice(max(0, at - margin), max(0, at + margin))
            if axis:
                part[:, place] = 0.0
            else:
                part[place] = 0.0


def _grey(image: Image, scale: float) -> NDArray[np.float32]:
    plane = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    if scale < 1.0:
        height, width = plane.shape
        size = (max(1, round(width * scale)), max(1, round(height * scale)))
        plane = cv2.resize(plane, size, interpolation=cv2.INTER_AREA)
    return plane.astype(np.float32)


def _tiles(plane: NDArray[Any]) -> Array:
    """Means over tiles of about `TILE` px; every pixel is in one."""
    height, width = plane.shape
    ys = np.linspace(0, height, max(1, height // TILE) + 1).astype(int)
    xs = np.linspace(0, width, max(1, width // TILE) + 1).astype(int)
    sums = np.add.reduceat(np.add.reduceat(plane, ys[:-1], axis=0), xs[:-1], axis=1)
    return np.asarray(sums / np.outer(np.diff(ys), np.diff(xs)), dtype=np.float64)


def ssim_map(a: NDArray[np.float32], b: NDArray[np.float32]) -> NDArray[np.float32]:
    """Structural similarity of two planes (0..255) at every pixel: Wang et al. 2004, Gaussian window of 1.5 px."""

    def mean(plane: NDArray[np.float32]) -> NDArray[np.float32]:
        return np.asarray(cv2.GaussianBlur(plane, (11, 11), 1.5), dtype=np.float32)

    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    mean_a, mean_b = mean(a), mean(b)
    var_a, var_b = mean(a * a) - mean_a**2, mean(b * b) - mean_b**2
    cov = mean(a * b) - mean_a * mean_b
    return np.asarray(
        (2 * mean_a * mean_b + c1) * (2 * cov + c2) / ((mean_a**2 + mean_b**2 + c1) * (var_a + var_b + c2)),
        dtype=np.float32,
    )
