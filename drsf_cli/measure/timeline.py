"""Rows over time, and runs of them: what blinks, yawns and glances are made of.

A row stands for the time from its own to the next row's. Where the next row comes later than BREAK frame intervals,
there is a gap: the row then stands for one interval, and nothing runs on across the gap.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from victims.face import Array

BREAK = 3.0
"""Frame intervals (the median of the clip's) from which two rows do not belong together: one lost frame, or a
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
        """Of (n,) times in s. None where one is not known, they do not rise, or there are fewer than two."""
        if len(times) < 2 or not np.all(np.isfinite(times)):
            return None
        steps = np.diff(times)
        if steps.min() <= 0:
            return None
        step = float(np.median(steps))
        near = steps <= BREAK * step
        ends = np.append(np.where(near, times[1:], times[:-1] + step), times[-1] + step)
        return cls(times, ends, np.concatenate([[False], near]))

    @property
    def durations(self) -> Array:
        """(n,) s."""
        return np.asarray(self.ends - self.starts)

    def runs(self, labels: Sequence[object] | NDArray[np.bool_]) -> list[Event]:
        """Runs of equal `labels`, (n,) one a row, None and False left out."""
        events = []
        first = 0
        for row in range(1, len(self.starts) + 1):
            if row < len(self.starts) and self.joined[row] and labels[row] == labels[first]:
                continue
            if labels[first] is not None and labels[first]:
                events.append(Event(first, row - 1, float(self.starts[first]), float(self.ends[row - 1])))
            first = row
        return events
