"""The field's JSON: what is written, what is read, and what is refused with which words."""

from __future__ import annotations

import json
import math
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from drsf_cli.measure.records import from_records, read_observations, to_records, write_observations
from victims.face import Face, FrameObservation
from weights.errors import InputError, OutputError
from weights.files import write_atomically

POINTS = [[100.5 + i, 200.25 - i] for i in range(68)]


def face(x: float = 10.0, size: float = 50.0) -> Face:
    return Face(
        box=np.array([x, 20.0, x + size, 20.0 + size]),
        score=0.75,
        landmarks=np.array(POINTS),
        euler_angles=np.array([1.0, -2.0, 3.5]),
        gaze=np.array([0.6, 0.0, -0.8]),
        gaze_angle=np.array([0.1, -0.2]),
    )


def record(**changes: Any) -> dict[str, Any]:
    entry: dict[str, Any] = {
        "frame_id": 3,
        "bboxes": [10.0, 20.0, 60.0, 70.0],
        "landmarks": POINTS,
        "euler_angles": [1.0, -2.0, 3.5],
        "gaze_vector": [0.6, 0.0, -0.8],
        "gaze_angle": [0.1, -0.2],
        "score": 0.75,
        "eye_openness": [1.0, 1.0],  # on a diagonal line: (4 + 2) / (2 * 3) and (6 + 4 + 2) / (3 * 4) of its steps
        "mouth_openness": 1.0,
        "pts": 0.1,
    }
    entry |= changes
    return {key: value for key, value in entry.items() if value is not ...}


def test_the_written_form_is_the_fields_literally() -> None:
    [written] = to_records([FrameObservation(3, 0.1, (face(),))])
    assert written == record()


def test_the_first_face_is_the_frames_and_the_others_are_listed() -> None:
    small, large = face(x=0.0, size=20.0), face(x=300.0, size=80.0)
    [written] = to_records([FrameObservation(0, 0.0, (large, small))])
    assert written["bboxes"] == [300.0, 20.0, 380.0, 100.0]
    assert [other["bboxes"] for other in written["faces"]] == [[0.0, 20.0, 20.0, 40.0]]
    assert set(written["faces"][0]) == set(record()) - {"frame_id", "pts"}
    [read] = from_records([written])
    assert [f.box[0] for f in read.faces] == [300.0, 0.0]


def test_a_frame_without_a_face_has_an_empty_box_and_no_attributes() -> None:
    assert to_records([FrameObservation(7, 0.25)]) == [{"frame_id": 7, "bboxes": [], "pts": 0.25}]
    assert from_records([{"frame_id": 7, "bboxes": [], "pts": 0.25}])[0].faces == ()


