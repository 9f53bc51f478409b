"""What others can read: models that were not authorised, on the original, the obscured and the written video.

Every model takes its own place in the authorised chain, and gets the best input that this place allows. A detector's
boxes go to the authorised aligner and gaze estimator. An aligner gets the box, and a gaze estimator the landmarks, that
the authorised models read in the original. So each model is measured as part of a reader that does everything else
right.

Three columns:

    original   how often the model sees the driver, and how far its reading is from the authorised one
    obscured   the same regions hidden and nothing embedded, through the same codec: made again from the original
    written    the written file

In the last two columns, errors are measured against the model's *own* reading of the original, and frames of the
original in which it does not see the driver are left out. `leakage` is the gap between these columns, and is positive
if embedding helps the model. `blind` is the error, against the same readings, of a reader who is told the true box and
looks at no pixel (victims/blind.py): a model whose error is as large has learnt nothing. The figures hold for the
measured models and this video, and for no others.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from attacks.codec import DeliveryCodec
from attacks.obscure import Obscuring, Region, obscure
from drsf_cli.measure.evaluation import evaluate
from drsf_cli.measure.identity import IdentityMeter
from drsf_cli.measure.leakage_form import COLUMNS, Columns, Figures, IdentityLeakage, Leakage, ModelLeakage
from drsf_cli.measure.metrics import Metric, decided_by
from drsf_cli.media.reader import Frame, VideoReader
from drsf_cli.progress import SILENT, Progress, runs
from drsf_cli.readers.outsiders import Outsider
from export.device import Device
from victims.base import Aligner, Detector, GazeEstimator, Image, Role
from victims.blind import blind_face
from victims.camera import Camera
from victims.crew import Each
from victims.face import Face, FrameObservation, iou
from victims.observe import Observer
from weights.errors import InputError

ORIGINAL, OBSCURED, WRITTEN = COLUMNS
SAME_FACE = 0.2
"""From this IoU on, a model's box counts as the driver's."""
MOST_FRAMES = 240
"""Frames looked at unless told otherwise, evenly spaced."""


@dataclass
class _Seen:
    """One model's readings, by column, and the role that it takes."""

    name: str
    role: Role
    weights: Mapping[str, str]
    chain: Observer
    repelled: bool = False
    authorised: bool = False
    readings: _Readings = field(default_factory=lambda: {column: [] for column in COLUMNS})


_Pictures = Mapping[str, Sequence[Image]]
"""Of a run of frames, by column."""
_Readings = dict[str, list[FrameObservation]]
"""Likewise."""


@dataclass(frozen=True)
class Covered:
    """What is known about a de-identified clip: how heads are hidden, and where the driver is."""

    read: Callable[[Sequence[Frame]], Sequence[FrameObservation]]
    """The authorised reading of frames of the original. A frame's own face is the driver's."""
    regions: Sequence[Sequence[Region]]
    obscuring: Obscuring
    codec: DeliveryCodec | None
    """The codec with which it was written; None if lossless."""


@dataclass(frozen=True)
class Readers:
    """Who reads the two videos."""

    authorised: Observer
    """The chain that was embedded for."""
    outsiders: Mapping[str, Outsider]
    """Models that were not, by name; each is put in its place of the chain."""
    repelled: AbstractSet[str] = frozenset()
    """The names of those that were repelled."""
    device: Device = "auto"
    """Where the outsiders run."""
    each: Each = map
    """What shares the reading among cores."""


