"""Networks of small face detectors, with the key names of their released weights.

All take (N, 3, H, W) BGR, 0..255 (`YuNet`) or minus (104, 117, 123) (the others), and return for P cells or priors, in
the order level, row, column, prior: loc (N, P, 4) and margins (N, P), the log odds of a face.

YuNet       Wu et al. 2023, Machine Intelligence Research 20; ShiqiYu/libfacedetection.train; H, W multiples of 32
UltraFace   biubug6/Face-Detector-1MB-with-landmark: RFB and slim
FaceBoxes   Zhang et al. 2017, arXiv 1708.05234, in the form of 3DDFA_V2's FaceBoxesProd
SmallRetinaFace  the network of `victims.retinaface_networks`, for other priors; biubug6/Face-Detector-1MB-with-landmark

`points` gives (N, P, 10), undecoded: two eyes, nose, two corners of the mouth, the image's left first.
"""

from __future__ import annotations

import itertools
from abc import abstractmethod

import torch
from torch import Tensor, nn
from torch.nn import functional
from typing_extensions import override

from victims.retinaface_networks import MobileNetBody, RetinaFaceNetwork


def flat(values: Tensor, size: int) -> Tensor:
    """A head's (N, A · size, H, W) as (N, H · W · A, size)."""
    return values.permute(0, 2, 3, 1).reshape(len(values), -1, size)


class _Unit(nn.Module):
    """YuNet's: pointwise, depthwise 3x3, batch normalisation and ReLU (heads: neither)."""

    def __init__(self, inputs: int, outputs: int, normalised: bool = True) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 1)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, groups=outputs)
        self.bn = nn.BatchNorm2d(outputs) if normalised else None

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv2(self.conv1(x))
        return x if self.bn is None else functional.relu(self.bn(x))


class _Stem(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, 2, padding=1)
        self.bn1 = nn.BatchNorm2d(16)
        self.conv2 = _Unit(16, 16)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.conv2(functional.relu(self.bn1(self.conv1(x))))
        return y


class _Pair(nn.Module):
    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv1 = _Unit(inputs, inputs)
        self.conv2 = _Unit(inputs, outputs)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.conv2(self.conv1(x))
        return y


class YuNet(nn.Module):
    """`n` and `s`. `widths` are the outputs of the six stages; `shared`: one unit for each level before its heads."""

    STRIDES = (8, 16, 32)
    HALVED = (0, 2, 3, 4)
    """Stages that a max pooling follows."""

    def __init__(self, widths: tuple[int, ...], shared: bool) -> None:
        super().__init__()
        stages: list[nn.Module] = [_Stem(), _Pair(16, widths[1])]
        stages += [_Pair(widths[k - 1], widths[k]) for k in range(2, 6)]
        self.backbone = nn.ModuleDict({f"model{k}": stage for k, stage in enumerate(stages)})
        self.neck = nn.ModuleDict({"lateral_convs": nn.ModuleList(_Unit(width, width) for width in widths[3:])})
        levels = range(len(self.STRIDES))
        heads = {
            f"multi_level_{name}": nn.ModuleList(_Unit(64, size, normalised=False) for _ in levels)
            for name, size in (("cls", 1), ("bbox", 4), ("obj", 1), ("kps", 10))
        }
        if shared:
            heads["multi_level_share_convs"] = nn.ModuleList(nn.Sequential(_Unit(64, 64)) for _ in levels)
        self.bbox_head = nn.ModuleDict(heads)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(N, 3, h, w) -> boxes (N, P, 4), encoded, and log odds (N, P)."""
        levels = self._levels(x)
        heads = self.bbox_head
        if "multi_level_share_convs" in heads:
            levels = self._each("multi_level_share_convs", levels)
        class_, box, object_ = (
            torch.cat([flat(part, size) for part in self._each(f"multi_level_{name}", levels)], dim=1)
            for name, size in (("cls", 1), ("bbox", 4), ("obj", 1))
        )
        return box, _odds_of_both(class_[..., 0], object_[..., 0])

    def points(self, x: Tensor) -> Tensor:
        """See the module's head."""
        levels = self._levels(x)
        if "multi_level_share_convs" in self.bbox_head:
            levels = self._each("multi_level_share_convs", levels)
        return torch.cat([flat(part, 10) for part in self._each("multi_level_kps", levels)], dim=1)

    def _levels(self, x: Tensor) -> list[Tensor]:
        levels = []
        for number, stage in enumerate(self.backbone.values()):
            x = stage(x)
            if number >= 3:
                levels.append(x)
            if number in self.HALVED:
                x = functional.max_pool2d(x, 2)
        joined: list[Tensor] = []
        for level, lateral in zip(levels[::-1], list(self.neck["lateral_convs"])[::-1], strict=True):  # type: ignore[call-overload]
            above = functional.interpolate(joined[0], scale_factor=2.0, mode="nearest") if joined else 0.0
            joined.insert(0, lateral(level + above))
        return joined

    def _each(self, name: str, levels: list[Tensor]) -> list[Tensor]:
        return [layer(level) for layer, level in zip(self.bbox_head[name], levels, strict=True)]  # type: ignore[call-overload]


