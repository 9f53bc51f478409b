"""What is plotted and tabled of a run's frames."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from drsf_cli.measure.quantities import quantity

WORST = 5
"""Rows of the table of worst frames, for each measure."""


@dataclass(frozen=True)
class Measure:
    """What is plotted and tabled."""

    key: str
    title: str
    unit: str
    digits: int
    higher_is_better: bool = False


MEASURES: tuple[Measure, ...] = (
    Measure("iou", "Box IoU", "", 3, higher_is_better=True),
    Measure("nme", "Landmark error (NME)", "%", 2),
    Measure("gaze_deg", "Gaze angle", "°", 2),
    Measure("landmarks_px", "Landmark distance", "px", 2),
    Measure("head_pose_deg", "Head pose", "°", 2),
    Measure("diff_score", "DiffScore", "", 2),
)
PLOTTED = MEASURES[:3]


def text_of(value: float | None, measure: Measure) -> str:
    """The value with its unit, or a dash if nothing was measured."""
    return "–" if value is None else quantity(value, measure.unit, measure.digits)


def worst_by(frames: Sequence[Mapping[str, Any]], measure: Measure) -> list[Mapping[str, Any]]:
    """At most WORST of the measured frames, the worst first."""
    known = [frame for frame in frames if frame.get(measure.key) is not None]
    sign = 1 if measure.higher_is_better else -1
    return sorted(known, key=lambda frame: (sign * frame[measure.key], frame["frame_id"]))[:WORST]
