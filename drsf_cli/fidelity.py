"""How well the file that was written is read: what is worth more steps, and what the report says of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from attacks.embed import TOLERANCES, Embedded
from drsf_cli.evaluation import Evaluation, FrameErrors

_COLUMNS: Mapping[str, tuple[str, float]] = {
    "iou": ("detector", 1.0),
    "nme_percent": ("aligner", 0.01),
    "gaze_degrees": ("gaze", 1.0),
}
"""Metric of an evaluation -> role, and what turns it into the unit of that role's tolerance."""


def score(row: FrameErrors) -> float:
    """The worst error of a frame in units of its tolerance; infinite where the face was missed."""
    if row.missed:
        return float("inf")
    values = []
    for key, (role, factor) in _COLUMNS.items():
        value = getattr(row, key)
        if value is not None:
            error = 1.0 - value if key == "iou" else value * factor
            values.append(error / TOLERANCES[role])  # type: ignore[index]
    return max(values, default=0.0)


SHORT = 6.0
"""A frame whose worst error is over this many tolerances goes back for more steps ..."""
MORE_STEPS = 3
"""... and gets this many a round."""


def falling_short(result: Evaluation) -> list[int]:
    """Frames of the written file that are worth more steps."""
    return [row.frame_id for row in result.frames if row.in_gt and score(row) > SHORT]


def badness(result: Evaluation) -> float:
    """Mean score over frames, a missed one counted as 50."""
    scores = [min(score(row), 50.0) for row in result.frames if row.in_gt]
    return float(np.mean(scores)) if scores else 0.0


def frame_row(row: FrameErrors, embedded: Embedded | None, floor: FrameErrors | None) -> dict[str, Any]:
    def errors(of: FrameErrors) -> dict[str, Any]:
        return {
            "iou": of.iou,
            "nme": of.nme_percent,
            "gaze_deg": of.gaze_degrees,
            "landmarks_px": of.landmark_px,
            "head_pose_deg": of.pose_degrees,
        }

    return {
        "frame_id": row.frame_id,
        "pts": row.pts,
        "missed": row.missed,
        **errors(row),
        "passes": 0 if embedded is None else embedded.passes,
        "steps": 0 if embedded is None else embedded.steps,
        "floor": None if floor is None else errors(floor),
    }


_SUMMARY_NAMES = {
    "iou": "iou",
    "landmark_px": "landmarks_px",
    "nme_percent": "nme",
    "gaze_degrees": "gaze_deg",
    "pose_degrees": "head_pose_deg",
    "diff_score": "diff_score",
}


def summary(result: Evaluation) -> dict[str, Any]:
    """An evaluation as the report has it: mean, median, 95th percentile and worst of each error."""
    document: dict[str, Any] = {
        "frames": result.compared,
        "missed": len(result.missed),
        "extra": len(result.extra),
        "missed_frames": list(result.missed),
    }
    for key, name in _SUMMARY_NAMES.items():
        one = result.summaries.get(key)
        if one is not None:
            document[name] = {
                "mean": one.mean,
                "median": one.median,
                "p95": one.p95,
                "worst": one.worst,
                "worst_frame": one.worst_frame,
            }
    return document
