"""What a perturbation may be: inside the epsilon ball, inside the mask, and an image when added.

Pixels are float RGB in [0, 1]; perturbations have the same unit, so that eps = 16/255 is 16 grey levels.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from weights.errors import UsageError


@dataclass(frozen=True)
class Budget:
    """The feasible set of a batch of perturbations.

    It is a product of intervals, so that projecting is clamping and projecting twice changes nothing.
    """

    base: Tensor
    """(B, 3, h, w) covered pixels."""
    mask: Tensor
    """(B, 1, h, w) bool: where a perturbation may be."""
    eps: float

    def project(self, delta: Tensor, items: list[int]) -> Tensor:
        """The nearest feasible perturbations of frames `items`; what is not a number becomes 0."""
        base, mask = self.base[items], self.mask[items]
        delta = torch.nan_to_num(delta, nan=0.0, posinf=0.0, neginf=0.0)
        delta = delta.clamp(-self.eps, self.eps)
        return torch.where(mask, (base + delta).clamp(0.0, 1.0) - base, torch.zeros_like(delta))


def rounded(pixels: Tensor) -> Tensor:
    """Pixels as they come back from uint8: rounded, not truncated; the gradient passes straight through."""
    whole = torch.round(pixels.detach().clamp(0.0, 1.0) * 255.0) / 255.0
    return pixels + (whole - pixels).detach()


def parse_eps(text: str) -> float:
    """`16/255` or `0.06`: a number in (0, 1]. Raises UsageError otherwise."""
    numerator, slash, denominator = text.partition("/")
    try:
        value = float(numerator) / (float(denominator) if slash else 1.0)
    except (ValueError, ZeroDivisionError):
        value = float("nan")
    if not 0.0 < value <= 1.0:
        raise UsageError(f"{text!r} is not a number above 0 and up to 1; write it as 16/255 or 0.06.")
    return value
