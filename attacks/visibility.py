"""How much of a perturbation a person sees, in the box of the face it is embedded for."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from skimage.metrics import structural_similarity

from victims.base import Image
from victims.face import Array

LEAST_SIDE = 7
"""px: SSIM's window; smaller boxes have no SSIM."""


@dataclass(frozen=True)
class Visibility:
    """Of one face. Levels are of 255, over the three channels."""

    rms: float
    """Root mean square of the change, levels."""
    p95: float
    """95th percentile of its absolute value, levels."""
    at_eps: float
    """Share of values that are changed by all that is allowed."""
    ssim: float
    """Structural similarity (Wang et al. 2004) of the obscured and the perturbed picture; 1 is equal, NaN unknown."""


def visibility(covered: Image, change: NDArray[np.int8], corner: tuple[int, int], box: Array, eps: float) -> Visibility:
    """How visible `change` (h, w, 3), which is added at `corner` (x, y) of an obscured frame, is in `box` (4,).

    `eps` is the largest change that is allowed, of 1. All is NaN where the box lies outside the change.
    """
    height, width = change.shape[:2]
    own = np.round(np.asarray(box, dtype=np.float64) - np.tile(corner, 2)).astype(int)
    left, top = np.clip(own[:2], 0, (width, height))
    right, bottom = np.clip(own[2:], 0, (width, height))
    part = change[top:bottom, left:right].astype(np.float64)
    if not part.size:
        return Visibility(np.nan, np.nan, np.nan, np.nan)
    size = np.abs(part)
    before = covered[corner[1] + top : corner[1] + bottom, corner[0] + left : corner[0] + right].astype(np.float64)
    similar = np.nan
    if min(part.shape[:2]) >= LEAST_SIDE:
        after = np.clip(before + part, 0.0, 255.0)
        similar = float(structural_similarity(before, after, channel_axis=2, data_range=255.0))
    return Visibility(
        float(np.sqrt(np.square(part).mean())),
        float(np.percentile(size, 95)),
        float((size >= int(eps * 255.0 + 1e-6)).mean()),
        similar,
    )
