"""Regions of the frame that are drawn by hand, to be covered whatever is seen there."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from victims.face import Array
from victims.track import CoverBox, Times
from weights.errors import UsageError


@dataclass(frozen=True, eq=False)
class ManualRegion:
    """A region drawn by hand."""

    box: Array
    """(4,) x1, y1, x2, y2 px of the frame."""
    start: float = 0.0
    """s, inclusive."""
    end: float = math.inf
    """s, inclusive."""


def parse_region(text: str) -> ManualRegion:
    """`x1,y1,x2,y2` or `x1,y1,x2,y2@start-end` (s; either end may be left out). Raises UsageError."""
    number = r"[0-9]+(?:\.[0-9]+)?"
    corners = rf"({number}),({number}),({number}),({number})"
    match = re.fullmatch(rf"{corners}(?:@({number})?-({number})?)?", re.sub(r"\s", "", text))
    if match is None:
        raise UsageError(f"{text!r} is not of the form x1,y1,x2,y2 or x1,y1,x2,y2@start-end (px and seconds).")
    box = np.array([float(v) for v in match.groups()[:4]])
    start = float(match[5]) if match[5] else 0.0
    end = float(match[6]) if match[6] else math.inf
    if not np.isfinite(box).all():
        raise UsageError(f"{text!r} has a number that is too large: give px of the frame.")
    if box[0] >= box[2] or box[1] >= box[3]:
        raise UsageError(f"{text!r} is empty: x1 must be below x2 and y1 below y2.")
    if start > end:
        raise UsageError(f"{text!r} ends before it starts: give @start-end in seconds.")
    return ManualRegion(box, start, end)


def refuse_idle(regions: Sequence[ManualRegion], times: Times) -> None:
    """Raises UsageError for a region whose time meets no frame: what it was to cover would be open."""
    for region in regions:
        if len(times) and not any(region.start <= time <= region.end for time in times):
            x1, y1, x2, y2 = region.box
            raise UsageError(
                f"--region {x1:g},{y1:g},{x2:g},{y2:g}@{region.start:g}-{region.end:g} meets no frame: those that are "
                f"read are shown from {times[0]:.3f} to {times[-1]:.3f} s."
            )


def add_regions(
    covers: Sequence[Sequence[CoverBox]], regions: Sequence[ManualRegion], times: Times
) -> list[list[CoverBox]]:
    """`covers` and, in every frame within their time, the regions drawn by hand."""
    drawn = [
        CoverBox(-1 - k, region.box, (float(region.box[2] - region.box[0]), float(region.box[3] - region.box[1])), True)
        for k, region in enumerate(regions)
    ]
    return [
        [*frame, *(box for box, region in zip(drawn, regions, strict=True) if region.start <= time <= region.end)]
        for frame, time in zip(covers, times, strict=True)
    ]
