"""How much work goes into a frame: the one place for what decides it, each with the measurement that chose it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

EffortName = Literal["fast", "normal", "best"]


@dataclass(frozen=True)
class Effort:
    """Steps of correction after the drawing, and how they are spent."""

    steps: int
    """Gradient steps of every frame that is not good enough as it is drawn."""
    extra: int
    """Further steps of one whose worst error is over `poor` tolerances."""
    tries: int
    """Points at and near the mean of a frame's iterates that are tried at the end, without a gradient."""
    behind: float
    """A victim whose error, in tolerances, is under this share of the worst one's does not push."""
    batch: int
    """Frames that are worked on at once."""
    live: bool = False
    """Whether each frame is tried on an encoder in the middle of the file, instead of as a coded crop."""


EFFORTS: Mapping[EffortName, Effort] = MappingProxyType(
    {
        "fast": Effort(steps=0, extra=0, tries=0, behind=0.0, batch=8),
        # 50 frames of the demo clip, CRF 23, through `drsf deid`: IoU 0.943, NME 0.84 %, gaze 2.4 degrees at 2.4 passes
        # a frame; as drawn 0.913, 1.03 % and 4.1
        "normal": Effort(steps=1, extra=3, tries=0, behind=0.25, batch=1),
        # 20 frames of it: IoU 0.964, NME 0.51 %, gaze 0.75 degrees at 9.8 passes
        "best": Effort(steps=5, extra=6, tries=4, behind=0.4, batch=1, live=True),
    }
)