def test_a_written_file_reads_back_the_same(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    gaze = rng.normal(size=3)
    gaze /= np.linalg.norm(gaze)
    points = rng.uniform(0, 1920, (68, 2))
    wild = Face(np.array([-3.123456, 5, 99.9, 120]), 0.5, points, rng.normal(size=3), gaze)
    observations = [FrameObservation(5, 1.001, (wild,)), FrameObservation(2, 0.5)]
    path = tmp_path / "out.json"
    write_observations(path, observations)
    back = read_observations(path)
    assert [(frame.index, frame.pts, len(frame.faces)) for frame in back] == [(5, 1.001, 1), (2, 0.5, 0)]
    read = back[0].faces[0]
    assert read.landmarks is not None
    assert read.gaze is not None
    assert np.abs(read.box - wild.box).max() < 1e-4
    assert np.abs(read.landmarks - points).max() < 1e-4
    assert np.abs(read.gaze - gaze).max() < 1e-7
    assert read.gaze_angle is None
    assert os.listdir(tmp_path) == ["out.json"]


def test_a_mesh_reads_back_the_same(tmp_path: Path) -> None:
    mesh = np.random.default_rng(0).uniform(-50, 1920, (478, 3))
    path = tmp_path / "mesh.json"
    write_observations(path, [FrameObservation(0, 0.0, (replace(face(), mesh=mesh),))], mesh=True)
    (own,) = read_observations(path)[0].faces
    assert own.mesh is not None
    np.testing.assert_allclose(own.mesh, mesh, atol=1e-4)
    write_observations(path, [FrameObservation(0, 0.0, (own,))])
    assert read_observations(path)[0].faces[0].mesh is None, "it is written where it is asked for"


def test_a_face_that_was_followed_says_so() -> None:
    seen, followed = to_records([FrameObservation(k, 0.0, (replace(face(), followed=k == 1),)) for k in (0, 1)])
    assert "followed" not in seen
    assert followed["followed"] is True
    assert [one.faces[0].followed for one in from_records([seen, followed])] == [False, True]


def test_files_of_the_original_implementation_are_read() -> None:
    """README of kaylode/mediaeval21-drsf: whole pixels, no score, pts or gaze_angle; tools: empty lists."""
    old = {"frame_id": "4", "bboxes": [185, 194, 321, 371], "landmarks": POINTS, "gaze_vector": [0.6, 0.0]}
    blank = {"frame_id": 5, "bboxes": [], "landmarks": [], "gaze_vector": [], "euler_angles": []}
    sample = {"frame_id": 6, "bboxes": [0, 0, 9, 9], "gaze_vector": [3.0, 0.0, 4.0], "euler_angles": None}
    first, second, third = from_records([old, blank, sample])
    assert first.index == 4
    assert math.isnan(first.pts)
    assert first.faces[0].gaze == pytest.approx([0.6, 0.0, -0.8])
    assert (first.faces[0].score, first.faces[0].euler_angles, first.faces[0].gaze_angle) == (1.0, None, None)
    assert second.faces == ()
    assert third.faces[0].gaze == pytest.approx([0.6, 0.0, 0.8])
    assert "pts" not in to_records([first])[0]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"landmarks": POINTS[:67]}, "frame 3: landmarks has 67 entries where 68 are needed; {advice}"),
        ({"landmarks": [*POINTS[:67], [1.0]]}, "frame 3: landmarks[67] has 1 entries where 2 are needed; {advice}"),
        ({"landmarks": "all"}, "frame 3: landmarks is not a list; {advice}"),
        ({"bboxes": [1, 2, 3]}, "frame 3: bboxes has 3 entries where 4 are needed; {advice}"),
        ({"bboxes": [[1, 2, 3, 4]]}, "frame 3: bboxes[0] is not a number; {advice}"),
        ({"bboxes": [9, 2, 3, 4]}, 'frame 3: "bboxes" is not x1, y1, x2, y2 with x1 < x2 and y1 < y2.'),
        ({"bboxes": [1, 2, 3, None]}, "frame 3: bboxes[3] is not a number; {advice}"),
        ({"bboxes": [1, 2, 3, True]}, "frame 3: bboxes[3] is not a number; {advice}"),
        ({"bboxes": [1, 2, 3, 10**400]}, "frame 3: bboxes[3] is not a number; {advice}"),
        ({"bboxes": [1, 2, 3, float("nan")]}, "frame 3: bboxes[3] is not a finite number; {advice}"),
        ({"bboxes": ...}, "frame 3: bboxes is not there; {advice}"),
        ({"bboxes": []}, 'frame 3: "landmarks" is given while "bboxes" is empty.'),
        ({"mesh": [[1, 2]] * 478}, "frame 3: mesh[0] has 2 entries where 3 are needed; {advice}"),
        ({"mesh": 478}, "frame 3: mesh is not a list; {advice}"),
        ({"gaze_vector": [0, 0, 0]}, 'frame 3: "gaze_vector" has no direction.'),
        (
            {"gaze_vector": [0.9, 0.9]},
            'frame 3: "gaze_vector" has two components of length 1.273, no part of a unit vector.',
        ),
        ({"gaze_vector": [0.9]}, "frame 3: gaze_vector has 1 entries where 3 are needed; {advice}"),
        ({"faces": [7]}, "frame 3: faces[0] is not an object; {advice}"),
        ({"faces": [{"bboxes": []}]}, 'frame 3: faces[0]: "bboxes" is empty.'),
        ({"frame_id": -1}, "entry 0: frame_id is below 0; {advice}"),
        ({"frame_id": True}, "entry 0: frame_id is not a whole number; {advice}"),
        ({"frame_id": ...}, "entry 0: frame_id is not there; {advice}"),
    ],
)
def test_what_is_not_of_the_form_is_refused_at_its_place(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError) as caught:
        from_records([record(**changes)], "pred.json")
    assert str(caught.value) == "pred.json: " + message.format(advice="give a file that `drsf infer` wrote.")


def test_a_frame_given_twice_is_refused() -> None:
    with pytest.raises(InputError, match=r'pred.json: frame 3: "frame_id" is there twice\.'):
        from_records([record(), record(frame_id="3")], "pred.json")
    with pytest.raises(ValueError, match="frame 1 is there twice"):
        to_records([FrameObservation(1, 0.0), FrameObservation(1, 0.1)])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{}", "is not a list with one object for each frame"),
        ("[3]", "entry 0 is not an object"),
        ('[{"frame_id": 0,}]', "line 1 column"),
        ("", "is not JSON (Expecting value: line 1 column 1"),
        ('[{"frame_id": 0, "bboxes": [0, 0, 1, NaN]}]', "NaN is not a number"),
        ("[" * 100_000, "is not JSON"),
        ("[" + "9" * 5000 + "]", "not JSON"),
        (b"\xff\xfe\x00", "is not JSON ('utf-8' codec can't decode"),
        (None, "cannot be read"),
    ],
)
def test_files_that_are_no_list_of_frames_are_refused_in_one_line(
    tmp_path: Path, text: str | bytes | None, message: str
) -> None:
    path = tmp_path / "pred.json"
    if text is not None:
        path.write_bytes(text.encode() if isinstance(text, str) else text)
    with pytest.raises(InputError) as caught:
        read_observations(path)
    assert str(caught.value).startswith(str(path))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_numbers_that_are_not_finite_are_not_written(tmp_path: Path) -> None:
    broken = Face(np.array([0.0, 0.0, np.inf, 1.0]), 0.5)
    with pytest.raises(ValueError, match="frame 2: bboxes is not finite"):
        write_observations(tmp_path / "out.json", [FrameObservation(2, 0.0, (broken,))])
    assert os.listdir(tmp_path) == []


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.json"
    write_atomically(path, "old")
    assert path.stat().st_mode & 0o044, "others may read it where the umask allows"

    def full_disk(handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(OutputError, match=r"a.json: cannot be written \(No space left on device\)"):
        write_atomically(path, b"new")
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["a.json"]


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="No such file"):
        write_observations(tmp_path / "no" / "out.json", [])


def test_a_long_list_is_json_with_a_frame_a_line(tmp_path: Path) -> None:
    path = tmp_path / "out.json"
    write_observations(path, [FrameObservation(i, i / 30, (face(),)) for i in range(4)])
    lines = path.read_text().splitlines()
    assert len(lines) == 6
    assert json.loads(lines[1].rstrip(","))["frame_id"] == 0
