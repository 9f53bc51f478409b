"""A network that reads a crop of a face, with the key names of its released weights.

Pfld gives 68 points (Guo et al. 2019, arXiv 1902.10859; cunjian/pytorch_face_landmark's pfld_compressed). Inputs are
(N, 3, 112, 112) RGB.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional


class _Inverted(nn.Module):
    """Pointwise, depthwise 3x3, pointwise, added to its input where `residual`."""

    def __init__(self, widths: tuple[int, int, int], stride: int, residual: bool) -> None:
        super().__init__()
        inputs, middle, outputs = widths
        self.conv = nn.Sequential(
            nn.Conv2d(inputs, middle, 1, bias=False),
            nn.BatchNorm2d(middle),
            nn.ReLU(inplace=True),
            nn.Conv2d(middle, middle, 3, stride, padding=1, groups=middle, bias=False),
            nn.BatchNorm2d(middle),
            nn.ReLU(inplace=True),
            nn.Conv2d(middle, outputs, 1, bias=False),
            nn.BatchNorm2d(outputs),
        )
        self.residual = residual

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.conv(x)
        return x + y if self.residual else y


class Pfld(nn.Module):
    """Of pixels / 255: one output (N, 136), x and y of 68 points in units of the crop."""

    ORDER = (
        *("conv3_1", "block3_2", "block3_3", "block3_4", "block3_5", "conv4_1"),
        *("conv5_1", "block5_2", "block5_3", "block5_4", "block5_5", "block5_6", "conv6_1"),
    )

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 64, 3, 2, padding=1, bias=False), nn.BatchNorm2d(64)
        self.dw_pool = nn.Conv2d(64, 64, 3, padding=1, groups=64, bias=False)
        self.dw_bn = nn.BatchNorm2d(64)
        self.conv1_extra = nn.Conv2d(64, 64, 1, bias=False)
        self.conv3_1 = _Inverted((64, 64, 64), 2, False)
        self.conv4_1 = _Inverted((64, 64, 128), 2, False)
        self.conv5_1 = _Inverted((128, 256, 128), 1, False)
        self.conv6_1 = _Inverted((128, 128, 16), 1, False)
        for number in range(2, 6):
            setattr(self, f"block3_{number}", _Inverted((64, 64, 64), 1, True))
        for number in range(2, 7):
            setattr(self, f"block5_{number}", _Inverted((128, 256, 128), 1, True))
        self.conv7 = nn.Sequential(
            nn.Conv2d(16, 32, 3, 2, padding=1, bias=False), nn.BatchNorm2d(32), nn.ReLU(inplace=True)
        )
        self.conv8 = nn.Conv2d(32, 128, 7)
        self.fc = nn.Linear(176, 136)

    def forward(self, x: Tensor) -> tuple[Tensor]:
        """(N, 3, 112, 112) -> 68 points (N, 136), x and y in turn, in shares of the crop."""
        x = functional.relu(self.bn1(self.conv1(x)))
        x = functional.relu(self.conv1_extra(self.dw_bn(self.dw_pool(x))))
        for name in self.ORDER:
            x = getattr(self, name)(x)
        half = self.conv7(x)
        last = functional.relu(self.conv8(half))
        return (self.fc(torch.cat([x.mean(dim=(2, 3)), half.mean(dim=(2, 3)), last.flatten(1)], dim=1)),)
