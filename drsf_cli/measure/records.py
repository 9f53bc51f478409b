"""The JSON format that the field exchanges: a list with one object for each frame.

    {"frame_id": 0, "bboxes": [x1, y1, x2, y2], "landmarks": [[x, y] x 68], "euler_angles": [a, b, c],
     "gaze_vector": [x, y, z], "gaze_angle": [pitch, yaw], "score": s, "eye_openness": [left, right],
     "mouth_openness": m, "pts": seconds, "faces": [...]}

With `infer --mesh` there is also `"mesh": [[x, y, z] x 478]`.

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
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from victims.face import Array, Face, FrameObservation
from victims.openness import eye_openness, mouth_openness
from weights.errors import InputError
from weights.files import write_atomically

_PIXEL_DIGITS = 4
_ANGLE_DIGITS = 5  # degrees
_RATIO_DIGITS = 5  # openness
_UNIT_DIGITS = 8  # unit vectors, radians, probabilities, seconds
"""Decimals written: far finer than any victim resolves, and a third of the bytes of full precision."""

_UNIT_SLACK = 1e-3
"""How far a unit vector's length may be from 1 through rounding."""


# ---------------------------------------------------------------------------------------------------- writing


def to_records(observations: Iterable[FrameObservation], mesh: bool = False) -> list[dict[str, Any]]:
    """The frames as JSON objects, in the order given; with `mesh` every point of an aligner that has more than 68. A
    `pts` of NaN (unknown) has no key.

    Raises ValueError for any other number that is not finite, and for two frames of one index.
    """
    records = []
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
        records.append(record)
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
    path = Path(path)
    try:
        text = path.read_text("utf-8-sig")
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); give a file that `drsf infer` wrote.") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: is not text; give a file that `drsf infer` wrote.") from error
    try:
        records = json.loads(text, parse_constant=lambda name: _refuse(str(path), f"{name} is not a number"))
    except json.JSONDecodeError as error:
        raise InputError(
            f"{path}: line {error.lineno} column {error.colno}: not JSON ({error.msg}); "
            "give a file that `drsf infer` wrote."
        ) from error
    except (RecursionError, ValueError) as error:  # nested too deep, or an integer of thousands of digits
        raise InputError(
            f"{path}: not JSON that can be read ({error}); give a file that `drsf infer` wrote."
        ) from error
    return from_records(records, str(path), unit_gaze=unit_gaze)


def from_records(records: object, source: str = "records", *, unit_gaze: bool = False) -> list[FrameObservation]:
    """Frames from parsed JSON, in the order given; the frame's own face comes first, then its `faces`.

    A frame without `pts` gets NaN. A face without `score` gets 1, because the list says that it is a face. `source`
    names the file in messages. `unit_gaze`: refuse gaze vectors whose length is not 1; otherwise they are scaled.
    Raises InputError naming the place that does not have the format.
    """
    if not isinstance(records, list):
        _refuse(source, f"holds {_kind(records)} where a list with one object a frame is needed")
    observations = []
    seen: set[int] = set()
    for position, record in enumerate(records):
        if not isinstance(record, dict):
            _refuse(f"{source}: entry {position}", f"is {_kind(record)} where an object is needed")
        index = _frame_id(record, f"{source}: entry {position}")
        place = f"{source}: frame {index}"
        if index in seen:
            _refuse(place, '"frame_id" is there twice')
        seen.add(index)
        own = _face_from_record(record, place, unit_gaze)
        others = record.get("faces") or []
        if not isinstance(others, list):
            _refuse(place, f'"faces" is {_kind(others)} where a list is needed')
        if others and own is None:
            _refuse(place, '"faces" has faces while "bboxes" is empty')
        faces = [own] if own else []
        for number, other in enumerate(others):
            inner = f'{place}: "faces" {number}'
            if not isinstance(other, dict):
                _refuse(inner, f"is {_kind(other)} where an object is needed")
            face = _face_from_record(other, inner, unit_gaze)
            if face is None:
                _refuse(inner, '"bboxes" is empty')
            faces.append(face)
        pts = _array(record, "pts", (), place)
        observations.append(FrameObservation(index, math.nan if pts is None else float(pts), tuple(faces)))
    return observations


