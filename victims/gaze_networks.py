"""The gaze networks, with the key names of their published checkpoints.

Each is called with a batch and returns a tuple of one tensor, (N, 2): pitch and yaw, rad, in normalised camera space.

Sources: hysts/pytorch_mpiigaze_demo (ptgaze 0.3.0, MIT) for what the checkpoints hold; Zhang et al., "ETH-XGaze"
(ECCV 2020); Zhang et al., "It's written all over your face" (CVPRW 2017); He et al., "Identity mappings in deep
residual networks" (ECCV 2016) for the pre-activated blocks.
"""

from __future__ import annotations

from collections import OrderedDict

import torch
from torch import Tensor, nn
from torch.nn import functional

from victims.compact.gaze_net import GazeNet

# torchvision's own ResNet-18 has the same keys and answers, but importing it takes as long as importing torch.


class _ResidualBlock(nn.Module):
    """ResNet-18's block: two 3x3 convolutions, batch normalisation after each, activation after the sum."""

    def __init__(self, channels_in: int, channels_out: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels_in, channels_out, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels_out)
        self.conv2 = nn.Conv2d(channels_out, channels_out, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels_out)
        self.downsample = nn.Sequential()
        if stride > 1:
            self.downsample.append(nn.Conv2d(channels_in, channels_out, 1, stride, bias=False))
            self.downsample.append(nn.BatchNorm2d(channels_out))

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn2(self.conv2(functional.relu(self.bn1(self.conv1(x)))))
        return functional.relu(y + self.downsample(x))


def _resnet18_stages(count: int) -> OrderedDict[str, nn.Module]:
    """ResNet-18 up to and with its stage `count` (1..4), under torchvision's names."""
    parts: OrderedDict[str, nn.Module] = OrderedDict(
        conv1=nn.Conv2d(3, 64, 7, 2, padding=3, bias=False),
        bn1=nn.BatchNorm2d(64),
        relu=nn.ReLU(),
        maxpool=nn.MaxPool2d(3, 2, padding=1),
    )
    channels = 64
    for stage in range(1, count + 1):
        width = 32 * 2**stage
        parts[f"layer{stage}"] = nn.Sequential(
            _ResidualBlock(channels, width, stride=1 if stage == 1 else 2), _ResidualBlock(width, width, stride=1)
        )
        channels = width
    return parts


class ETHXGazeNet(nn.Sequential):
    """`eth-xgaze`: ResNet-18 with two outputs.

    Input (N, 3, 224, 224), RGB, minus the ImageNet mean, over its deviation.
    """

    def __init__(self) -> None:
        super().__init__(_resnet18_stages(4))
        self.add_module("avgpool", nn.AdaptiveAvgPool2d(1))
        self.add_module("flatten", nn.Flatten())
        self.add_module("fc", nn.Linear(512, 2))

    def forward(self, patches: Tensor) -> tuple[Tensor]:
        """Patches -> pitch and yaw (N, 2), rad."""
        for stage in self:
            patches = stage(patches)
        return (patches,)


class MPIIFaceGazeNet(nn.Module):
    """`mpiifacegaze` ("resnet_simple"): ResNet-18 up to its third stage, weighted by a learnt map of where to look.

    Input (N, 3, 224, 224), **BGR**, minus the ImageNet mean, over its deviation.
    """

    def __init__(self) -> None:
        super().__init__()
        self.feature_extractor = nn.Sequential(_resnet18_stages(3))
        self.conv = nn.Conv2d(256, 1, 1)
        self.fc = nn.Linear(256 * 14 * 14, 2)

    def forward(self, patches: Tensor) -> tuple[Tensor]:
        """Patches -> pitch and yaw (N, 2), rad."""
        features = self.feature_extractor(patches)  # (N, 256, 14, 14)
        attention = functional.relu(self.conv(features))  # (N, 1, 14, 14)
        return (self.fc((features * attention).flatten(1)),)


class _PreactBlock(nn.Module):
    """Two 3x3 convolutions after batch normalisation; the shortcut starts from the *activated* input."""

    def __init__(self, channels_in: int, channels_out: int, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(channels_in)
        self.conv1 = nn.Conv2d(channels_in, channels_out, 3, stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels_out)
        self.conv2 = nn.Conv2d(channels_out, channels_out, 3, padding=1, bias=False)
        self.shortcut = nn.Sequential()
        if channels_in != channels_out:
            self.shortcut.add_module("conv", nn.Conv2d(channels_in, channels_out, 1, stride, bias=False))

    def forward(self, x: Tensor) -> Tensor:
        x = functional.relu(self.bn1(x))
        return self.conv2(functional.relu(self.bn2(self.conv1(x)))) + self.shortcut(x)  # type: ignore[no-any-return]


class MPIIGazeNet(nn.Module):
    """`mpiigaze` ("resnet_preact", depth 8): one eye, and where the head points.

    Input: (N, 1, 36, 60) equalised grey levels in [0, 1], of left eyes or mirrored right ones; (N, 2) the head's
    pitch and yaw, rad, in normalised camera space (yaw negated where the eye is mirrored, and so is the result's).
    """

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 16, 3, padding=1, bias=False)
        self.stage1 = nn.Sequential(OrderedDict(block1=_PreactBlock(16, 16, 1)))
        self.stage2 = nn.Sequential(OrderedDict(block1=_PreactBlock(16, 32, 2)))
        self.stage3 = nn.Sequential(OrderedDict(block1=_PreactBlock(32, 64, 2)))
        self.bn = nn.BatchNorm2d(64)
        self.fc = nn.Linear(64 + 2, 2)

    def forward(self, eyes: Tensor, head_poses: Tensor) -> tuple[Tensor]:
        """Eyes (N, 1, 36, 60) and the head's pitch and yaw (N, 2) -> the gaze's (N, 2), rad."""
        x = self.stage3(self.stage2(self.stage1(self.conv(eyes))))  # (N, 64, 9, 15)
        x = functional.relu(self.bn(x)).mean(dim=(2, 3))  # (N, 64)
        return (self.fc(torch.cat((x, head_poses), dim=1)),)


class CompactGazeNet(GazeNet):
    """`gaze-compact`: our own. Input (N, 3, 224, 224), RGB in [0, 1]."""

    def forward(self, patches: Tensor) -> tuple[Tensor]:  # type: ignore[override]
        """Patches -> pitch and yaw (N, 2), rad, as a tuple like the others."""
        return (super().forward(patches),)
