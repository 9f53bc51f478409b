"""Clips that were recorded turned as a whole, and say so in no tag: what --rotate means."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from itertools import islice
from pathlib import Path
from typing import Literal

import numpy as np

from drsf_cli.media.container import Seconds, decimal
from drsf_cli.media.reader import VideoReader
from victims.base import Detector, Image
from victims.face import SURE
from weights.errors import UsageError

Rotation = Literal["0", "90", "180", "270", "auto"]
ROTATIONS: tuple[Rotation, ...] = ("0", "90", "180", "270", "auto")
SAMPLE = 12
"""Frames that `auto` looks at, spread over what is read."""


def parse_rotation(text: str) -> Rotation:
    """What was typed with --rotate. Raises UsageError."""
    for known in ROTATIONS:
        if text == known:
            return known
    raise UsageError(f"--rotate {text} is unknown; it takes 0, 90, 180, 270 (degrees clockwise) or auto.")


def open_rotated(
    source: str | Path, start: Seconds | None, end: Seconds | None, rotate: str, detector: Detector
) -> VideoReader:
    """A reader of `source` that turns its frames as `rotate` says; `auto` looks with `detector`.

    Raises UsageError, and InputError for what cannot be read.
    """
    chosen = parse_rotation(rotate)
    reader = VideoReader(source, start, end)
    degrees = best_rotation(reader, detector) if chosen == "auto" else int(chosen)
    return reader.rotated(degrees)


def best_rotation(reader: VideoReader, detector: Detector) -> int:
    """The degrees clockwise after which `detector` sees the most sure faces in a sample of the frames; of several such
    turns the one with the highest sum of scores, and 0 where no face is seen."""
    found = dict.fromkeys((0, 90, 180, 270), (0, 0.0))
    for image in _sample(reader):
        for degrees, (count, total) in found.items():
            (seen,) = detector.detect([np.ascontiguousarray(np.rot90(image, -degrees // 90))])
            sure = seen.scores[seen.scores >= SURE]
            found[degrees] = count + len(sure), total + float(sure.sum())
    return max(found, key=lambda degrees: (*found[degrees], -degrees))


def _sample(reader: VideoReader) -> Iterator[Image]:
    """`SAMPLE` frames at even distances in time; the first ones of a source of unknown length."""
    first = reader.start or Fraction(0)
    last = reader.end if reader.end is not None else decimal(reader.info.duration)
    if last is None:
        yield from (frame.image for frame in islice(reader, SAMPLE))
        return
    for k in range(SAMPLE):
        with reader.part(first + (last - first) * k / SAMPLE, reader.end) as part:
            yield from (frame.image for frame in islice(part, 1))
