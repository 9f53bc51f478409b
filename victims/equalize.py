"""OpenCV's grey conversion and histogram equalisation, to the level, with a gradient.

Forward both are `cv2.cvtColor(.., COLOR_RGB2GRAY)` and `cv2.equalizeHist` on 8-bit images. Backward they are what
they approximate before rounding: a weighted sum, and a rank. The rank's gradient was chosen over passing the gradient
straight through because it recovers more with MPIIGaze's weights on real frames (best angle after 40 steps 0.14, 0.13,
0.19 degrees against 0.25, 0.15, 0.18 for coarse pixelation, fine pixelation and a solid fill; after 10 steps 0.95,
0.66, 0.63 against 0.72, 0.55, 1.54): `python -m tests.benchmarks.gaze_equalize`.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import FunctionCtx
from torch.nn import functional

_LEVELS = 256

_RED, _GREEN, _BLUE, _ONE = 9798.0, 19235.0, 3735.0, 32768.0
"""OpenCV's 15-bit weights of 0.299, 0.587, 0.114 (modules/imgproc/src/color_rgb). Sums stay below 2^24: exact in
float32."""

_BANDWIDTH = 4.0
"""Standard deviation, grey levels, of the kernel that makes the histogram a density in the backward pass."""


def grey_levels(images: Tensor) -> Tensor:
    """RGB in [0, 1], (N, 3, H, W) -> grey levels 0..255, whole numbers in the images' dtype, (N, 1, H, W).

    Channels are rounded to whole levels first, as OpenCV's 8-bit warp leaves them; the gradient passes both
    roundings as if they were not there.
    """
    return _Grey.apply(images)  # type: ignore[no-any-return]


def equalize_hist(levels: Tensor) -> Tensor:
    """Equalise each image's own histogram: whole levels 0..255, (N, 1, H, W) -> the same.

    An image of one level only stays as it is. Backward: the result at a pixel is 255 times the share of pixels that
    are darker, so a pixel's gradient is that of its own rank *and* of the ranks of the pixels it overtakes, with the
    histogram smoothed by a Gaussian into a density.
    """
    return _Equalize.apply(levels)  # type: ignore[no-any-return]


class _Grey(Function):
    @staticmethod
    def forward(ctx: FunctionCtx, images: Tensor) -> Tensor:
        red, green, blue = (images.detach() * 255.0).round().clamp(0.0, 255.0).unbind(1)
        return torch.floor((red * _RED + green * _GREEN + blue * _BLUE + _ONE / 2) / _ONE)[:, None]

    @staticmethod
    def backward(ctx: FunctionCtx, gradient: Tensor) -> Tensor:
        weights = gradient.new_tensor((_RED, _GREEN, _BLUE)) * (255.0 / _ONE)
        return gradient * weights[:, None, None]


class _Equalize(Function):
    @staticmethod
    def forward(ctx: FunctionCtx, levels: Tensor) -> Tensor:
        flat = levels.detach().flatten(1).long()  # (N, P)
        counts = flat.new_zeros((len(flat), _LEVELS)).scatter_add_(1, flat, torch.ones_like(flat))
        darkest = counts.gather(1, flat.amin(dim=1, keepdim=True))  # (N, 1)
        others = flat.shape[1] - darkest
        # In float32, like OpenCV, whatever the images' dtype.
        scale = 255.0 / others.clamp(min=1).float()
        table = ((counts.cumsum(1) - darkest).float() * scale).round().clamp(min=0.0)
        equalized = torch.where(others > 0, table.gather(1, flat).to(levels.dtype), levels.detach().flatten(1))
        ctx.save_for_backward(flat, counts)
        return equalized.view_as(levels)

    @staticmethod
    def backward(ctx: FunctionCtx, gradient: Tensor) -> Tensor:
        saved: tuple[Tensor, Tensor] = ctx.saved_tensors  # type: ignore[attr-defined]
        flat, counts = saved
        upstream = gradient.flatten(1)
        by_level = upstream.new_zeros(counts.shape).scatter_add_(1, flat, upstream)
        own = upstream * _smooth(counts.to(upstream.dtype)).gather(1, flat)
        overtaken = _smooth(by_level).gather(1, flat)
        # A share of all pixels, not of those above the darkest level: bounded where nearly all are of one level.
        return ((own - overtaken) * (255.0 / flat.shape[1])).view_as(gradient)


def _smooth(histograms: Tensor) -> Tensor:
    """(N, 256) -> the same, convolved with a Gaussian of sum 1."""
    reach = math.ceil(3 * _BANDWIDTH)
    offsets = torch.arange(-reach, reach + 1, dtype=histograms.dtype, device=histograms.device)
    kernel = torch.exp(-0.5 * (offsets / _BANDWIDTH) ** 2)
    return functional.conv1d(histograms[:, None], (kernel / kernel.sum())[None, None], padding=reach)[:, 0]
