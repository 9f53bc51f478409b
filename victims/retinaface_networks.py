"""RetinaFace's networks as biubug6/Pytorch_Retinaface defines them (arXiv 1905.00641), with its key names.

Input (N, 3, H, W): BGR 0..255 minus (104, 117, 123), any size. Output for P priors (see `victims.retinaface.priors`):
loc (N, P, 4), logits (N, P, 2) of background and face, points (N, P, 10).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

ANCHORS = 2
"""Priors per cell of each level."""


def _conv(inputs: int, outputs: int, size: int, stride: int = 1, slope: float | None = None) -> nn.Sequential:
    """Convolution, batch normalisation and, with a slope, leaky ReLU (slope 0: ReLU)."""
    layers: list[nn.Module] = [
        nn.Conv2d(inputs, outputs, size, stride, padding=size // 2, bias=False),
        nn.BatchNorm2d(outputs),
    ]
    if slope is not None:
        layers.append(nn.LeakyReLU(slope, inplace=True))
    return nn.Sequential(*layers)


def _separable(inputs: int, outputs: int, stride: int) -> nn.Sequential:
    """Depthwise 3x3, then pointwise."""
    return nn.Sequential(
        nn.Conv2d(inputs, inputs, 3, stride, padding=1, groups=inputs, bias=False),
        nn.BatchNorm2d(inputs),
        nn.LeakyReLU(0.1, inplace=True),
        nn.Conv2d(inputs, outputs, 1, bias=False),
        nn.BatchNorm2d(outputs),
        nn.LeakyReLU(0.1, inplace=True),
    )


class MobileNetBody(nn.Module):
    """MobileNetV1 x 0.25. Returns the features at strides 8, 16, 32."""

    channels = (64, 128, 256)

    def __init__(self) -> None:
        super().__init__()
        self.stage1 = nn.Sequential(
            _conv(3, 8, 3, 2, 0.1),
            _separable(8, 16, 1),
            _separable(16, 32, 2),
            _separable(32, 32, 1),
            _separable(32, 64, 2),
            _separable(64, 64, 1),
        )
        self.stage2 = nn.Sequential(_separable(64, 128, 2), *(_separable(128, 128, 1) for _ in range(5)))
        self.stage3 = nn.Sequential(_separable(128, 256, 2), _separable(256, 256, 1))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(N, 3, h, w) -> features at strides 8, 16 and 32."""
        first = self.stage1(x)
        second = self.stage2(first)
        return first, second, self.stage3(second)


class ResNetBody(nn.Module):
    """ResNet-50 without its head. Returns the features at strides 8, 16, 32."""

    channels = (512, 1024, 2048)

    def __init__(self) -> None:
        super().__init__()
        from torchvision.models import resnet50  # takes longer to import than torch, and only this network needs it

        whole = resnet50(weights=None)
        self.conv1, self.bn1 = whole.conv1, whole.bn1
        self.layer1, self.layer2, self.layer3, self.layer4 = whole.layer1, whole.layer2, whole.layer3, whole.layer4

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(N, 3, h, w) -> features at strides 8, 16 and 32."""
        x = functional.max_pool2d(functional.relu(self.bn1(self.conv1(x))), 3, 2, 1)
        first = self.layer2(self.layer1(x))
        second = self.layer3(first)
        return first, second, self.layer4(second)


class FeaturePyramid(nn.Module):
    """Makes the three levels of a body equally wide, and adds the coarser ones to the finer ones."""

    def __init__(self, channels: tuple[int, int, int], width: int, slope: float) -> None:
        super().__init__()
        self.output1 = _conv(channels[0], width, 1, slope=slope)
        self.output2 = _conv(channels[1], width, 1, slope=slope)
        self.output3 = _conv(channels[2], width, 1, slope=slope)
        self.merge1 = _conv(width, width, 3, slope=slope)
        self.merge2 = _conv(width, width, 3, slope=slope)

    def forward(self, first: Tensor, second: Tensor, third: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Features at strides 8, 16 and 32 -> the same, `width` channels each."""
        third = self.output3(third)
        second = self.output2(second)
        second = self.merge2(second + functional.interpolate(third, size=second.shape[2:], mode="nearest"))
        first = self.output1(first)
        first = self.merge1(first + functional.interpolate(second, size=first.shape[2:], mode="nearest"))
        return first, second, third


class ContextHead(nn.Module):
    """SSH: three receptive fields side by side. The key `conv7x7_3` has a small x upstream."""

    def __init__(self, width: int, slope: float) -> None:
        super().__init__()
        self.conv3X3 = _conv(width, width // 2, 3)
        self.conv5X5_1 = _conv(width, width // 4, 3, slope=slope)
        self.conv5X5_2 = _conv(width // 4, width // 4, 3)
        self.conv7X7_2 = _conv(width // 4, width // 4, 3, slope=slope)
        self.conv7x7_3 = _conv(width // 4, width // 4, 3)

    def forward(self, x: Tensor) -> Tensor:
        """(N, width, h, w) -> the same shape."""
        middle = self.conv5X5_1(x)
        wide = self.conv7x7_3(self.conv7X7_2(middle))
        return functional.relu(torch.cat([self.conv3X3(x), self.conv5X5_2(middle), wide], dim=1))


class Head(nn.Module):
    """`values` numbers for each prior of a level, in the order row, column, prior."""

    def __init__(self, width: int, values: int) -> None:
        super().__init__()
        self.values = values
        self.conv1x1 = nn.Conv2d(width, ANCHORS * values, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(N, width, h, w) -> (N, h · w · ANCHORS, values)."""
        rows: Tensor = self.conv1x1(x).permute(0, 2, 3, 1).reshape(x.shape[0], -1, self.values)
        return rows


class RetinaFaceNetwork(nn.Module):
    """A body with its feature pyramid, a context head for each level, and the three outputs."""

    def __init__(self, body: MobileNetBody | ResNetBody, width: int) -> None:
        super().__init__()
        slope = 0.1 if width <= 64 else 0.0  # upstream's rule
        self.body = body
        self.fpn = FeaturePyramid(body.channels, width, slope)
        self.ssh1 = ContextHead(width, slope)
        self.ssh2 = ContextHead(width, slope)
        self.ssh3 = ContextHead(width, slope)
        self.ClassHead = nn.ModuleList(Head(width, 2) for _ in range(3))
        self.BboxHead = nn.ModuleList(Head(width, 4) for _ in range(3))
        self.LandmarkHead = nn.ModuleList(Head(width, 10) for _ in range(3))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Pixels (N, 3, h, w) -> boxes (N, P, 4), logits (N, P, 2) and points (N, P, 10) of all priors, encoded."""
        levels = self.fpn(*self.body(x))
        features = [self.ssh1(levels[0]), self.ssh2(levels[1]), self.ssh3(levels[2])]
        loc, logits, points = (
            torch.cat([head(feature) for head, feature in zip(heads, features, strict=True)], dim=1)
            for heads in (self.BboxHead, self.ClassHead, self.LandmarkHead)
        )
        return loc, logits, points


def mobilenet_network() -> RetinaFaceNetwork:
    """mobilenet0.25: 426,608 parameters."""
    return RetinaFaceNetwork(MobileNetBody(), 64)


def resnet50_network() -> RetinaFaceNetwork:
    """Resnet50: 27,293,600 parameters."""
    return RetinaFaceNetwork(ResNetBody(), 256)
