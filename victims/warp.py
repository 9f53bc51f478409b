"""Differentiable crops and perspective warps: what stands between a frame and a victim's network.

Conventions
-----------
- Images: (N, 3, H, W) float, any range; or uint8, which is read as x / 255 in float32 (only the part that is
  needed is converted). The value outside an image is 0.
- Points are (x, y) px. *Continuous* coordinates (boxes): pixel (row i, column j) covers [j, j + 1] x [i, i + 1],
  so a box 0, 0, W, H is the whole image. *Index* coordinates (matrices, as in OpenCV): the centre of pixel
  (i, j) is the point (j, i). The two differ by one half.
- Interpolation is bilinear. Both functions are linear and differentiable in the images, and leave the dtype of
  floats. Because they are linear and zero outside, a frame of which only a rectangle changes is read as the sum
  of the rectangle, with the geometry shifted by its corner, and of the frame with that rectangle set to 0.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from victims.face import Array


def crop_squares(images: Tensor, boxes: Tensor, size: int) -> Tensor:
    """Read one window per image, resized to `size` x `size` and antialiased.

    Args:
        images: (N, 3, H, W). An expanded view is fine: only the part that the windows cover is read.
        boxes: (N, 4) x1, y1, x2, y2 px, continuous coordinates; may leave the image, which is zero there.
        size: side of the result in px.

    Returns:
        (N, 3, size, size).

    A window k times larger than `size` is sampled at ceil(k) x ceil(k) points per output pixel, which are averaged;
    one that is smaller is sampled once per pixel, at the half-pixel centres of `cv2.resize(INTER_LINEAR)`. (At the
    rim of a magnified window OpenCV repeats the window's last pixel; here the image's own next pixel is read.)
    Every window is sampled by its own scale, so a result does not depend on the rest of the batch.
    """
    _check(images, boxes, (4,), "boxes")
    sides = (boxes[:, 2:] - boxes[:, :2]).amax(dim=1)
    factors = [max(1, math.ceil(side / size - 1e-6)) for side in sides.tolist()]
    crops: list[Tensor] = [images] * len(factors)
    for factor in sorted(set(factors)):
        rows = [row for row, own in enumerate(factors) if own == factor]
        points = size * factor
        steps = (torch.arange(points, dtype=boxes.dtype, device=boxes.device) + 0.5) / points
        chosen = boxes[rows]
        xs = chosen[:, 0:1] + steps * (chosen[:, 2:3] - chosen[:, 0:1])  # (n, points), continuous
        ys = chosen[:, 1:2] + steps * (chosen[:, 3:4] - chosen[:, 1:2])
        grid = torch.stack(
            (xs[:, None, :].expand(-1, points, -1), ys[:, :, None].expand(-1, -1, points)), dim=-1
        )  # (n, points, points, 2)
        sampled = _sample(images if len(rows) == len(factors) else images[rows], grid)
        if factor > 1:
            sampled = functional.avg_pool2d(sampled, factor)
        for position, row in enumerate(rows):
            crops[row] = sampled[position]
    return torch.stack(crops) if crops else torch.zeros((0, images.shape[1], size, size), device=images.device)


def crop_whole_pixels(images: Tensor, windows: Tensor, size: int) -> Tensor:
    """Read one window of whole pixels per image, resized as `cv2.resize(INTER_LINEAR)` does.

    That is not antialiased, and the window's last pixel is repeated at its rim.

    Args:
        images: (N, 3, H, W).
        windows: (N, 4) integers x1, y1, x2, y2 px, end exclusive, x1 < x2 and y1 < y2; may leave the image.
        size: side of the result in px.

    Returns:
        (N, 3, size, size)
    """
    _check(images, windows, (4,), "windows")
    height, width = images.shape[-2:]
    crops = []
    for image, (x1, y1, x2, y2) in zip(images, windows.tolist(), strict=True):
        left, top = min(max(x1, 0), width - 1), min(max(y1, 0), height - 1)
        right, bottom = max(min(x2, width), left + 1), max(min(y2, height), top + 1)
        part = image[:, top:bottom, left:right]
        if part.dtype == torch.uint8:
            part = part.to(torch.float32) / 255.0
        rows = _linear_weights(y1, y2, top, bottom, size).to(part)
        columns = _linear_weights(x1, x2, left, right, size).to(part)
        crops.append(rows @ part @ columns.T)
    return torch.stack(crops) if crops else torch.zeros((0, images.shape[1], size, size), device=images.device)


def _linear_weights(start: int, end: int, first: int, last: int, size: int) -> Tensor:
    """(size, last - first): how much each sample of the span start..end takes from each pixel.

    The pixels are first..last - 1. Pixels of the span outside that range are zero pixels and take their share with
    them.
    """
    length = end - start
    position = ((torch.arange(size, dtype=torch.float64) + 0.5) * length / size - 0.5).clamp(0, length - 1)
    low = position.floor().clamp(max=max(length - 2, 0))
    pixels = torch.arange(first - start, last - start, dtype=torch.float64)
    share = position - low
    weights = (pixels == low[:, None]) * (1 - share[:, None])
    return weights + (pixels == low[:, None] + 1) * share[:, None]


def warp_perspective(images: Tensor, matrices: Tensor, size: tuple[int, int]) -> Tensor:
    """Warp each image by its own homography: `cv2.warpPerspective(image, matrix, size)`, bilinear, zero border.

    Args:
        images: (N, 3, H, W).
        matrices: (N, 3, 3) source -> patch, px in index coordinates (OpenCV's).
        size: (width, height) of the patches.

    Returns:
        (N, 3, height, width).

    Raises:
        torch.linalg.LinAlgError: a matrix is singular.
    """
    _check(images, matrices, (3, 3), "matrices")
    width, height = size
    # Inverted in double: the normalisation's matrices mix focal lengths with unit rows.
    inverse = torch.linalg.inv(matrices.double())
    columns = torch.arange(width, dtype=torch.float64, device=matrices.device)
    lines = torch.arange(height, dtype=torch.float64, device=matrices.device)
    target = torch.stack(
        (columns.expand(height, width), lines[:, None].expand(height, width), columns.new_ones(height, width)), dim=-1
    )
    source = torch.einsum("nij,hwj->nhwi", inverse, target)
    # As in OpenCV only the horizon itself has no image; it is sent far outside, where it is zero.
    depth = source[..., 2:]
    far = depth.abs() < 1e-12
    grid = torch.where(far, -1e6, source[..., :2] / torch.where(far, 1.0, depth)).clamp(-1e6, 1e6)
    return sample_points(images, grid)


def sample_points(images: Tensor, points: Tensor) -> Tensor:
    """Bilinear samples (N, 3, h, w) of images at `points` (N, h, w, 2), index coordinates; zero outside."""
    return _sample(images, points + 0.5)


def similarity(source: Array, target: Array) -> Array:
    """The least-squares similarity (2, 3), rotation, scale and shift, that maps points (n, 2) onto others."""
    middle, goal = source.mean(axis=0), target.mean(axis=0)
    a, b = source - middle, target - goal
    square = max(float((a * a).sum()), 1e-9)
    cosine = float((a * b).sum()) / square
    sine = float((a[:, 0] * b[:, 1] - a[:, 1] * b[:, 0]).sum()) / square
    linear = np.array([[cosine, -sine], [sine, cosine]])
    return np.concatenate([linear, (goal - linear @ middle)[:, None]], axis=1)


def _sample(images: Tensor, grid: Tensor) -> Tensor:
    """Bilinear samples (N, 3, h, w) of images at `grid` (N, h, w, 2), continuous px; zero outside.

    Only the rows and columns that the grid touches enter grid_sample: its backward pass writes a gradient as
    large as its input, and a frame is some fifty times larger than a window.
    """
    height, width = images.shape[-2:]
    lowest = grid.detach().amin(dim=(0, 1, 2)).tolist()
    highest = grid.detach().amax(dim=(0, 1, 2)).tolist()
    left, right = _span(lowest[0], highest[0], width)
    top, bottom = _span(lowest[1], highest[1], height)
    window = images[..., top:bottom, left:right]
    if window.dtype == torch.uint8:
        window = window.to(torch.float32) / 255.0
    origin = grid.new_tensor((left, top))
    extent = grid.new_tensor((right - left, bottom - top))
    unit = ((grid - origin) * (2.0 / extent) - 1.0).to(window.dtype)
    return functional.grid_sample(window, unit, mode="bilinear", padding_mode="zeros", align_corners=False)


def _span(low: float, high: float, length: int) -> tuple[int, int]:
    """First and past-last index that samples between `low` and `high` read, kept inside the image, never empty."""
    first = min(max(math.floor(low) - 1, 0), length - 1)
    last = max(min(math.ceil(high) + 1, length), first + 1)
    return first, last


def _check(images: Tensor, geometry: Tensor, shape: tuple[int, ...], name: str) -> None:
    if images.ndim != 4 or geometry.shape[1:] != shape or len(geometry) != len(images):
        wanted = ", ".join(str(n) for n in shape)
        raise ValueError(
            f"images {tuple(images.shape)} and {name} {tuple(geometry.shape)} must be (N, C, H, W) and (N, {wanted})"
        )
