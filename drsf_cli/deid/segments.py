"""Segments: stretches of a clip that are surveyed and embedded without knowing of each other.

Segment k holds the frames with k·length <= pts < (k + 1)·length, in seconds of the file's own clock, whatever part of
the file is read. So whoever reads a part that begins and ends with segments finds the same ones.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction

from drsf_cli.media.reader import Frame, VideoReader


@dataclass(frozen=True)
class Part:
    """From `start` to before `end`, s of the file's clock; None: as far as it goes."""

    start: Fraction | None
    end: Fraction | None


def segment_of(frame: Frame, length: float, time_base: Fraction) -> int:
    """The number of the segment of `length` s that holds a frame; `time_base`: s a tick."""
    return frame.pts_ticks * time_base // Fraction(str(length))


def in_segments(frames: Iterable[Frame], length: float, time_base: Fraction) -> Iterator[Iterator[Frame]]:
    """The frames of each segment of `length` s; `time_base`: s a tick. Use up one before asking for the next."""
    for _, own in itertools.groupby(frames, key=lambda frame: segment_of(frame, length, time_base)):
        yield own


def end_of(frame: Frame, length: float, time_base: Fraction) -> Fraction:
    """When the segment of `length` s that holds a frame ends, s of the file's clock."""
    return (segment_of(frame, length, time_base) + 1) * Fraction(str(length))


def parts_of(reader: VideoReader, length: float) -> list[Part]:
    """What `reader` reads, cut between segments of `length` s.

    The last part reaches as far as there are frames, and some may be empty: how long a file is can only be known by
    reading it.
    """
    start, end = reader.start, reader.end
    duration = reader.info.duration
    if end is None and duration is None:
        return [Part(start, end)]
    until = end if duration is None else min(Fraction(duration), Fraction(duration) if end is None else end)
    exact = Fraction(str(length))
    first = math.floor((start or Fraction(0)) / exact) + 1
    cuts = [number * exact for number in range(first, math.ceil(until / exact))]  # type: ignore[operator]
    return [Part(*both) for both in itertools.pairwise([start, *cuts, end])]
