"""Regions: rotated rectangles of the frame, and how MediaPipe's client reads them.

A region is a row (centre x, centre y, width, height, rotation): px of the frame, index coordinates (the centre of the
pixel in row i, column j is (j, i)), rotation in rad, clockwise as seen. It is read as n x n samples at

    centre + R(rotation) ((X / n - 1/2) width, (Y / n - 1/2) height),   X, Y = 0..n-1

with whole numbers for pixels on both sides: no half-pixel shift, no antialiasing. `read_exact` is `warpPerspective` of
OpenCV 4, which the client has, on 8-bit images to the grey level: positions rounded to 1/32 px, results to whole
levels. (OpenCV 5's is up to 3 levels off.) `RegionPixels` is the same with a gradient and without rounding.

Source: held against mediapipe 0.10.21's client; `mediapipe/calculators/tensor/image_to_tensor_converter_opencv.cc`.
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from victims.base import Image, Window
from victims.face import Array
from victims.warp import sample_points

_FRACTIONS = 32
"""Steps between two pixels that OpenCV tells apart."""
_FAR = 32000
"""px; maps are of 16 bits, and what lies farther outside is outside, too."""


def positions(regions: Array, size: int) -> Array:
    """(k, size, size, 2) x, y px of the frame where `regions` (k, 5) are sampled."""
    steps = np.arange(size) / size - 0.5
    x = steps[None, None, :] * regions[:, 2, None, None]
    y = steps[None, :, None] * regions[:, 3, None, None]
    cosine, sine = np.cos(regions[:, 4, None, None]), np.sin(regions[:, 4, None, None])
    centre = regions[:, None, None, :2]
    return np.asarray(centre + np.stack(np.broadcast_arrays(cosine * x - sine * y, sine * x + cosine * y), axis=-1))


def read_exact(image: Image, regions: Array, size: int, repeat_border: bool) -> NDArray[np.uint8]:
    """(k, size, size, 3) what the client's networks see of `regions` (k, 5) of an image (H, W, 3).

    Outside the frame lies its border pixel with `repeat_border`, and 0 without.
    """
    fixed = np.rint(positions(regions, size) * _FRACTIONS).astype(np.int64)  # half to even
    whole = (fixed >> 5).clip(-_FAR, _FAR).astype(np.int16)
    part = (fixed & (_FRACTIONS - 1)).astype(np.uint16)
    # with maps of whole and 32nd pixels `remap` is the same arithmetic in OpenCV 4 and 5
    border = cv2.BORDER_REPLICATE if repeat_border else cv2.BORDER_CONSTANT
    steps = part[..., 1] * _FRACTIONS + part[..., 0]
    crops = [
        cv2.remap(image, at, between, cv2.INTER_LINEAR, borderMode=border)
        for at, between in zip(whole, steps, strict=True)
    ]
    return np.stack(crops).astype(np.uint8, copy=False)


def to_frame(points: Array, regions: Array, size: int) -> Array:
    """Points (k, n, 2 or 3) of `size` px regions (k, 5) as px of the frame; z, if any, by the scale of x."""
    turned = to_frame_tensor(torch.from_numpy(points), torch.from_numpy(regions), size)
    return np.asarray(turned.numpy(), dtype=np.float64)


def to_frame_tensor(points: Tensor, regions: Tensor, size: int) -> Tensor:
    """The same, differentiable in the points."""
    x = (points[..., 0] / size - 0.5) * regions[:, None, 2]
    y = (points[..., 1] / size - 0.5) * regions[:, None, 3]
    cosine, sine = torch.cos(regions[:, None, 4]), torch.sin(regions[:, None, 4])
    moved = [regions[:, None, 0] + cosine * x - sine * y, regions[:, None, 1] + sine * x + cosine * y]
    if points.shape[-1] == 3:
        moved.append(points[..., 2] / size * regions[:, None, 2])
    return torch.stack(moved, dim=-1)


def letterbox(height: int, width: int) -> Array:
    """(5,) the square around a frame of this size, which detectors read."""
    side = float(max(height, width))
    return np.array([width / 2, height / 2, side, side, 0.0])


def region_around(box: Array, start: Array, end: Array, scale: float = 1.5) -> Array:
    """(5,) a square `scale` times as large as the larger side of `box` (4,).

    It is turned so that point `end` (2,) lies to the right of point `start` (2,).
    """
    side = scale * float(max(box[2] - box[0], box[3] - box[1]))
    angle = -np.arctan2(-(end[1] - start[1]), end[0] - start[0])
    return np.array([(box[0] + box[2]) / 2, (box[1] + box[3]) / 2, side, side, angle])


def upright_region(box: Array) -> Array:
    """(5,) the same for a face of which no points are known."""
    return region_around(box, np.zeros(2), np.array([1.0, 0.0]))


class RegionPixels:
    """What networks see of one region of each frame of a batch while its window changes: float RGB in [0, 1]."""

    def __init__(
        self,
        frames: Sequence[Image],
        windows: Sequence[Window],
        regions: Array,
        size: int,
        repeat_border: bool,
        device: torch.device | str,
    ) -> None:
        """`regions` (B, 5), one a frame; windows are all of one size."""
        self._size, self._border, self._device = size, repeat_border, device
        self._cell = float(regions[0, 2]) / size
        self._offsets = np.array([[w.x, w.y] for w in windows], dtype=np.float64)
        self._others = []
        for frame, window in zip(frames, windows, strict=True):
            other = frame.copy()
            window.cut(other)[:] = 0
            self._others.append(torch.from_numpy(other).permute(2, 0, 1)[None])
        self._at, self._rest = self._places(regions, list(range(len(frames))))

    def _places(self, regions: Array, rows: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Where `regions` (n, 5) of frames `rows` are read in the windows, (n, size, size, 2), and the rest of it."""
        at = positions(regions, self._size)
        if self._border:  # first, so that window and rest are read at the same places
            height, width = self._others[0].shape[2:]
            at = at.clip(0.0, [width - 1.0, height - 1.0])
        own = torch.from_numpy(at)
        rest = [sample_points(self._others[row], one[None]) for row, one in zip(rows, own, strict=True)]
        inside = own - torch.from_numpy(self._offsets[list(rows), None, None])
        return inside.to(self._device), torch.cat(rest).to(self._device)

    def read(self, pixels: Tensor, rows: Tensor, regions: Array | None = None) -> Tensor:
        """(n, 3, size, size) with `pixels` (n, 3, h, w) in the windows of frames `rows` (n,).

        In other `regions` (n, 5) than were given, if there are any.
        """
        at, rest = (self._at[rows], self._rest[rows]) if regions is None else self._places(regions, rows.tolist())
        return rest.to(pixels.dtype) + sample_points(pixels, at)

    def around(self, pixels: Tensor, rows: Tensor) -> Tensor:
        """(n, 3, size, size) 0, with the gradient of the means of nine samples that share out the cell around each."""
        at = self._at[rows]
        edge = at.new_tensor(pixels.shape[:1:-1])  # width, height
        near = ((at > -self._cell) & (at < edge + self._cell)).all(dim=-1).any(dim=0)
        lines, columns = near.any(dim=1).nonzero().flatten(), near.any(dim=0).nonzero().flatten()
        mean = torch.zeros_like(self._rest[rows], dtype=pixels.dtype)
        if len(lines):  # the others see nothing of the window
            own = at[:, lines[0] : lines[-1] + 1, columns[0] : columns[-1] + 1]
            steps = [self._cell / 3 * own.new_tensor([x, y]) for y in (-1, 0, 1) for x in (-1, 0, 1)]
            some = torch.stack([sample_points(pixels, own + step) for step in steps]).mean(dim=0)
            mean[:, :, lines[0] : lines[-1] + 1, columns[0] : columns[-1] + 1] = some - some.detach()
        return mean
