"""The one table of metrics: how far one reading of a face is from another.

To add a metric, write its key into `Errors` and `ErrorStatistics` and its row into `METRICS`. `drsf eval`, the report,
its page, the tables of the terminal and the audit take it from there.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NotRequired

import numpy as np
from scipy.spatial.transform import Rotation
from typing_extensions import TypedDict

from drsf_cli.measure.json_form import Count, Number
from drsf_cli.measure.quantities import quantity
from victims.camera import angle_between_degrees
from victims.face import Face, iou

if TYPE_CHECKING:
    from victims.base import Role

WORST = 5
"""Rows of the table of worst frames, for each metric."""
STATISTICS = ("mean", "median", "p95", "worst")


class Errors(TypedDict, total=False):
    """Errors of one face in one frame. What was not measured is null or not there."""

    iou: Number | None
    """Intersection over union of the boxes, 0 to 1, areas in px² without the +1 of whole-pixel boxes."""
    landmarks_px: Number | None
    """Mean Euclidean distance of the 68 landmarks, px."""
    nme: Number | None
    """The same in percent of sqrt(w·h) of the true box."""
    gaze_deg: Number | None
    """Angle between the gaze vectors in the camera frame, degrees."""
    gaze_cosine: Number | None
    """1 - cosine of that angle, 0 to 2."""
    head_pose_deg: Number | None
    """Angle of the rotation from one head pose to the other, degrees."""
    head_pose_x_deg: Number | None
    """Absolute difference of the first Euler angle, 0 to 180 degrees."""
    head_pose_y_deg: Number | None
    """The same of the second one."""
    head_pose_z_deg: Number | None
    """The same of the third one."""
    diff_score: Number | None
    """(1 - IoU) + landmark distance in px + gaze angle in degrees."""


class Statistics(TypedDict):
    """One metric over the frames that have it."""

    mean: Number
    median: Number
    p95: Number
    """95 % of frames are at least this good; for IoU that is the 5th percentile."""
    worst: Number
    worst_frame: NotRequired[Count]
    """Frame id."""


class ErrorStatistics(TypedDict, total=False):
    """Each metric that was measured, over the frames that have it."""

    iou: Statistics | None
    landmarks_px: Statistics | None
    nme: Statistics | None
    gaze_deg: Statistics | None
    gaze_cosine: Statistics | None
    head_pose_deg: Statistics | None
    head_pose_x_deg: Statistics | None
    head_pose_y_deg: Statistics | None
    head_pose_z_deg: Statistics | None
    diff_score: Statistics | None


@dataclass(frozen=True)
class Metric:
    """One metric, and where it is shown."""

    key: str
    title: str
    unit: str
    digits: int
    """Decimals shown."""
    error: Callable[[Face, Face], float | None]
    """The value for the true face and the one that was read; None where one of them lacks what it compares."""
    higher_is_better: bool = False
    role: Role | None = None
    """The victim whose tolerance (attacks/embed.py) it is measured by. These metrics are plotted and tabled first."""
    tolerance_unit: float = 1.0
    """What the tolerance's unit is in this metric's."""
    scale: float = 1.0
    """What a value is multiplied by to be in `unit`."""
    detail: bool = False
    """Whether only `drsf eval` shows it."""
    any_size: bool = True
    """Whether values of videos of different sizes can be compared. The others are not shown beside other files'."""
    decided_by: tuple[Role, ...] = ()
    """The places in the chain whose model decides it. The audit measures it for models in these places."""
    blind: bool = False
    """Whether the audit measures it for a reader who looks at no pixel (victims/blind.py)."""


def _iou(truth: Face, read: Face) -> float:
    return float(iou(truth.box, read.box))


def _landmarks_px(truth: Face, read: Face) -> float | None:
    if truth.landmarks is None or read.landmarks is None:
        return None
    return float(np.linalg.norm(truth.landmarks - read.landmarks, axis=1).mean())


def _nme(truth: Face, read: Face) -> float | None:
    distance = _landmarks_px(truth, read)
    return None if distance is None else 100 * distance / math.sqrt(truth.area)


def _gaze_deg(truth: Face, read: Face) -> float | None:
    if truth.gaze is None or read.gaze is None:
        return None
    return float(angle_between_degrees(truth.gaze, read.gaze))


