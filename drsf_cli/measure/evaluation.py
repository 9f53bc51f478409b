"""Errors between two readings: how far the attributes read from one video are from those read from another.

`gt` is always the ground truth (usually the original video), `pred` the prediction (the de-identified one). Frames
are paired by `frame_id`; the largest face of each frame counts, as in the JSON format of the field.

If the ground truth of a frame has a face and the prediction has none, the frame is *missed*; the reverse is *extra*.
Both are counted and listed, and do not enter any mean. A frame that only one of the lists has is counted separately
(`only_in_gt`, `only_in_pred`).

DiffScore is that of the HCMUS paper (MediaEval 2021 DRSF): the mean over frames of

    (1 - IoU) + mean landmark distance in px + gaze angle in degrees

in the units of the authors' own evaluation script. Pixels dominate it, and it grows with the video's size, so compare
it only between runs on the same clip. It is the mean over frames with a face in both lists. `diff_score_with_misses`
also counts each missed frame, with the largest error that a reader can make inside the true box: 1 for the box, the
box's diagonal for the landmarks and 180 degrees for the gaze.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from drsf_cli.measure.behaviour import Behaviour, behaviour, pooled
from drsf_cli.measure.glances import load_zones
from drsf_cli.measure.metrics import METRICS, Errors, Metric, errors_of
from drsf_cli.measure.records import read_observations
from victims.face import Face, FrameObservation, iou
from weights.errors import InputError


@dataclass(frozen=True)
class FrameErrors:
    """One frame that both lists have."""

    frame_id: int
    pts: float
    """Time of the ground truth's frame, s; NaN if its file does not say."""
    in_gt: bool
    """Whether the ground truth has a face."""
    in_pred: bool
    errors: Errors = field(default_factory=Errors)
    """Every metric that both faces have."""

    @property
    def missed(self) -> bool:
        """A face of the ground truth that was not read."""
        return self.in_gt and not self.in_pred

    @property
    def extra(self) -> bool:
        """A face that is not in the ground truth."""
        return self.in_pred and not self.in_gt


@dataclass(frozen=True)
class Summary:
    """One metric over the frames that have it."""

    frames: int
    mean: float
    median: float
    p95: float
    """95 % of frames are at least this good (linear interpolation): for IoU that is the 5th percentile."""
    worst: float
    worst_frame: int
    worst_file: str | None = None
    """Set if several files are summarised together."""


@dataclass(frozen=True)
class Evaluation:
    """Two lists compared."""

    frames: tuple[FrameErrors, ...]
    """Frames of both lists, by frame_id."""
    summaries: Mapping[str, Summary]
    """By the metric's key; without the metrics that no frame has."""
    compared: int
    """Frames with a face in both."""
    missed: tuple[int, ...]
    """Frame ids with a face in the ground truth only."""
    extra: tuple[int, ...]
    """Frame ids with a face in the prediction only."""
    only_in_gt: tuple[int, ...]
    """Frame ids that the prediction does not list."""
    only_in_pred: tuple[int, ...]
    other_face: tuple[int, ...]
    """Frame ids in which another face of the prediction overlaps the true box more than the frame's own does."""
    diff_score_with_misses: float | None
    likely_offset: int = 0
    """What to add to the prediction's frame ids if one list counts from 0 and the other from 1; else 0."""
    others: OtherFaces | None = None
    """Errors of the frames' further faces; None if the ground truth has none."""
    behaviour: Behaviour | None = None
    """The comparison of blinks, PERCLOS, glances etc.; None if only boxes, landmarks and angles were compared."""


@dataclass(frozen=True)
class OtherFaces:
    """The faces of the ground truth that are not their frame's own.

    Each is compared with the prediction's face at the same place.
    """

    faces: int
    missed: int
    summaries: Mapping[str, Summary]


@dataclass(frozen=True)
class FolderEvaluation:
    """Files of two folders compared, paired by name."""

    files: Mapping[str, Evaluation]
    summaries: Mapping[str, Summary]
    """Over all frames of all files together."""
    compared: int
    missed: int
    extra: int
    only_in_gt: tuple[str, ...]
    """Files that the other folder does not have."""
    only_in_pred: tuple[str, ...]
    behaviour: Behaviour
    """Means of the files' own figures."""


