"""How well the authorised models read the written file."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

from attacks.embed import TOLERANCES, Embedded
from attacks.obscure import Region
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
from drsf_cli.measure.metrics import METRICS, REPORTED, STATISTICS, Errors, ErrorStatistics
from drsf_cli.measure.signals import face_signals
from drsf_cli.report.schema import FrameSection, OtherFacesSection, TrackSection, regions_section
from drsf_cli.report.schema import Summary as SummarySection
from victims.face import Face, FrameObservation


def score(row: FrameErrors) -> float:
    """The worst error of a frame in units of its tolerance; infinite where the face was missed."""
    if row.missed:
        return float("inf")
    errors: Mapping[str, Any] = row.errors
    values = [0.0]
    for metric in METRICS:
        value = errors.get(metric.key)
        if metric.role is not None and value is not None:
            error = 1.0 - value if metric.higher_is_better else value
            values.append(error / (TOLERANCES[metric.role] * metric.tolerance_unit))
    return max(values)


@dataclass(frozen=True)
class Fidelity:
    """The reading of the written file against the attributes that were embedded."""

    frames: Evaluation
    """For each frame, the largest face with embedded attributes."""
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
    """What was `read` from frames of the clip, against what was seen in the original.

    Faces are told apart by where they lie; what is read elsewhere counts only in frames in which nothing was embedded.
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
    regions: Sequence[Region] = (),
) -> FrameSection:
    """`embedded`: in all faces of the frame; `read`: of its face in the original and in the written file."""
    original, recovered = (None if face is None else face_signals(face) for face in read)
    return {
        "frame_id": row.frame_id,
        "pts": row.pts,
        "missed": row.missed,
        **_reported(row),
        "passes": sum(one.passes for one in embedded),
        "steps": sum(one.steps for one in embedded),
        "floor": None if floor is None else _reported(floor),
        "signals": {"original": original, "recovered": recovered},
        "regions": regions_section(regions),
    }


def _reported(row: FrameErrors) -> Errors:
    errors: Mapping[str, Any] = row.errors
    return cast(Errors, {metric.key: errors.get(metric.key) for metric in REPORTED})


def summary(result: Evaluation) -> SummarySection:
    """An evaluation as the report has it: mean, median, 95th percentile and worst of each error."""
    return {
        "frames": result.compared,
        "missed": len(result.missed),
        "extra": len(result.extra),
        "missed_frames": list(result.missed),
        **_statistics(result.summaries),
    }


def faces_section(result: Fidelity) -> OtherFacesSection | None:
    """How the faces that are not their frame's largest came back, and each track; None where there is one face only."""
    if result.others is None:
        return None
    tracks: list[TrackSection] = []
    for track in sorted({track for _, track in result.faces}):
        rows = [row for (_, own), row in result.faces.items() if own == track]
        tracks.append(
            {
                "track": track,
                "first_frame": rows[0].frame_id,
                "last_frame": rows[-1].frame_id,
                "frames": len(rows),
                "missed": sum(row.missed for row in rows),
                **_statistics(summarise(rows)),
            }
        )
    others = result.others
    return {
        "frames": others.faces - others.missed,
        "missed": others.missed,
        **_statistics(others.summaries),
        "tracks": tracks,
    }


def _statistics(summaries: Mapping[str, Summary]) -> ErrorStatistics:
    found = {
        metric.key: {**{name: getattr(one, name) for name in STATISTICS}, "worst_frame": one.worst_frame}
        for metric in REPORTED
        if (one := summaries.get(metric.key)) is not None
    }
    return cast(ErrorStatistics, found)