def _gaze_cosine(truth: Face, read: Face) -> float | None:
    angle = _gaze_deg(truth, read)
    return None if angle is None else 1 - math.cos(math.radians(angle))


def _head_pose_deg(truth: Face, read: Face) -> float | None:
    if truth.euler_angles is None or read.euler_angles is None:
        return None
    first, second = (Rotation.from_euler("XYZ", one.euler_angles, degrees=True) for one in (truth, read))
    return math.degrees((first.inv() * second).magnitude())


def _euler_deg(axis: int) -> Callable[[Face, Face], float | None]:
    def error(truth: Face, read: Face) -> float | None:
        if truth.euler_angles is None or read.euler_angles is None:
            return None
        return float(abs((read.euler_angles[axis] - truth.euler_angles[axis] + 180) % 360 - 180))

    return error


def _diff_score(truth: Face, read: Face) -> float | None:
    distance, angle = _landmarks_px(truth, read), _gaze_deg(truth, read)
    return None if distance is None or angle is None else (1 - _iou(truth, read)) + distance + angle


METRICS: tuple[Metric, ...] = (
    Metric("iou", "Box IoU", "", 3, _iou, higher_is_better=True, role="detector", decided_by=("detector",)),
    Metric(
        "nme",
        "Landmark error (NME)",
        "%",
        2,
        _nme,
        role="aligner",
        tolerance_unit=100.0,
        decided_by=("detector", "aligner"),
        blind=True,
    ),
    Metric(
        "gaze_deg", "Gaze angle", "°", 2, _gaze_deg, role="gaze", decided_by=("detector", "aligner", "gaze"), blind=True
    ),
    Metric("landmarks_px", "Landmark distance", "px", 2, _landmarks_px, any_size=False),
    Metric("head_pose_deg", "Head pose", "°", 2, _head_pose_deg),
    Metric("diff_score", "DiffScore", "", 1, _diff_score, any_size=False, decided_by=("detector", "aligner")),
    Metric("gaze_cosine", "Gaze cosine distance", "", 3, _gaze_cosine, detail=True),
    Metric("head_pose_x_deg", "Head pose, x", "°", 2, _euler_deg(0), detail=True),
    Metric("head_pose_y_deg", "Head pose, y", "°", 2, _euler_deg(1), detail=True),
    Metric("head_pose_z_deg", "Head pose, z", "°", 2, _euler_deg(2), detail=True),
)
DETECTED = Metric(
    "detected", "Seen", "%", 1, lambda truth, read: 1.0, higher_is_better=True, scale=100.0, decided_by=("detector",)
)
"""The share of frames in which the audit's model sees the driver. It is of frames, not of two faces."""
REPORTED = tuple(metric for metric in METRICS if not metric.detail)
"""Of each frame and each summary in the report."""
PLOTTED = tuple(metric for metric in METRICS if metric.role is not None)
"""On the report's page."""
COMPARABLE = tuple(metric for metric in REPORTED if metric.any_size)
"""Where several files are shown together."""


def errors_of(truth: Face, read: Face) -> Errors:
    """Every metric that both faces have."""
    found = {metric.key: metric.error(truth, read) for metric in METRICS}
    return {key: value for key, value in found.items() if value is not None}  # type: ignore[return-value]


def decided_by(role: Role) -> tuple[Metric, ...]:
    """The metrics that a model in this place of the chain decides."""
    return tuple(metric for metric in (DETECTED, *METRICS) if role in metric.decided_by)


def measured(summary: Mapping[str, Any] | None) -> dict[Metric, Mapping[str, Any]]:
    """The metrics that a summary of the report has, each with its statistics."""
    return {metric: one for metric in REPORTED if (one := (summary or {}).get(metric.key)) is not None}


def text_of(value: float | None, metric: Metric) -> str:
    """The value with its unit, or a dash if nothing was measured."""
    return "–" if value is None else quantity(value, metric.unit, metric.digits)


def worst_by(frames: Sequence[Mapping[str, Any]], metric: Metric) -> list[Mapping[str, Any]]:
    """At most WORST of the measured frames, the worst first."""
    known = [frame for frame in frames if frame.get(metric.key) is not None]
    sign = 1 if metric.higher_is_better else -1
    return sorted(known, key=lambda frame: (sign * frame[metric.key], frame["frame_id"]))[:WORST]
