"""How well two series of numbers, labels or events agree, as functions of sums over frames or of the events."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from drsf_cli.measure.glances import Glance
from victims.face import Array


def ratio(above: Any, below: Any) -> Any:
    """The quotient above / below; NaN where below is 0."""
    above, below = np.broadcast_arrays(np.asarray(above, dtype=np.float64), np.asarray(below, dtype=np.float64))
    return np.divide(above, below, out=np.full(above.shape, np.nan), where=below != 0)


def correlation(sums: Array) -> Array:
    """Pearson's correlation, from sums of 1, x, y, x², y², xy about a centre."""
    n, x, y, xx, yy, xy = np.moveaxis(sums, -1, 0)
    spread = (n * xx - x * x).clip(0) * (n * yy - y * y).clip(0)
    return np.asarray(ratio(n * xy - x * y, np.sqrt(spread)))


def f1(sums: Array) -> Array:
    """F1, from the numbers of events that were found, missed and made up."""
    return np.asarray(ratio(2 * sums[..., 0], 2 * sums[..., 0] + sums[..., 1] + sums[..., 2]))


def cohens_kappa(confusion: Array) -> Array:
    """(..., k, k) counts -> (...) Cohen's kappa; NaN where chance alone would agree fully, as in one zone only."""
    total = confusion.sum(axis=(-2, -1))
    agreed = np.trace(confusion, axis1=-2, axis2=-1) * total
    chance = (confusion.sum(axis=-1) * confusion.sum(axis=-2)).sum(axis=-1)
    return np.asarray(ratio(agreed - chance, total**2 - chance))


def match_times(first: Sequence[float], second: Sequence[float], within: float) -> list[tuple[int, int]]:
    """The most pairs (i, j) of rising times that lie within so many seconds of each other, none used twice."""
    pairs, i, j = [], 0, 0
    while i < len(first) and j < len(second):
        apart = second[j] - first[i]
        if abs(apart) <= within + 1e-9:
            pairs.append((i, j))
            i, j = i + 1, j + 1
        elif apart > 0:
            i += 1
        else:
            j += 1
    return pairs


def match_glances(first: Sequence[Glance], second: Sequence[Glance]) -> list[tuple[Glance, Glance]]:
    """Pairs of glances to the same zone that overlap in time.

    Each is paired with the one that it overlaps most; none is used twice.
    """
    overlaps = [
        (min(a.end, b.end) - max(a.start, b.start), i, j)
        for i, a in enumerate(first)
        for j, b in enumerate(second)
        if a.zone == b.zone and min(a.end, b.end) > max(a.start, b.start)
    ]
    pairs: dict[int, int] = {}
    for _, i, j in sorted(overlaps, reverse=True):
        if i not in pairs and j not in pairs.values():
            pairs[i] = j
    return [(first[i], second[j]) for i, j in sorted(pairs.items())]
