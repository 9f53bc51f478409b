"""Confidence intervals of figures that describe a clip.

Neighbouring frames are alike, so frames are not drawn one by one. Blocks of BLOCK seconds are drawn instead, with
replacement, as many as the clip has. This is the block bootstrap with blocks that do not overlap (Carlstein, "The use
of subseries values for estimating the variance of a general statistic from a stationary sequence", Annals of Statistics
14(3), 1986). Every figure here is a function of sums over frames, so each block is summed once and only sums are drawn.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from victims.face import Array

BLOCK = 1.0
"""s."""
FEWEST_BLOCKS = 10
MOST_BLOCKS = 1000
"""The most blocks; in a longer clip the blocks are longer."""
DRAWS = 1000
LEVEL = 95.0
"""Percent."""

Statistic = Callable[[Array], Array]
"""(..., k) sums -> (...) the figure; NaN where it cannot be computed."""


def interval(contributions: Array, times: Array, statistic: Statistic, seed: int = 0) -> tuple[float, float] | None:
    """The LEVEL percentile interval of a statistic of sums over rows.

    `statistic` is given the column sums of `contributions`, (n, k), of rows at `times`, (n,) s. None where there are
    fewer than FEWEST_BLOCKS blocks, or most draws have no figure.
    """
    if not len(times) or not np.all(np.isfinite(times)):
        return None
    length = max(BLOCK, (times.max() - times.min()) / MOST_BLOCKS)
    _, block = np.unique(np.floor((times - times.min()) / length), return_inverse=True)
    count = int(block.max()) + 1
    if count < FEWEST_BLOCKS:
        return None
    sums = np.zeros((count, contributions.shape[1]))
    np.add.at(sums, block, contributions)
    drawn = np.random.default_rng(seed).multinomial(count, np.full(count, 1 / count), size=DRAWS)
    figures = statistic(drawn @ sums)
    known = figures[np.isfinite(figures)]
    if 2 * len(known) < DRAWS:
        return None
    low, high = np.percentile(known, [(100 - LEVEL) / 2, (100 + LEVEL) / 2])
    return float(low), float(high)
