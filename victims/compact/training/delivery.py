"""Training pictures as the victims meet them: obscured, drawn over faintly, and through H.264.

What a victim reads in a delivered file is not a photograph. The head is a mosaic of a few blocks, features stand out
from it by at most eps, and the encoder's noise is as large as a third of that. Networks trained on photographs alone
answer such noise far more strongly there than on a real face. Here photographs are made to look like that, with their
labels unchanged: the mosaic, plus what the mosaic took away, clipped to eps.

Pictures are (N, 3, S, S) float RGB in [0, 1].
"""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import torch
from av.video.codeccontext import VideoCodecContext
from av.video.frame import VideoFrame
from torch import Tensor
from torch.nn import functional

EPS = (10 / 255, 40 / 255)
"""Largest change of a pixel, drawn log-uniformly."""
STRENGTH = (0.2, 1.2)
"""Share of the lost detail that is drawn back before clipping."""
CRF = (19, 31)
"""A frame on its own is coded by 3 to 4 better than those that follow one."""
SCALE = (0.7, 1.8)
"""How large a picture is, against its own pixels, when it is encoded."""


CODED = 0.8
"""Share of batches that go through the encoder."""


def _between(bounds: tuple[float, float], random: torch.Generator, *shape: int) -> Tensor:
    low, high = np.log(bounds)
    return torch.exp(low + (high - low) * torch.rand(shape, generator=random))


def mosaic(pictures: Tensor, blocks: tuple[float, float], random: torch.Generator) -> Tensor:
    """Each picture as square blocks of its mean colours, `blocks` (from, to) of them across, at a random phase."""
    side = pictures.shape[-1]
    results = []
    for picture, across in zip(pictures, _between(blocks, random, len(pictures)).tolist(), strict=True):
        size = max(2, round(side / across))
        left, top = torch.randint(0, size, (2,), generator=random).tolist()
        padded = functional.pad(
            picture[None], (left, -(side + left) % size, top, -(side + top) % size), mode="replicate"
        )
        flat = functional.interpolate(functional.avg_pool2d(padded, size), scale_factor=float(size), mode="nearest")
        results.append(flat[0, :, top : top + side, left : left + side])
    return torch.stack(results)


def drawn(pictures: Tensor, blocks: tuple[float, float], random: torch.Generator) -> Tensor:
    """Obscured pictures with their detail drawn back faintly: mosaic + clip(strength · detail, ±eps)."""
    flat = mosaic(pictures, blocks, random)
    eps = _between(EPS, random, len(pictures), 1, 1, 1)
    strength = _between(STRENGTH, random, len(pictures), 1, 1, 1)
    return (flat + (strength * (pictures - flat)).clamp(-eps, eps)).clamp(0, 1)


def through_h264(pictures: Tensor, random: torch.Generator) -> Tensor:
    """The pictures, tiled into one frame at a random scale, encoded by x264 at a random CRF and decoded again."""
    count, _, side, _ = pictures.shape
    scaled = max(16, round(float(_between(SCALE, random, 1)) * side / 16) * 16)
    crf = int(torch.randint(CRF[0], CRF[1] + 1, (1,), generator=random))
    resized = functional.interpolate(pictures, size=scaled, mode="bilinear", antialias=True, align_corners=False)
    columns = max(1, int(np.sqrt(count)))
    rows = -(-count // columns)
    tiles = torch.zeros(rows * columns, 3, scaled, scaled)
    tiles[:count] = resized
    frame = tiles.view(rows, columns, 3, scaled, scaled).permute(0, 3, 1, 4, 2).reshape(rows * scaled, -1, 3)
    decoded = torch.from_numpy(_h264((frame * 255).round().clamp(0, 255).to(torch.uint8).numpy(), crf)).float() / 255
    parts = decoded.view(rows, scaled, columns, scaled, 3).permute(0, 2, 4, 1, 3).reshape(-1, 3, scaled, scaled)
    return functional.interpolate(parts[:count], size=side, mode="bilinear", antialias=True, align_corners=False)


def views(pictures: Tensor, blocks: tuple[float, float], random: torch.Generator) -> Tensor:
    """(2N, 3, S, S): the pictures, then the same obscured and drawn over; each half mostly through H.264."""
    halves = [pictures, drawn(pictures, blocks, random)]
    return torch.cat(
        [through_h264(half, random) if torch.rand(1, generator=random) < CODED else half for half in halves]
    )


def _h264(image: np.ndarray, crf: int) -> np.ndarray:
    """One (H, W, 3) uint8 RGB image through x264, 4:2:0; sides are multiples of 16."""
    encoder = VideoCodecContext.create("libx264", "w")
    encoder.width, encoder.height, encoder.pix_fmt = image.shape[1], image.shape[0], "yuv420p"
    encoder.framerate, encoder.thread_count = Fraction(30), 1
    encoder.options = {"crf": str(crf), "preset": "fast"}
    frame = VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24").reformat(format="yuv420p")
    packets = [*encoder.encode(frame), *encoder.encode(None)]
    decoder = VideoCodecContext.create("h264", "r")
    decoder.thread_count = 1
    (decoded,) = [found for packet in [*packets, None] for found in decoder.decode(packet)]
    return np.asarray(decoded.to_ndarray(format="rgb24"))
