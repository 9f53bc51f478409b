"""What a codec makes of tiles, while a drawer is fitted."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from attacks.codec import DeliveryCodec, EncoderSettings, find_codec

CRF = (17, 30)
"""Least and greatest constant rate factor of x264."""


class Channel:
    """Tiles through x264, as one frame; half of the time after another frame, so that the noise is that of P frames."""

    def __init__(self, random: np.random.Generator) -> None:
        self.random = random

    def __call__(self, pixels: Tensor, crf: int | None = None) -> Tensor:
        """What comes back of tiles (n, 3, S, S); uint8 levels in [0, 1]."""
        count, _, side, _ = pixels.shape
        columns = max(1, round(math.sqrt(count)))
        rows = -(-count // columns)
        tiles = np.zeros((rows * columns, side, side, 3), np.uint8)
        tiles[:count] = (pixels * 255.0).round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).numpy()
        sheet = tiles.reshape(rows, columns, side, side, 3).swapaxes(1, 2).reshape(rows * side, columns * side, 3)
        frames = [sheet]
        if crf is None:
            crf = int(self.random.integers(CRF[0], CRF[1] + 1))
            if self.random.random() < 0.5:
                shift = self.random.integers(-2, 3, 2)
                frames.insert(0, np.roll(sheet, tuple(shift), (0, 1)))
        settings = EncoderSettings(find_codec("h264"), crf=crf, preset="fast")
        decoded = DeliveryCodec(settings).roundtrip(np.stack(frames))[-1]
        parts = decoded.reshape(rows, side, columns, side, 3).swapaxes(1, 2).reshape(-1, side, side, 3)[:count]
        return torch.from_numpy(np.ascontiguousarray(parts)).permute(0, 3, 1, 2).float() / 255.0
