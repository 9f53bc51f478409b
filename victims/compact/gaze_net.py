"""`gaze-compact`: a small gaze network on ETH-XGaze's normalised face patch, our own weights.

Two eyes, seen at the patch's full resolution by one shared encoder (the left one mirrored), and the whole face
at a quarter of it. Mirroring the face swaps the two eyes and negates yaw, and the network keeps that exactly:
it averages its answer with the mirrored answer for the mirrored face, and since the eye encoder is shared only
the small face branch runs twice.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

PATCH = 224
"""Side of the normalised patch, px."""

EYE_ROWS = slice(58, 114)
RIGHT_EYE_COLUMNS = slice(28, 108)
"""Where the person's right eye (image-left) lies in the patch, for heads turned up to 45 degrees."""

CONTRAST_FLOOR = 0.03
"""Added to a crop's standard deviation before dividing by it, so that a flat crop stays flat."""


def _convolution(inputs: int, outputs: int, kernel: int, stride: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False), nn.BatchNorm2d(outputs), nn.SiLU()
    )


class _Residual(nn.Module):
    """x + conv(conv(x)), 3x3, activation after the sum."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = _convolution(channels, channels, 3, 1)
        self.second = nn.Sequential(nn.Conv2d(channels, channels, 3, 1, 1, bias=False), nn.BatchNorm2d(channels))
        self.activation = nn.SiLU()

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.activation(x + self.second(self.first(x)))
        return out


def _standardize(crop: Tensor) -> Tensor:
    """Zero mean per channel, about unit deviation over all channels together: light and contrast fall out."""
    centred = crop - crop.mean(dim=(2, 3), keepdim=True)
    deviation = (centred.square().mean(dim=(1, 2, 3), keepdim=True) + 1e-6).sqrt()
    return centred / (deviation + CONTRAST_FLOOR)


class GazeNet(nn.Module):
    """(N, 3, 224, 224) RGB in [0, 1] -> (N, 2) radians: pitch (> 0 up), yaw (> 0 to the left of the image)."""

    def __init__(self) -> None:
        super().__init__()
        self.eye = nn.Sequential(  # (N, 3, 56, 80)
            _convolution(3, 16, 5, 2),  # (N, 16, 28, 40)
            _convolution(16, 32, 3, 2),  # (N, 32, 14, 20)
            _convolution(32, 32, 3, 1),
            _convolution(32, 64, 3, 2),  # (N, 64, 7, 10)
            _Residual(64),
            _convolution(64, 32, 1, 1),
            nn.Flatten(),
            nn.Linear(32 * 7 * 10, 128),
            nn.SiLU(),
        )
        self.face = nn.Sequential(  # (N, 3, 56, 56)
            _convolution(3, 16, 3, 2),  # (N, 16, 28, 28)
            _convolution(16, 32, 3, 2),  # (N, 32, 14, 14)
            _convolution(32, 48, 3, 2),  # (N, 48, 7, 7)
            nn.Flatten(),
            nn.Linear(48 * 7 * 7, 64),
            nn.SiLU(),
        )
        self.head = nn.Sequential(
            nn.Linear(128 + 128 + 64, 128), nn.SiLU(), nn.Linear(128, 64), nn.SiLU(), nn.Linear(64, 2)
        )
        self.pool = nn.AvgPool2d(4)

    def forward(self, patch: Tensor) -> Tensor:
        """Patches (N, 3, 224, 224) -> pitch and yaw (N, 2), rad; a mirrored patch gives the mirrored yaw."""
        mirrored = patch.flip(3)
        right = self.eye(_standardize(patch[:, :, EYE_ROWS, RIGHT_EYE_COLUMNS]))
        left = self.eye(_standardize(mirrored[:, :, EYE_ROWS, RIGHT_EYE_COLUMNS]))
        face = _standardize(self.pool(patch))
        straight = self.head(torch.cat([right, left, self.face(face)], dim=1))
        flipped = self.head(torch.cat([left, right, self.face(face.flip(3))], dim=1))
        pitch = (straight[:, :1] + flipped[:, :1]) / 2
        yaw = (straight[:, 1:] - flipped[:, 1:]) / 2
        return torch.cat([pitch, yaw], dim=1)
