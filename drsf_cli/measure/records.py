"""The JSON format that the field exchanges: a list with one object for each frame, of the form `FrameRecord`.

`READING.schema()` is its JSON Schema (`drsf infer --schema`, docs/schemas/infer.schema.json).

The first face (`victims.face.by_prominence`), most often the largest, is the frame's own; the others are under
`faces`, with the same keys except `frame_id` and `pts`. A frame without a face has `"bboxes": []`. Units and axes are
those of `victims.face.Face`. A value that no victim measured has no key. `eye_openness` and `mouth_openness` are
computed from the landmarks (victims/openness.py) when they are written, null where points are not finite; reading
ignores them.

Files of the original implementation (kaylode/mediaeval21-drsf, tools/inference.py) are read too: whole-pixel
coordinates, no `score`, `pts` or `gaze_angle`, empty lists for what is unknown, and a `gaze_vector` of two numbers,
which are the first two components of the unit vector in the camera frame (the third is recovered as negative: a
driver-facing camera sees gazes that come towards it).
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, NoReturn, NotRequired, cast

import numpy as np
from pydantic import BeforeValidator, Field, WithJsonSchema, with_config
from typing_extensions import TypedDict

from drsf_cli.measure.json_form import CONFIG, Form, Lengths, Number, read_json
from victims.face import Array, Face, FrameObservation
from victims.openness import eye_openness, mouth_openness
from weights.errors import InputError
from weights.files import write_atomically


def _whole(value: object) -> object:
    return int(value) if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < 20 else value


FrameId = Annotated[
    int,
    Field(ge=0),
    BeforeValidator(_whole),
    WithJsonSchema({"anyOf": [{"type": "integer", "minimum": 0}, {"type": "string", "pattern": "^[0-9]{1,19}$"}]}),
]
"""A whole number from 0; the original implementation writes it as a text."""
Point = Annotated[list[Number], Lengths((2,))]
Point3 = Annotated[list[Number], Lengths((3,))]


@with_config(CONFIG)
class FaceRecord(TypedDict):
    """One face. An empty list or null is the same as no key."""

    bboxes: Annotated[list[Number], Lengths((0, 4))] | None
    """x1, y1, x2, y2 px of the frame; empty where a frame has no face."""
    landmarks: NotRequired[Annotated[list[Point], Lengths((0, 68))] | None]
    """x, y px of the 68 points in iBUG's order."""
    euler_angles: NotRequired[Annotated[list[Number], Lengths((0, 3))] | None]
    """Head pose in the camera frame, degrees, intrinsic X-Y-Z."""
    gaze_vector: NotRequired[Annotated[list[Number], Lengths((0, 2, 3))] | None]
    """Unit vector in the camera frame: x right, y down, z away from the camera. Of two components z is negative."""
    gaze_angle: NotRequired[Annotated[list[Number], Lengths((0, 2))] | None]
    """Pitch, yaw, as the model reads them; radians."""
    score: NotRequired[Number | None]
    """Probability of "face"."""
    eye_openness: NotRequired[Annotated[list[Number | None], Lengths((2,))] | None]
    """Aspect ratios of the left and the right eye."""
    mouth_openness: NotRequired[Number | None]
    """Aspect ratio of the mouth."""
    mesh: NotRequired[list[Point3] | None]
    """x, y, z px of every point of MediaPipe's face mesh."""
    followed: NotRequired[bool | None]
    """Whether no detector saw the face, and it was read where it was read one frame earlier."""


@with_config(CONFIG)
class FrameRecord(FaceRecord):
    """One frame with its own face."""

    frame_id: FrameId
    pts: NotRequired[Number | None]
    """When the frame is shown, s."""
    faces: NotRequired[list[FaceRecord] | None]
    """The frame's other faces."""


_ADVICE = "give a file that `drsf infer` wrote."
READING = Form(list[FrameRecord], "Reading of drsf infer", _ADVICE)
_RECORD = Form(FrameRecord, "Frame of a reading", _ADVICE)