# ------------------------------------------------------------------------------------------------- comparing


def evaluate(gt: Iterable[FrameObservation], pred: Iterable[FrameObservation]) -> Evaluation:
    """Compare prediction with ground truth. Raises InputError where they have no frame_id in common."""
    truth = {observation.index: observation for observation in gt}
    prediction = {observation.index: observation for observation in pred}
    shared = sorted(truth.keys() & prediction.keys())
    offset = _likely_offset(sorted(truth), sorted(prediction))
    if not shared:
        raise InputError(
            f"the ground truth ({len(truth)} frames) and the prediction ({len(prediction)} frames) have no frame_id in "
            f"common; give two readings of the same clip{f', or --offset {offset}' if offset else ''}."
        )
    frames = tuple(compare_faces(truth[index], truth[index].own, prediction[index].own) for index in shared)
    return Evaluation(
        frames=frames,
        summaries=summarise(frames),
        compared=sum(frame.in_gt and frame.in_pred for frame in frames),
        missed=tuple(frame.frame_id for frame in frames if frame.missed),
        extra=tuple(frame.frame_id for frame in frames if frame.extra),
        only_in_gt=tuple(sorted(truth.keys() - prediction.keys())),
        only_in_pred=tuple(sorted(prediction.keys() - truth.keys())),
        other_face=tuple(index for index in shared if _other_face_fits_better(truth[index], prediction[index])),
        diff_score_with_misses=_diff_score_with_misses(frames, truth),
        likely_offset=offset,
        others=other_faces([(truth[index], prediction[index]) for index in shared]),
    )


def _likely_offset(truth: Sequence[int], prediction: Sequence[int]) -> int:
    """1 or -1 where the same frames are numbered from 0 in one list and from 1 in the other."""
    if len(truth) != len(prediction) or {*truth[:1], *prediction[:1]} != {0, 1}:
        return 0
    offsets = {a - b for a, b in zip(truth, prediction, strict=True)}
    return offsets.pop() if len(offsets) == 1 else 0


def other_faces(pairs: Iterable[tuple[FrameObservation, FrameObservation]]) -> OtherFaces | None:
    """Compare the other faces of frames of the ground truth with those of the prediction's frames."""
    rows = []
    for gt, pred in pairs:
        for face, read in zip(gt.faces, match_faces(gt.faces, pred.faces), strict=True):
            if face is not gt.own:
                rows.append(compare_faces(gt, face, read))
    if not rows:
        return None
    return OtherFaces(len(rows), sum(row.missed for row in rows), summarise(rows))


def summarise(rows: Iterable[FrameErrors]) -> dict[str, Summary]:
    """Each metric that some of the rows have, over those rows."""
    return _summaries([(None, row) for row in rows])


def match_faces(wanted: Sequence[Face], read: Sequence[Face]) -> list[Face | None]:
    """For each face, the one of `read` at the same place.

    No face is taken twice, and the sum of the overlaps is the largest possible. None if no remaining face overlaps it.
    """
    from scipy.optimize import linear_sum_assignment  # takes a second to import, and reading needs no matching

    if not wanted or not read:
        return [None] * len(wanted)
    overlaps = iou(np.stack([face.box for face in wanted])[:, None], np.stack([face.box for face in read]))
    found: list[Face | None] = [None] * len(wanted)
    for row, column in zip(*linear_sum_assignment(-overlaps), strict=True):
        if overlaps[row, column] > 0:
            found[row] = read[column]
    return found


def evaluate_files(gt: str | Path, pred: str | Path, offset: int = 0, zones: str | Path | None = None) -> Evaluation:
    """`evaluate` on two files, and their behaviour by `zones` (drsf_cli/measure/glances.py).

    `offset` is added to the frame ids of `pred`. Raises InputError naming the file.
    """
    truth, prediction = read_observations(gt), read_observations(pred)
    prediction = [replace(one, index=one.index + offset) for one in prediction]
    ranges = load_zones(zones)
    try:
        result = evaluate(truth, prediction)
    except InputError as error:
        raise InputError(f"{gt}, {pred}: {error}") from error
    return replace(result, behaviour=behaviour(truth, prediction, ranges))