def _refuse(place: str, what: str) -> NoReturn:
    raise InputError(f"{place}: {what}.")


def _kind(value: object) -> str:
    names: Mapping[type, str] = {dict: "an object", list: "a list", str: "a text", bool: "true or false"}
    return names.get(type(value), "null" if value is None else "a number")


def _frame_id(record: Mapping[str, Any], place: str) -> int:
    value = record.get("frame_id")
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < 20:
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        _refuse(place, '"frame_id" is missing or not a whole number from 0')
    return value


def _face_from_record(record: Mapping[str, Any], place: str, unit_gaze: bool) -> Face | None:
    if "bboxes" not in record:
        _refuse(place, '"bboxes" is missing; a frame without a face has an empty list there')
    box = _array(record, "bboxes", (4,), place)
    landmarks = _array(record, "landmarks", (68, 2), place)
    euler_angles = _array(record, "euler_angles", (3,), place)
    gaze_angle = _array(record, "gaze_angle", (2,), place)
    score = _array(record, "score", (), place)
    gaze = _gaze_vector(record, place, unit_gaze)
    if box is None:
        measured = {"landmarks": landmarks, "euler_angles": euler_angles, "gaze_vector": gaze, "gaze_angle": gaze_angle}
        for key, value in measured.items():
            if value is not None:
                _refuse(place, f'"{key}" is given while "bboxes" is empty')
        return None
    if box[2] <= box[0] or box[3] <= box[1]:
        _refuse(place, '"bboxes" is not x1, y1, x2, y2 with x1 < x2 and y1 < y2')
    return Face(box, 1.0 if score is None else float(score), landmarks, euler_angles, gaze, gaze_angle)


def _gaze_vector(record: Mapping[str, Any], place: str, unit: bool) -> Array | None:
    """Unit length; two components are x and y of a unit vector that points towards the camera."""
    value = record.get("gaze_vector")
    components = 2 if isinstance(value, list) and len(value) == 2 else 3
    vector = _array(record, "gaze_vector", (components,), place)
    if vector is None:
        return None
    length = float(np.linalg.norm(vector))
    if components == 2:
        if length > 1 + _UNIT_SLACK:
            _refuse(place, f'"gaze_vector" has two components of length {length:.3f}, no part of a unit vector')
        vector = np.append(vector, -math.sqrt(max(0.0, 1.0 - length**2)))
        length = float(np.linalg.norm(vector))
    if length == 0:
        _refuse(place, '"gaze_vector" has no direction')
    if unit and abs(length - 1) > _UNIT_SLACK:
        _refuse(place, f'"gaze_vector" has length {length:.4g} where a unit vector is needed')
    return vector / length


def _array(record: Mapping[str, Any], key: str, shape: tuple[int, ...], place: str) -> Array | None:
    """The numbers under `key`, float64 of `shape`; None where there is no key, null or an empty list."""
    value = record.get(key)
    if value is None or (shape and value == []):
        return None
    name = f'"{key}"'
    if not shape:
        return np.asarray(_number(value, name, place))
    if len(shape) == 1:
        numbers = [_number(number, name, place) for number in _list(value, shape[0], "numbers", name, place)]
        return np.asarray(numbers)
    numbers = []
    for position, point in enumerate(_list(value, shape[0], "points", name, place)):
        point_name = f"{name} point {position}"
        numbers += [
            _number(number, point_name, place) for number in _list(point, shape[1], "numbers", point_name, place)
        ]
    return np.asarray(numbers).reshape(shape)


def _list(value: object, length: int, noun: str, name: str, place: str) -> list[object]:
    if not isinstance(value, list):
        _refuse(place, f"{name} is {_kind(value)} where a list of {length} {noun} is needed")
    if len(value) != length:
        _refuse(place, f"{name} has {len(value)} {noun} where {length} are needed")
    return value


def _number(value: object, name: str, place: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        _refuse(place, f"{name} has {_kind(value)} where a number is needed")
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        _refuse(place, f"{name} has a number that is not finite")
    return number