_PIXEL_DIGITS = 4
_ANGLE_DIGITS = 5  # degrees
_RATIO_DIGITS = 5  # openness
_UNIT_DIGITS = 8  # unit vectors, radians, probabilities, seconds
"""Decimals written: far finer than any victim resolves, and a third of the bytes of full precision."""

_UNIT_SLACK = 1e-3
"""How far a unit vector's length may be from 1 through rounding."""


# ---------------------------------------------------------------------------------------------------- writing


def to_records(observations: Iterable[FrameObservation], mesh: bool = False) -> list[FrameRecord]:
    """The frames as JSON objects, in the order given; with `mesh` every point of an aligner that has more than 68.

    A `pts` of NaN (unknown) has no key.

    Raises ValueError for any other number that is not finite, and for two frames of one index.
    """
    records: list[FrameRecord] = []
    seen: set[int] = set()
    for observation in observations:
        if observation.index in seen:
            raise ValueError(f"frame {observation.index} is there twice")
        seen.add(observation.index)
        record: dict[str, Any] = {"frame_id": int(observation.index)}
        own = observation.own
        place = f"frame {observation.index}"
        record |= {"bboxes": []} if own is None else _face_to_record(own, place, mesh)
        if not math.isnan(observation.pts):
            record["pts"] = _rounded(observation.pts, _UNIT_DIGITS, f"{place}: pts")
        if len(observation.faces) > 1:
            record["faces"] = [_face_to_record(face, f"{place}: faces", mesh) for face in observation.faces[1:]]
        records.append(cast(FrameRecord, record))
    return records


def write_observations(path: str | Path, observations: Iterable[FrameObservation], mesh: bool = False) -> None:
    """Write the list, one frame a line, whole or not at all; `mesh` as in `to_records`. Raises OutputError."""
    lines = [json.dumps(record, allow_nan=False) for record in to_records(observations, mesh)]
    write_atomically(path, "[\n" + ",\n".join(lines) + "\n]\n")


def _face_to_record(face: Face, place: str, mesh: bool) -> dict[str, Any]:
    fields = (
        ("bboxes", face.box, _PIXEL_DIGITS),
        ("landmarks", face.landmarks, _PIXEL_DIGITS),
        ("euler_angles", face.euler_angles, _ANGLE_DIGITS),
        ("gaze_vector", face.gaze, _UNIT_DIGITS),
        ("gaze_angle", face.gaze_angle, _UNIT_DIGITS),
        ("score", face.score, _UNIT_DIGITS),
        ("mesh", face.mesh if mesh else None, _PIXEL_DIGITS),
    )
    record = {key: _rounded(value, digits, f"{place}: {key}") for key, value, digits in fields if value is not None}
    record |= {"followed": True} if face.followed else {}
    return record if face.landmarks is None else record | _openness(face.landmarks)


def _openness(landmarks: Array) -> dict[str, Any]:
    """The openness of a face with (68, 2) landmarks; null if points are not finite."""
    left, right, mouth = (
        None if value is None else round(value, _RATIO_DIGITS)
        for value in (*eye_openness(landmarks), mouth_openness(landmarks))
    )
    return {"eye_openness": [left, right], "mouth_openness": mouth}


def _rounded(value: Array | float, digits: int, place: str) -> Any:
    array = np.asarray(value, dtype=np.float64)
    if not np.all(np.isfinite(array)):
        raise ValueError(f"{place} is not finite")
    return array.round(digits).tolist()


# ---------------------------------------------------------------------------------------------------- reading


def read_observations(path: str | Path, *, unit_gaze: bool = False) -> list[FrameObservation]:
    """The frames of a file, in its order. `unit_gaze`: as in `from_records`.

    Raises InputError naming the place that does not have the format above.
    """
    return from_records(read_json(Path(path), _ADVICE), str(path), unit_gaze=unit_gaze)