def evaluate_folders(
    gt: str | Path, pred: str | Path, offset: int = 0, zones: str | Path | None = None
) -> FolderEvaluation:
    """Compare every `*.json` in the folder `gt`, or below it, with the file of the same name and place in `pred`.

    The reports that `drsf deid` writes (`*.report.json`) are left out. Raises InputError if one is not a folder,
    no name is in both, or a file is not of the form.
    """
    gt, pred = Path(gt), Path(pred)
    names: list[set[str]] = []
    for folder in (gt, pred):
        if not folder.is_dir():
            raise InputError(f"{folder}: is not a folder; give two folders of JSON files, or two files.")
        names.append(
            {
                path.relative_to(folder).as_posix()
                for path in folder.rglob("*.json")
                if path.is_file() and not path.name.endswith(".report.json")
            }
        )
    shared = sorted(names[0] & names[1])
    if not shared:
        raise InputError(
            f"{gt}, {pred}: no JSON file has the same name in both folders; name readings of a clip alike."
        )
    files = {name: evaluate_files(gt / name, pred / name, offset, zones) for name in shared}
    return FolderEvaluation(
        files=files,
        summaries=_summaries([(name, frame) for name, evaluation in files.items() for frame in evaluation.frames]),
        compared=sum(evaluation.compared for evaluation in files.values()),
        missed=sum(len(evaluation.missed) for evaluation in files.values()),
        extra=sum(len(evaluation.extra) for evaluation in files.values()),
        only_in_gt=tuple(sorted(names[0] - names[1])),
        only_in_pred=tuple(sorted(names[1] - names[0])),
        behaviour=pooled([evaluation.behaviour for evaluation in files.values() if evaluation.behaviour is not None]),
    )


def compare_faces(gt: FrameObservation, truth: Face | None, prediction: Face | None) -> FrameErrors:
    """Two readings of one face of a frame of the ground truth."""
    if truth is None or prediction is None:
        return FrameErrors(gt.index, gt.pts, truth is not None, prediction is not None)
    return FrameErrors(gt.index, gt.pts, True, True, errors_of(truth, prediction))


def _other_face_fits_better(gt: FrameObservation, pred: FrameObservation) -> bool:
    truth, own = gt.own, pred.own
    if truth is None or own is None:
        return False
    overlap = iou(truth.box, own.box)
    return any(iou(truth.box, face.box) > overlap for face in pred.faces if face is not own)


def _diff_score_with_misses(frames: Sequence[FrameErrors], truth: Mapping[int, FrameObservation]) -> float | None:
    scores = [score for frame in frames if (score := frame.errors.get("diff_score")) is not None]
    if not scores:
        return None
    for frame in frames:
        face: Face | None = truth[frame.frame_id].own
        if frame.missed and face is not None:
            x1, y1, x2, y2 = face.box
            scores.append(1 + math.hypot(x2 - x1, y2 - y1) + 180)
    return float(np.mean(scores))


def _summaries(frames: Sequence[tuple[str | None, FrameErrors]]) -> dict[str, Summary]:
    summaries = {}
    for metric in METRICS:
        having = [(name, frame) for name, frame in frames if metric.key in frame.errors]
        if not having:
            continue
        values = np.array([value_of(frame, metric) for _, frame in having], dtype=np.float64)
        worst = int(values.argmin() if metric.higher_is_better else values.argmax())
        summaries[metric.key] = Summary(
            frames=len(values),
            mean=float(values.mean()),
            median=float(np.median(values)),
            p95=float(np.percentile(values, 5 if metric.higher_is_better else 95)),
            worst=float(values[worst]),
            worst_frame=having[worst][1].frame_id,
            worst_file=having[worst][0],
        )
    return summaries


def value_of(frame: FrameErrors, metric: Metric) -> float | None:
    """A frame's error by this metric; None where there is none."""
    errors: Mapping[str, Any] = frame.errors
    return errors.get(metric.key)
