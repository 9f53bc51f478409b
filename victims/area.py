"""Area resampling (adaptive average pooling) of rectangles of a frame, as MTCNN's pyramid and crops use it.

Output pixel i of n, of a span of L px, is the mean of the source pixels floor(i·L/n) .. ceil((i+1)·L/n) - 1; this is
what `torch.nn.functional.interpolate(mode="area")` computes. Two equal implementations:

* `AreaSampler`: numpy, from a summed-area table, so that cost does not depend on the size of the rectangle;
* `area_matrix`: the same weights as a matrix, for a differentiable resampling A_y · X · A_xᵀ.

Rectangles are whole pixels: x0, y0 inclusive, x1, y1 exclusive, 0-based, inside the frame.
"""

from __future__ import annotations

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from victims.base import Image


def bins(start: NDArray[np.int64], length: NDArray[np.int64], n: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """First and one-past-last source pixel of each of n outputs: two arrays (k, n) for k spans."""
    steps = np.arange(n)
    low = start[:, None] + (steps * length[:, None]) // n
    high = start[:, None] - ((-(steps + 1) * length[:, None]) // n)
    return low, high


class AreaSampler:
    """Means over rectangles of one uint8 image (H, W, 3), exact to float32."""

    def __init__(self, image: Image) -> None:
        self.height, self.width = image.shape[:2]
        # Sums of pictures over 8 megapixels wrap around, and differences of them wrap back: those of rectangles of up
        # to 8 megapixels to one output pixel are exact.
        self._table = cv2.integral(np.ascontiguousarray(image), sdepth=cv2.CV_32S)

    def level(self, height: int, width: int) -> NDArray[np.float32]:
        """The whole image resampled to (height, width, 3), values 0..255."""
        zero = np.zeros(1, np.int64)
        (y0,), (y1,) = bins(zero, np.array([self.height]), height)
        (x0,), (x1,) = bins(zero, np.array([self.width]), width)
        # in place and in rows of single numbers: this is half of what detecting costs
        rows = self._table.take(y1, axis=0)
        rows -= self._table.take(y0, axis=0)
        rows = rows.reshape(height, -1)
        channels = np.arange(3)
        sums = rows.take((3 * x1[:, None] + channels).ravel(), axis=1)
        sums -= rows.take((3 * x0[:, None] + channels).ravel(), axis=1)
        counts = (y1 - y0)[:, None, None] * (x1 - x0)[None, :, None]
        return np.asarray(sums.reshape(height, width, 3) / counts, np.float32)

    def crops(self, rectangles: NDArray[np.int64], size: int) -> NDArray[np.float32]:
        """Rectangles (k, 4) x0, y0, x1, y1 resampled to (k, size, size, 3), values 0..255."""
        x0, x1 = bins(rectangles[:, 0], rectangles[:, 2] - rectangles[:, 0], size)
        y0, y1 = bins(rectangles[:, 1], rectangles[:, 3] - rectangles[:, 1], size)
        table = self._table
        top, bottom = y0[:, :, None], y1[:, :, None]
        left, right = x0[:, None, :], x1[:, None, :]
        sums = table[bottom, right] - table[top, right] - table[bottom, left] + table[top, left]
        return (sums / ((bottom - top) * (right - left))[..., None]).astype(np.float32)


def area_matrix(
    start: NDArray[np.int64], length: NDArray[np.int64], n: int, offset: NDArray[np.int64], extent: int
) -> Tensor:
    """Weights (k, n, extent): row i of span k holds 1/count at the source pixels of output i.

    Sources are counted from `offset` (k,), and those outside [offset, offset + extent) get no weight: the matrix acts
    on a part of the frame and leaves the rest to whoever knows it to be constant.
    """
    low, high = bins(start, length, n)
    position = np.arange(extent)[None, None, :] + offset[:, None, None]
    inside = (position >= low[..., None]) & (position < high[..., None])
    return torch.from_numpy(inside / (high - low)[..., None].astype(np.float32)).to(torch.float32)