def from_records(records: object, source: str = "records", *, unit_gaze: bool = False) -> list[FrameObservation]:
    """Frames from parsed JSON, in the order given; the frame's own face comes first, then its `faces`.

    A frame without `pts` gets NaN. A face without `score` gets 1, because the list says that it is a face. `source`
    names the file in messages. `unit_gaze`: refuse gaze vectors whose length is not 1; otherwise they are scaled.
    Raises InputError naming the place that does not have the format.
    """
    if not isinstance(records, list):
        raise InputError(f"{source}: is not a list with one object for each frame; {_ADVICE}")
    observations = []
    seen: set[int] = set()
    for position, one in enumerate(records):
        record = _checked(one, source, position)
        index = int(record["frame_id"])
        place = f"{source}: frame {index}"
        if index in seen:
            _refuse(place, '"frame_id" is there twice')
        seen.add(index)
        own = _face_from_record(record, place, unit_gaze)
        others = record.get("faces") or []
        if others and own is None:
            _refuse(place, '"faces" has faces while "bboxes" is empty')
        faces = [own] if own else []
        for number, other in enumerate(others):
            inner = f"{place}: faces[{number}]"
            face = _face_from_record(other, inner, unit_gaze)
            if face is None:
                _refuse(inner, '"bboxes" is empty')
            faces.append(face)
        pts = record.get("pts")
        observations.append(FrameObservation(index, math.nan if pts is None else float(pts), tuple(faces)))
    return observations


def _checked(record: object, source: str, position: int) -> FrameRecord:
    """An entry of the list, if it is of the form."""
    known = _whole(record.get("frame_id")) if isinstance(record, dict) else None
    named = isinstance(known, int) and not isinstance(known, bool) and known >= 0
    _RECORD.check(record, f"{source}: frame {known}" if named else f"{source}: entry {position}")
    return cast(FrameRecord, record)


def _refuse(place: str, what: str) -> NoReturn:
    raise InputError(f"{place}: {what}.")


def _face_from_record(record: FaceRecord, place: str, unit_gaze: bool) -> Face | None:
    box, landmarks, euler_angles, gaze_angle = (
        _array(values)
        for values in (record["bboxes"], record.get("landmarks"), record.get("euler_angles"), record.get("gaze_angle"))
    )
    mesh = _array(record.get("mesh"))
    score = record.get("score")
    gaze = _gaze_vector(_array(record.get("gaze_vector")), place, unit_gaze)
    if box is None:
        measured = {"landmarks": landmarks, "euler_angles": euler_angles, "gaze_vector": gaze, "gaze_angle": gaze_angle}
        measured["mesh"] = mesh
        for key, value in measured.items():
            if value is not None:
                _refuse(place, f'"{key}" is given while "bboxes" is empty')
        return None
    if box[2] <= box[0] or box[3] <= box[1]:
        _refuse(place, '"bboxes" is not x1, y1, x2, y2 with x1 < x2 and y1 < y2')
    own = Face(box, 1.0 if score is None else float(score), landmarks, euler_angles, gaze, gaze_angle, mesh)
    return replace(own, followed=bool(record.get("followed")))


def _gaze_vector(vector: Array | None, place: str, unit: bool) -> Array | None:
    """Unit length; two components are x and y of a unit vector that points towards the camera."""
    if vector is None:
        return None
    length = float(np.linalg.norm(vector))
    if len(vector) == 2:
        if length > 1 + _UNIT_SLACK:
            _refuse(place, f'"gaze_vector" has two components of length {length:.3f}, no part of a unit vector')
        vector = np.append(vector, -math.sqrt(max(0.0, 1.0 - length**2)))
        length = float(np.linalg.norm(vector))
    if length == 0:
        _refuse(place, '"gaze_vector" has no direction')
    if unit and abs(length - 1) > _UNIT_SLACK:
        _refuse(place, f'"gaze_vector" has length {length:.4g} where a unit vector is needed')
    return vector / length


def _array(values: list[float] | list[list[float]] | None) -> Array | None:
    """None where nothing was measured."""
    return np.asarray(values, dtype=np.float64) if values else None