def _odds_of_both(first: Tensor, second: Tensor) -> Tensor:
    """Log odds of two independent events together, each given by its log odds."""
    log_sigmoid = functional.logsigmoid
    both = log_sigmoid(first) + log_sigmoid(second)
    return both - torch.logaddexp(log_sigmoid(-first), log_sigmoid(first) + log_sigmoid(-second))


def _plain(inputs: int, outputs: int, stride: int) -> nn.Sequential:
    """3x3, batch normalisation, ReLU."""
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)
    )


def _separable(inputs: int, outputs: int, stride: int) -> nn.Sequential:
    """Depthwise 3x3 and pointwise, each with batch normalisation and ReLU."""
    return nn.Sequential(
        nn.Conv2d(inputs, inputs, 3, stride, padding=1, groups=inputs, bias=False),
        nn.BatchNorm2d(inputs),
        nn.ReLU(inplace=True),
        nn.Conv2d(inputs, outputs, 1, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(inplace=True),
    )


def _biased(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    """Depthwise 3x3, ReLU, pointwise; no normalisation."""
    return nn.Sequential(
        nn.Conv2d(inputs, inputs, 3, stride, padding=1, groups=inputs),
        nn.ReLU(inplace=True),
        nn.Conv2d(inputs, outputs, 1),
    )


class Normalised(nn.Module):
    """A convolution (keys `conv`), batch normalisation (`bn`) and, unless told otherwise, ReLU."""

    def __init__(
        self, inputs: int, outputs: int, size: int, stride: int = 1, dilation: int = 1, relu: bool = True
    ) -> None:
        super().__init__()
        padding = size // 2 * dilation
        self.conv = nn.Conv2d(inputs, outputs, size, stride, padding, dilation, bias=False)
        self.bn = nn.BatchNorm2d(outputs)
        self.relu = relu

    def forward(self, x: Tensor) -> Tensor:
        """(N, inputs, h, w) -> (N, outputs, h / stride, w / stride)."""
        x = self.bn(self.conv(x))
        return functional.relu(x) if self.relu else x


class _ReceptiveFields(nn.Module):
    """RFB (Liu et al. 2018, arXiv 1711.07767): three branches whose last convolutions are dilated by 2, 3 and 5."""

    def __init__(self, width: int) -> None:
        super().__init__()
        first, second = width // 8, width // 4
        middle = second // 4 * 3
        self.branch0 = self._branch(width, (first, second), 2)
        self.branch1 = self._branch(width, (first, second), 3)
        self.branch2 = self._branch(width, (first, middle, second), 5)
        self.ConvLinear = Normalised(3 * second, width, 1, relu=False)
        self.shortcut = Normalised(width, width, 1, relu=False)

    @staticmethod
    def _branch(width: int, widths: tuple[int, ...], dilation: int) -> nn.Sequential:
        layers = [Normalised(width, widths[0], 1, relu=False)]
        layers += [Normalised(before, after, 3) for before, after in itertools.pairwise(widths)]
        layers.append(Normalised(widths[-1], widths[-1], 3, dilation=dilation, relu=False))
        return nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        fields = torch.cat([self.branch0(x), self.branch1(x), self.branch2(x)], dim=1)
        return functional.relu(self.ConvLinear(fields) + self.shortcut(x))


class _Priors(nn.Module):
    """What SSD detectors share: heads on some of the features."""

    loc: nn.ModuleList
    conf: nn.ModuleList

    @abstractmethod
    def features(self, x: Tensor) -> list[Tensor]:
        """Features of each level, strides rising."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        features = self.features(x)
        loc, scores = (
            torch.cat([flat(head(feature), size) for head, feature in zip(heads, features, strict=True)], dim=1)
            for heads, size in ((self.loc, 4), (self.conf, 2))
        )
        return loc, scores[..., 1] - scores[..., 0]


class UltraFace(_Priors):
    """`fields`: RFB; without them: slim."""

    WIDTHS = (16, 32, 32, 32, 64, 64, 64, 64, 128, 128, 128, 256, 256)
    STRIDED = (3, 5, 9, 12)
    """Numbers of the separable convolutions of stride 2."""
    HEADS = ((64, 3), (128, 2), (256, 2))
    """Width and priors of each level but the last."""

    def __init__(self, fields: bool) -> None:
        super().__init__()
        self.conv1 = _plain(3, 16, 2)
        for number in range(2, 14):
            inputs, outputs = self.WIDTHS[number - 2 : number]
            block = _separable(inputs, outputs, 2 if number in self.STRIDED else 1)
            setattr(self, f"conv{number}", _ReceptiveFields(64) if fields and number == 8 else block)
        self.conv14 = nn.Sequential(
            nn.Conv2d(256, 64, 1), nn.ReLU(inplace=True), _biased(64, 256, 2), nn.ReLU(inplace=True)
        )
        for name, size in (("loc", 4), ("conf", 2), ("landm", 10)):
            heads: list[nn.Module] = [_biased(width, priors * size) for width, priors in self.HEADS]
            setattr(self, name, nn.ModuleList([*heads, nn.Conv2d(256, 3 * size, 3, padding=1)]))

    @override
    def features(self, x: Tensor) -> list[Tensor]:
        found = []
        for number in range(1, 15):
            x = getattr(self, f"conv{number}")(x)
            if number in (8, 11, 13, 14):
                found.append(x)
        return found

    def points(self, x: Tensor) -> Tensor:
        """See the module's head."""
        heads: nn.ModuleList = self.landm  # type: ignore[assignment]
        parts = zip(heads, self.features(x), strict=True)
        return torch.cat([flat(head(feature), 10) for head, feature in parts], dim=1)


class _BothSigns(nn.Module):
    """CReLU: a convolution whose outputs count with either sign."""

    def __init__(self, inputs: int, outputs: int, size: int, stride: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, size, stride, padding=size // 2, bias=False)
        self.bn = nn.BatchNorm2d(outputs)

    def forward(self, x: Tensor) -> Tensor:
        x = self.bn(self.conv(x))
        return functional.relu(torch.cat([x, -x], dim=1))


class _Inception(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.branch1x1 = Normalised(128, 32, 1)
        self.branch1x1_2 = Normalised(128, 32, 1)
        self.branch3x3_reduce = Normalised(128, 24, 1)
        self.branch3x3 = Normalised(24, 32, 3)
        self.branch3x3_reduce_2 = Normalised(128, 24, 1)
        self.branch3x3_2 = Normalised(24, 32, 3)
        self.branch3x3_3 = Normalised(32, 32, 3)

    def forward(self, x: Tensor) -> Tensor:
        pooled = self.branch1x1_2(functional.avg_pool2d(x, 3, 1, 1))
        wide = self.branch3x3_3(self.branch3x3_2(self.branch3x3_reduce_2(x)))
        return torch.cat([self.branch1x1(x), pooled, self.branch3x3(self.branch3x3_reduce(x)), wide], dim=1)


class FaceBoxes(_Priors):
    """FaceBoxes (Zhang et al. 2017): priors are dense on the finest level."""

    PRIORS = (21, 1, 1)

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = _BothSigns(3, 24, 7, 4)
        self.conv2 = _BothSigns(48, 64, 5, 2)
        self.inception1, self.inception2, self.inception3 = _Inception(), _Inception(), _Inception()
        self.conv3_1, self.conv3_2 = Normalised(128, 128, 1), Normalised(128, 256, 3, 2)
        self.conv4_1, self.conv4_2 = Normalised(256, 128, 1), Normalised(128, 256, 3, 2)
        for name, size in (("loc", 4), ("conf", 2)):
            widths = zip((128, 256, 256), self.PRIORS, strict=True)
            setattr(self, name, nn.ModuleList(nn.Conv2d(width, n * size, 3, padding=1) for width, n in widths))

    @override
    def features(self, x: Tensor) -> list[Tensor]:
        x = functional.max_pool2d(self.conv1(x), 3, 2, 1)
        x = functional.max_pool2d(self.conv2(x), 3, 2, 1)
        first = self.inception3(self.inception2(self.inception1(x)))
        second = self.conv3_2(self.conv3_1(first))
        return [first, second, self.conv4_2(self.conv4_1(second))]


class SmallRetinaFace(nn.Module):
    """mobilenet0.25, 426,608 parameters, with ReLU in place of leaky ones."""

    def __init__(self) -> None:
        super().__init__()
        self.network = RetinaFaceNetwork(MobileNetBody(), 64)
        for layer in self.network.modules():
            if isinstance(layer, nn.LeakyReLU):
                layer.negative_slope = 0.0

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(N, 3, h, w) -> boxes (N, P, 4), encoded, and log odds (N, P)."""
        loc, scores, _ = self.network(x)
        return loc, scores[..., 1] - scores[..., 0]

    def points(self, x: Tensor) -> Tensor:
        """See the module's head."""
        points: Tensor = self.network(x)[2]
        return points
