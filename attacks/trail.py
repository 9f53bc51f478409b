"""What a run of few steps came past: the mean of each frame's iterates, and points near it that are worth a try."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

DISCOUNT = 0.3
"""An iterate whose score is 1 / DISCOUNT above another's counts 1/e of it in a mean."""

AWAY = 0.3
"""Share of the way from the mean to an iterate."""


class Trail:
    """Each frame's iterates."""

    def __init__(self, count: int) -> None:
        self._iterates: list[list[tuple[Tensor, Tensor]]] = [[] for _ in range(count)]
        """Score and perturbation of each."""

    def add(self, items: Sequence[int], score: Tensor, probe: Tensor) -> None:
        """Iterates (n, 3, h, w) of frames `items`; those in which a victim finds nothing are left out."""
        for row, item in enumerate(items):
            if torch.isfinite(score[row]):
                self._iterates[item].append((score[row], probe[row].clone()))

    def mean(self, item: int) -> Tensor | None:
        """The weighted mean (3, h, w), the better ones counting more; None where there is no iterate."""
        many = self._iterates[item]
        if not many:
            return None
        weights = torch.softmax(torch.stack([-DISCOUNT * score for score, _ in many]), dim=0)
        deltas = torch.stack([delta for _, delta in many])
        mean: Tensor = torch.tensordot(weights.to(deltas), deltas, dims=1)
        return mean

    def near(self, item: int, mean: Tensor, number: int) -> Tensor:
        """The `number`-th point (3, h, w) to try.

        The mean itself, then some of the way to the best iterate, to the second best, and so on.
        """
        if number == 0:
            return mean
        many = sorted(self._iterates[item], key=lambda one: float(one[0]))
        return torch.lerp(mean, many[(number - 1) % len(many)][1], AWAY)