def measure(
    original: VideoReader,
    written: Path,
    covered: Covered,
    readers: Readers,
    *,
    identity: IdentityMeter | None = None,
    every: int | None = None,
    batch_size: int = 4,
    progress: Progress = SILENT,
) -> Leakage:
    """The table, JSON-able, of every model of `readers`.

    `every`: only every so many frames are looked at; by default as many as keep them under `MOST_FRAMES`. Raises
    InputError where the two videos differ in length or size.
    """
    count = len(covered.regions)
    known: dict[int, FrameObservation] = {}
    every = every or max(1, -(-count // MOST_FRAMES))
    seen = _placed_all(readers)
    progress.begin("Reading as others would", -(-count // every))

    def look(group: list[tuple[Frame, Frame]]) -> tuple[Sequence[FrameObservation], _Pictures, list[_Readings]]:
        hidden = [obscure(before.image, covered.regions[before.index], covered.obscuring) for before, _ in group]
        if covered.codec is not None:
            heads = [[region.rect for region in covered.regions[before.index]] for before, _ in group]
            hidden = list(covered.codec.roundtrip(np.stack(hidden), focus=heads))
        frames = [before for before, _ in group]
        read = covered.read(frames)
        images: _Pictures = {
            ORIGINAL: [frame.image for frame in frames],
            OBSCURED: hidden,
            WRITTEN: [after.image for _, after in group],
        }
        truths = [one.own for one in read]
        return read, images, [_looked(one, frames, truths, images) for one in seen]

    for read, images, found in readers.each(look, runs(_sampled(original, written, covered, every), batch_size)):
        known |= {one.index: one for one in read}
        for one, own in zip(seen, found, strict=True):
            for column in COLUMNS:
                one.readings[column] += own[column]
        for row, face in enumerate(observation.own for observation in read):
            if identity is not None and face is not None:
                identity.look({column: pictures[row] for column, pictures in images.items()}, face)
        progress.advance(len(read))
    info = original.info
    camera = readers.authorised.camera or Camera.default(info.width, info.height)
    return {
        "frames": count,
        "every": every,
        "frames_looked_at": len(seen[0].readings[ORIGINAL]),
        "models": [_row(one, known, camera) for one in seen],
        "identity": None if identity is None else _identity(identity),
        "note": "Measured on these models and this video; nothing follows for other models.",
    }


def _placed_all(readers: Readers) -> list[_Seen]:
    """The authorised chain, and each outsider in its place."""
    own = readers.authorised
    weights = {file: sha256 for victim in own.victims.values() for file, sha256 in victim.weights.items()}
    return [
        _Seen("authorised chain", "detector", weights, own, authorised=True),
        *(_placed(one, own, readers.device, one.name in readers.repelled) for one in readers.outsiders.values()),
    ]


def _placed(outsider: Outsider, authorised: Observer, device: Device, repelled: bool) -> _Seen:
    """The authorised chain with `outsider` in its place; the models before it do not run."""
    victim = outsider.reader(device)
    chain = replace(authorised)
    if isinstance(victim, Detector):
        chain.detector = victim
    elif isinstance(victim, Aligner):
        chain.aligner = victim
    elif isinstance(victim, GazeEstimator):
        chain.gaze = victim
    return _Seen(outsider.name, outsider.role, dict(outsider.victim.weights), chain, repelled)


def _sampled(original: VideoReader, written: Path, covered: Covered, every: int) -> Iterator[tuple[Frame, Frame]]:
    """Pairs of frames to look at."""
    result = VideoReader(written)
    if (result.info.width, result.info.height) != (original.info.width, original.info.height):
        raise InputError(
            f"{written} is {result.info.width}x{result.info.height} and {original.path} {original.info.width}x"
            f"{original.info.height}; give a clip and what was made of it."
        )
    for count, (before, after) in enumerate(itertools.zip_longest(original, result)):
        if before is None or after is None or before.index >= len(covered.regions):
            raise InputError(
                f"{written} and {original.path} differ in length after {count} frames; give a clip and what was made "
                "of it."
            )
        if before.index % every == 0:
            yield before, after


def _looked(one: _Seen, frames: Sequence[Frame], truths: Sequence[Face | None], images: _Pictures) -> _Readings:
    """A model's readings of a run of frames."""
    aims: list[Face | None] = list(truths)
    readings: _Readings = {}
    for column in COLUMNS:
        found = _read(one, images[column], truths)
        faces = [_same(own, aim) for own, aim in zip(found, aims, strict=True)]
        if column == ORIGINAL:
            aims = list(faces)
        readings[column] = [
            FrameObservation(frame.index, frame.pts, () if face is None else (face,))
            for frame, face in zip(frames, faces, strict=True)
        ]
    return readings


def _read(one: _Seen, images: Sequence[Image], truths: Sequence[Face | None]) -> list[tuple[Face, ...]]:
    chain = one.chain
    if one.role == "detector":
        return chain.read_faces(images, chain.detector.detect(images))
    height, width = images[0].shape[:2]
    camera = chain.camera or Camera.default(width, height)
    faces: list[tuple[Face, ...]] = []
    for image, truth in zip(images, truths, strict=True):
        if truth is None or (one.role == "gaze" and truth.landmarks is None):
            faces.append(())
            continue
        face = Face(truth.box, truth.score, truth.landmarks)
        if one.role == "aligner" and chain.aligner is not None:
            face = replace(face, landmarks=chain.aligner.align([image], [truth.box[None]])[0][0])
        if chain.gaze is not None and face.landmarks is not None:
            vectors, angles = chain.gaze.estimate([image], [face.landmarks[None]], camera)[0]
            face = replace(face, gaze=vectors[0], gaze_angle=angles[0])
            if not np.isfinite(vectors).all():
                face = replace(face, gaze=None, gaze_angle=None)
        faces.append((face,))
    return faces


def _same(faces: Sequence[Face], aim: Face | None) -> Face | None:
    """The face at the place of `aim`; the best one if there are several."""
    if aim is None:
        return None
    best = max(faces, key=lambda face: float(iou(face.box, aim.box)), default=None)
    return best if best is not None and iou(best.box, aim.box) >= SAME_FACE else None


def _row(one: _Seen, authorised: Mapping[int, FrameObservation], camera: Camera) -> ModelLeakage:
    truth = [authorised[observation.index] for observation in one.readings[ORIGINAL]]
    own = one.readings[ORIGINAL]
    columns: Columns = {
        "original": _figures(one.role, truth, own),
        "obscured": _figures(one.role, own, one.readings[OBSCURED]),
        "written": _figures(one.role, own, one.readings[WRITTEN]),
    }
    return {
        "name": one.name,
        "role": one.role,
        "weights": dict(one.weights),
        "authorised": one.authorised,
        "repelled": one.repelled,
        "columns": columns,
        "leakage": {
            metric.key: _gap(metric, columns["obscured"][metric.key], columns["written"][metric.key])
            for metric in decided_by(one.role)
        },
        "blind": _blind(one.role, truth, own, camera),
    }


def _blind(role: Role, truth: Sequence[FrameObservation], own: Sequence[FrameObservation], camera: Camera) -> Figures:
    """What a reader who knows the authorised box and no more gets, in the frames that the model sees."""
    read = []
    for known, seen in zip(truth, own, strict=True):
        face = known.own if seen.faces else None
        read.append(replace(seen, faces=() if face is None else (blind_face(face.box, camera),)))
    figures = _figures(role, own, read)
    return {metric.key: figures[metric.key] if metric.blind else None for metric in decided_by(role)}


def _figures(role: Role, truth: Sequence[FrameObservation], read: Sequence[FrameObservation]) -> Figures:
    """Means over the frames that `truth` has a face in.

    `iou` counts a missed face as 0 and `diff_score` charges it (see drsf_cli.measure.evaluation); the other metrics are
    over the faces that were read.
    """
    count = sum(bool(observation.faces) for observation in truth)
    keys = [metric.key for metric in decided_by(role)]
    figures: Figures = {"frames": count, **dict.fromkeys(keys)}
    if not count:
        return figures
    result = evaluate(truth, read)
    values: dict[str, float | None] = {key: one.mean for key, one in result.summaries.items()}
    values["detected"] = result.compared / count
    values["iou"] = (values.get("iou") or 0.0) * result.compared / count
    values["diff_score"] = result.diff_score_with_misses if result.compared else _all_missed(truth)
    return figures | {key: values.get(key) for key in keys}


def _all_missed(truth: Sequence[FrameObservation]) -> float | None:
    """The DiffScore with misses if every frame is missed."""
    faces = [face for observation in truth if (face := observation.own) is not None]
    if any(face.landmarks is None or face.gaze is None for face in faces):
        return None
    return float(np.mean([1 + math.hypot(*(face.box[2:] - face.box[:2])) + 180 for face in faces]))


def _gap(metric: Metric, obscured: float | None, written: float | None) -> float | None:
    if obscured is None or written is None:
        return None
    return written - obscured if metric.higher_is_better else obscured - written


def _identity(meter: IdentityMeter) -> IdentityLeakage:
    document = meter.to_dict(ORIGINAL)
    columns = document["columns"]
    if columns:
        document["leakage"] = {
            key: None if written is None or obscured is None else written - obscured
            for key in ("cosine", "rank1", "tar")
            for written, obscured in [(columns["written"][key], columns["obscured"][key])]
        }
    return document
