"""--rotate: clips that were recorded turned as a whole, without a rotation tag."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from itertools import islice
from typing import get_args

import numpy as np

from drsf_cli.media.container import decimal
from drsf_cli.media.reader import VideoReader
from drsf_cli.settings import Rotation
from victims.base import Detector, Image
from victims.face import SURE
from weights.errors import UsageError

SAMPLE = 12
"""Frames that `auto` looks at, spread over what is read."""


def turned(reader: VideoReader, rotate: str, detector: Detector) -> VideoReader:
    """`reader` with its frames turned as `rotate` says; `auto` looks with `detector`.

    Raises UsageError for another `rotate`, and InputError for what cannot be read.
    """
    if rotate not in get_args(Rotation):
        raise UsageError(f"--rotate {rotate} is unknown; it takes 0, 90, 180, 270 (degrees clockwise) or auto.")
    return reader.rotated(best_rotation(reader, detector) if rotate == "auto" else int(rotate))


def best_rotation(reader: VideoReader, detector: Detector) -> int:
    """The degrees clockwise after which `detector` is sure of the most faces in a sample of the frames.

    Among equal turns, the one with the highest sum of scores; 0 if no face is seen.
    """
    found = dict.fromkeys((0, 90, 180, 270), (0, 0.0))
    for image in _sample(reader):
        for degrees, (count, total) in found.items():
            (seen,) = detector.detect([np.ascontiguousarray(np.rot90(image, -degrees // 90))])
            sure = seen.scores[seen.scores >= SURE]
            found[degrees] = count + len(sure), total + float(sure.sum())
    return max(found, key=lambda degrees: (*found[degrees], -degrees))


def _sample(reader: VideoReader) -> Iterator[Image]:
    """`SAMPLE` frames evenly spaced in time; the first frames of a source of unknown length."""
    first = reader.start or Fraction(0)
    last = reader.end if reader.end is not None else decimal(reader.info.duration)
    if last is None:
        yield from (frame.image for frame in islice(reader, SAMPLE))
        return
    for k in range(SAMPLE):
        with reader.part(first + (last - first) * k / SAMPLE, reader.end) as part:
            yield from (frame.image for frame in islice(part, 1))
