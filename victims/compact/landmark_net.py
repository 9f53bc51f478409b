"""`fan-compact`: a 68-point heatmap network in FAN's style, small enough to train on two CPU cores.

Conventions
-----------
- Crops: (N, 3, 128, 128) RGB in [0, 1]; the whitening lives inside the network.
- Heatmaps: (N, 68, 32, 32) logits, one map per landmark in the 300-W order; larger is likelier.
- Decoded points: (N, 68, 2) as (x, y) in *crop* coordinates, 0 at the crop's left / top edge and 1 at its
  right / bottom edge (half-pixel centres: heatmap cell i covers [i / 32, (i + 1) / 32]).
- Detector boxes: (N, 4) xyxy px. Windows: (N, 4) xyxy px of a square that may leave the image.

Building block (hierarchical, parallel, multi-scale) and the hourglass follow Bulat & Tzimiropoulos, "How far are
we from solving the 2D & 3D face alignment problem?" (ICCV 2017); the widths grow with depth instead of staying
at 256, because the low resolutions are where capacity is cheap. Decoding is the soft-argmax of Nibali et al.,
"Numerical Coordinate Regression with Convolutional Neural Networks" (2018).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

LANDMARKS = 68
CROP_SIZE = 128
HEATMAP_SIZE = 32

# The network's raw maps are multiplied by this before the softmax of the decoder, so that a landmark's map peaks
# at a height of about one, as FAN's do.
SOFTMAX_GAIN = 10.0

# Crop window around a detector's box (w, h): the centre moves by this fraction of h (down is positive), the
# window's side is this fraction of (w + h). FAN's own rule has -0.12 and 200 / 195, for boxes that end below the brows.
WINDOW_SHIFT = 0.12
WINDOW_SIDE = 0.64

_MEAN = (0.45, 0.36, 0.32)
_STD = (0.27, 0.24, 0.24)


class ConvBlock(nn.Module):
    """Pre-activation residual block of three 3x3 convolutions whose outputs are concatenated (1/2, 1/4, 1/4)."""

    def __init__(self, channels_in: int, channels_out: int) -> None:
        super().__init__()
        half, quarter = channels_out // 2, channels_out // 4
        self.bn1 = nn.BatchNorm2d(channels_in)
        self.conv1 = nn.Conv2d(channels_in, half, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(half)
        self.conv2 = nn.Conv2d(half, quarter, 3, padding=1, bias=False)
        self.bn3 = nn.BatchNorm2d(quarter)
        self.conv3 = nn.Conv2d(quarter, quarter, 3, padding=1, bias=False)
        self.shortcut: nn.Module = (
            nn.Identity() if channels_in == channels_out else nn.Conv2d(channels_in, channels_out, 1, bias=False)
        )

    def forward(self, x: Tensor) -> Tensor:
        """(N, channels_in, h, w) -> (N, channels_out, h, w)."""
        first = self.conv1(functional.relu(self.bn1(x)))
        second = self.conv2(functional.relu(self.bn2(first)))
        third = self.conv3(functional.relu(self.bn3(second)))
        shortcut: Tensor = self.shortcut(x)
        return torch.cat((first, second, third), dim=1) + shortcut


class Hourglass(nn.Module):
    """One level: a skip at this resolution beside a path at half of it, recursively.

    `widths[0]` is this level's width, `widths[1:]` those of the lower levels.
    """

    def __init__(self, widths: tuple[int, ...]) -> None:
        super().__init__()
        width, below = widths[0], widths[1]
        self.skip = ConvBlock(width, width)
        self.down = ConvBlock(width, below)
        self.inner: nn.Module = Hourglass(widths[1:]) if len(widths) > 2 else ConvBlock(below, below)
        self.up = ConvBlock(below, width)

    def forward(self, x: Tensor) -> Tensor:
        """(N, width, h, w) -> the same shape; h and w are even at every level."""
        low = self.up(self.inner(self.down(functional.avg_pool2d(x, 2))))
        skip: Tensor = self.skip(x)
        return skip + functional.interpolate(low, scale_factor=2.0, mode="nearest")


class LandmarkNet(nn.Module):
    """(N, 3, 128, 128) RGB crops in [0, 1] -> a tuple of one tensor, (N, 68, 32, 32) heatmaps."""

    mean: Tensor
    std: Tensor

    def __init__(self, stem: int = 32, widths: tuple[int, ...] = (64, 96, 128, 128)) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(_MEAN).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(_STD).view(1, 3, 1, 1), persistent=False)
        width = widths[0]
        self.conv1 = nn.Conv2d(3, stem, 5, stride=2, padding=2, bias=False)  # (N, stem, 64, 64)
        self.bn1 = nn.BatchNorm2d(stem)
        self.conv2 = nn.Conv2d(stem, width, 3, stride=2, padding=1, bias=False)  # (N, width, 32, 32)
        self.block = ConvBlock(width, width)
        self.hourglass = Hourglass(widths)
        self.top = ConvBlock(width, width)
        self.last_bn = nn.BatchNorm2d(width)
        self.last_conv = nn.Conv2d(width, width, 1, bias=False)
        self.end_bn = nn.BatchNorm2d(width)
        self.maps = nn.Conv2d(width, LANDMARKS, 1)

    def forward(self, crops: Tensor) -> tuple[Tensor]:
        """Crops (N, 3, 128, 128), RGB in [0, 1] -> heatmaps (N, 68, 32, 32)."""
        x = (crops - self.mean) / self.std
        x = self.conv2(functional.relu(self.bn1(self.conv1(x))))
        x = self.top(self.hourglass(self.block(x)))
        x = self.last_conv(functional.relu(self.last_bn(x)))
        return (self.maps(functional.relu(self.end_bn(x))),)


def decode_heatmaps(heatmaps: Tensor) -> Tensor:
    """Soft-argmax of (N, 68, h, w) maps: (N, 68, 2) points (x, y) in crop coordinates, 0..1 from edge to edge."""
    count, maps, height, width = heatmaps.shape
    chance = functional.softmax((SOFTMAX_GAIN * heatmaps).flatten(2), dim=-1).view(count, maps, height, width)
    columns = (torch.arange(width, dtype=heatmaps.dtype, device=heatmaps.device) + 0.5) / width
    lines = (torch.arange(height, dtype=heatmaps.dtype, device=heatmaps.device) + 0.5) / height
    return torch.stack(((chance.sum(dim=2) * columns).sum(dim=-1), (chance.sum(dim=3) * lines).sum(dim=-1)), dim=-1)


def windows_of_boxes(boxes: Tensor) -> Tensor:
    """Crop windows (N, 4) of detector boxes (N, 4), both xyxy px; the windows are square and may leave the image."""
    sizes = boxes[:, 2:] - boxes[:, :2]
    centres = (boxes[:, 2:] + boxes[:, :2]) / 2
    centres = torch.stack((centres[:, 0], centres[:, 1] + WINDOW_SHIFT * sizes[:, 1]), dim=1)
    halves = WINDOW_SIDE / 2 * sizes.sum(dim=1, keepdim=True)
    return torch.cat((centres - halves, centres + halves), dim=1)
