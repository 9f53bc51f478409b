"""Rows over time, and runs of rows, which make up blinks, yawns and glances.

A row stands for the time from its own start to the next row's. If the next row comes more than BREAK frame intervals
later, there is a gap: the row then stands for one interval, and no run continues across the gap.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from victims.face import Array

BREAK = 3.0
"""Beyond this many frame intervals (the median of the clip's), two rows do not belong together. One lost frame, or a
variable frame rate, does not cut a blink in two."""


@dataclass(frozen=True)
class Event:
    """A run of rows: a blink, a yawn, a glance."""

    first: int
    """Its first row."""
    last: int
    """Its last row, within it."""
    start: float
    """Time of the first row, s."""
    end: float
    """Time at which the last row ends, s."""

    @property
    def duration(self) -> float:
        """Seconds."""
        return self.end - self.start

    @property
    def middle(self) -> float:
        """Seconds."""
        return (self.start + self.end) / 2

    @property
    def rows(self) -> slice:
        """Its rows of the timeline."""
        return slice(self.first, self.last + 1)


@dataclass(frozen=True, eq=False)
class Timeline:
    """When each row begins and ends."""

    starts: Array
    """(n,) s, rising."""
    ends: Array
    """(n,) s."""
    joined: NDArray[np.bool_]
    """(n,) whether a row follows the one before without a gap; the first does not."""

    @classmethod
    def of(cls, times: Array) -> Timeline | None:
        """The timeline of (n,) times in s. None if one is unknown, they do not rise, or there are fewer than two."""
        if len(times) < 2 or not np.all(np.isfinite(times)):
            return None
        steps = np.diff(times)
        if steps.min() <= 0:
            return None
        step = float(np.median(steps))
        near = steps <= BREAK * step
        ends = np.append(np.where(near, times[1:], times[:-1] + step), times[-1] + step)
        return cls(times, ends, np.concatenate([[False], near]))

    def runs(self, labels: Sequence[object] | NDArray[np.bool_]) -> list[Event]:
        """Runs of equal `labels`, (n,), one for each row; None and False are left out."""
        events = []
        first = 0
        for row in range(1, len(self.starts) + 1):
            if row < len(self.starts) and self.joined[row] and labels[row] == labels[first]:
                continue
            if labels[first] is not None and labels[first]:
                events.append(Event(first, row - 1, float(self.starts[first]), float(self.ends[row - 1])))
            first = row
        return events
