"""How well the file that was written is read: what the report says of it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from attacks.embed import TOLERANCES, Embedded
from drsf_cli.deid.changes import FaceKey
from drsf_cli.deid.survey import Survey
from drsf_cli.measure.evaluation import (
    Evaluation,
    FrameErrors,
    OtherFaces,
    Summary,
    compare_faces,
    evaluate,
    match_faces,
    other_faces,
    summarise,
)
from drsf_cli.measure.signals import face_signals
from victims.face import Face, FrameObservation

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


@dataclass(frozen=True)
class Fidelity:
    """How what was embedded is read back."""

    frames: Evaluation
    """Of each frame the largest face that was embedded for."""
    others: OtherFaces | None
    """The further ones."""
    faces: Mapping[FaceKey, FrameErrors]
    """All of them."""
    read: Mapping[int, tuple[Face | None, Face | None]]
    """Frame -> the face of `frames` in the original and in the written file."""

    @property
    def worst(self) -> dict[int, float]:
        """Frame -> the worst score of its faces."""
        found: dict[int, float] = {}
        for (index, _), row in self.faces.items():
            found[index] = max(found.get(index, 0.0), score(row))
        return found


def fidelity(survey: Survey, read: Iterable[FrameObservation]) -> Fidelity:
    """What was `read` from frames of the clip, against what was seen in the original. Faces are told apart by where
    they lie; what is read elsewhere counts only in frames in which nothing was embedded.
    """
    faces: dict[FaceKey, FrameErrors] = {}
    largest: list[tuple[FrameObservation, FrameObservation]] = []
    pairs = [(survey.observations[observation.index], observation) for observation in read]
    for truth, observation in pairs:
        found = match_faces(truth.faces, observation.faces)
        for track, face, one in zip(survey.tracks[truth.index], truth.faces, found, strict=True):
            faces[truth.index, track] = compare_faces(truth, face, one)
            if face is truth.own:
                own = replace(observation, faces=() if one is None else (one,))
                largest.append((replace(truth, faces=(face,)), own))
        if not truth.faces:
            largest.append((truth, observation))
    read_of = {truth.index: (truth.own, one.own) for truth, one in largest}
    return Fidelity(evaluate(*zip(*largest, strict=True)), other_faces(pairs), faces, read_of)


def frame_row(
    row: FrameErrors,
    embedded: Sequence[Embedded],
    floor: FrameErrors | None,
    read: tuple[Face | None, Face | None],
) -> dict[str, Any]:
    """`embedded`: in all faces of the frame; `read`: of its face in the original and in the written file."""

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
        "passes": sum(one.passes for one in embedded),
        "steps": sum(one.steps for one in embedded),
        "floor": None if floor is None else errors(floor),
        "signals": {
            which: None if face is None else face_signals(face)
            for which, face in zip(("original", "recovered"), read, strict=True)
        },
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
    return {
        "frames": result.compared,
        "missed": len(result.missed),
        "extra": len(result.extra),
        "missed_frames": list(result.missed),
        **_statistics(result.summaries),
    }


def faces_section(result: Fidelity) -> dict[str, Any] | None:
    """How the faces that are not their frame's largest came back, and each track; None where there is one face only."""
    if result.others is None:
        return None
    tracks = []
    for track in sorted({track for _, track in result.faces}):
        rows = [row for (_, own), row in result.faces.items() if own == track]
        missed = sum(row.missed for row in rows)
        ends = {"first_frame": rows[0].frame_id, "last_frame": rows[-1].frame_id}
        tracks.append({"track": track, **ends, "frames": len(rows), "missed": missed, **_statistics(summarise(rows))})
    others = result.others
    return {
        "frames": others.faces - others.missed,
        "missed": others.missed,
        **_statistics(others.summaries),
        "tracks": tracks,
    }


def _statistics(summaries: Mapping[str, Summary]) -> dict[str, Any]:
    return {
        name: {
            "mean": one.mean,
            "median": one.median,
            "p95": one.p95,
            "worst": one.worst,
            "worst_frame": one.worst_frame,
        }
        for key, name in _SUMMARY_NAMES.items()
        if (one := summaries.get(key)) is not None
    }
