"""Attributes that are given: what is refused, what is taken over, and what follows from what."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from attacks.obscure import Region
from drsf_cli.app import main
from drsf_cli.deid.sections import targets_section
from drsf_cli.deid.survey import Survey
from drsf_cli.deid.targets import Given, averaged_survey, given_survey, read_targets
from drsf_cli.measure.records import read_observations, to_records
from drsf_cli.media.demo_clip import make_demo_clip
from drsf_cli.media.probe import VideoInfo
from drsf_cli.settings import DeidSettings, VictimNames
from victims.base import Aligner, Detector
from victims.camera import Camera, euler_angles, solve_head_pose, vector_to_angles
from victims.face import Face, FrameObservation
from victims.face_model import FACE_MODEL_68
from victims.gaze import NormalizedGaze
from victims.mediapipe.facemesh import FaceMesh
from victims.mediapipe.iris import IrisGaze
from victims.mediapipe.topology import LANDMARKS_68
from victims.observe import Observer
from weights.errors import InputError, UsageError

WIDTH, HEIGHT, FRAMES = 320, 240, 4
CAMERA = Camera.default(WIDTH, HEIGHT)
INFO = cast(VideoInfo, type("Info", (), {"width": WIDTH, "height": HEIGHT}))
CHAIN = Observer(cast(Detector, None), cast(Aligner, object()), NormalizedGaze("gaze-compact", cast(Any, None), {}))
REGIONS = [(Region((20, 20, 200, 220), 20),)] * FRAMES


def landmarks(dx: float = 0.0, wide: float = 1.0) -> np.ndarray:
    """A head in front of the camera, turned by nothing, of the template's shape but for its width."""
    points = FACE_MODEL_68 * [wide, 1.0, 1.0] + [0.0, 0.0, 0.6]
    flat = points @ CAMERA.matrix.T
    return flat[:, :2] / flat[:, 2:] + [dx - 50.0, 0.0]


def face(dx: float = 0.0, **changed: Any) -> Face:
    points = landmarks(dx)
    gaze = np.array([0.1, 0.2, -np.sqrt(1 - 0.05)])
    box = np.array([*points.min(axis=0), *points.max(axis=0)])
    return replace(Face(box, 0.99, points, np.zeros(3), gaze, vector_to_angles(gaze)), **changed)


def survey() -> Survey:
    """A face in each frame, which moves by 1.5 px a frame."""
    observations = [FrameObservation(k, k / 25, (face(1.5 * k),)) for k in range(FRAMES)]
    return Survey(observations, [(0,)] * FRAMES, [], [k / 25 for k in range(FRAMES)])


def records() -> list[dict[str, Any]]:
    return to_records(survey().observations)


def written(path: Path, content: object) -> Path:
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def read(path: Path, content: object) -> Survey:
    """Everything that a run does with a file of `content`."""
    return given_survey(survey(), read_targets(written(path, content), INFO), REGIONS, CHAIN, CAMERA)


def with_(frame: int, **fields: Any) -> list[dict[str, Any]]:
    """A right file with other `fields` in one frame; a field of None is left out."""
    rows = records()
    rows[frame] = {key: value for key, value in (rows[frame] | fields).items() if value is not None}
    return rows


MIRRORED = [[200.0 - x, y] for x, y in landmarks().tolist()]
ELSEWHERE = [[x + 90.0, y] for x, y in landmarks().tolist()]
SHARES = [0.2, 0.3, 0.5, 0.8]
BOX = face().box.tolist()

WRONG: dict[str, tuple[object, str]] = {
    "not JSON": ("[{", r"is not JSON \(.*line 1 column \d+"),
    "no list": ({"frame_id": 0}, "is not a list with one object for each frame"),
    "no face at all": ([{"frame_id": 0, "bboxes": []}], "has no face in any frame"),
    "a frame twice": ([*records(), records()[0]], 'frame 0: "frame_id" is there twice'),
    "beyond the clip": ([*records(), records()[3] | {"frame_id": 4}], 'frame 4: "frame_id" is beyond .* has 4 frames'),
    "another part of the clip": (with_(2, pts=7.08), r'frame 2: "pts" is 7\.080 s where the frame is shown at 0\.080'),
    "67 landmarks": (
        with_(1, landmarks=landmarks()[:67].tolist()),
        "frame 1: landmarks has 67 entries where 68 are needed",
    ),
    "no number": (with_(1, bboxes=[*BOX[:3], "x"]), "frame 1: bboxes\\[3\\] is not a number"),
    "not finite": (
        json.dumps(records()).replace('"score": 0.99', '"score": 1e999', 1),
        "frame 0: score is not a finite number",
    ),
    "corners in another order": (with_(3, bboxes=[BOX[2], *BOX[1:2], BOX[0], BOX[3]]), 'frame 3: "bboxes" is not x1'),
    "shares of the picture": (with_(0, bboxes=SHARES), 'frame 0: "bboxes" is 0.3 x 0.5 px; .* px of the frame, 320'),
    "px of a larger picture": (
        with_(0, bboxes=[4 * v for v in BOX], landmarks=(4 * landmarks()).tolist()),
        'frame 0: "bboxes" lies outside of the frame, which has 320 x 240',
    ),
    "landmarks of another place": (with_(0, landmarks=ELSEWHERE), 'frame 0: "landmarks" do not lie in "bboxes"'),
    "a mirrored face": (with_(0, landmarks=MIRRORED), 'frame 0: "landmarks" are those of a mirrored face'),
    "a gaze of no unit length": (with_(1, gaze_vector=[0.2, 0.2, -0.5]), 'frame 1: "gaze_vector" has length 0.5745'),
    "a gaze with the other sign": (with_(1, gaze_vector=[0.0, 0.0, 1.0]), 'frame 1: "gaze_vector" points away'),
    "degrees": (with_(1, gaze_angle=[-12.0, 5.0]), 'frame 1: "gaze_angle" is more than .* rad'),
    "a head pose of other landmarks": (
        with_(1, euler_angles=[0.0, 40.0, 0.0]),
        'frame 1: "euler_angles" are 4. degrees',
    ),
    "one face twice": (
        with_(2, faces=[{"bboxes": [v + 1 for v in BOX]}]),
        'frame 2: "faces" 0: "bboxes" lies where another',
    ),
    "a face that nothing hides": (
        with_(2, faces=[{"bboxes": [220.0, 40.0, 300.0, 140.0]}]),
        'frame 2: "faces" 0: "bboxes" lies where nothing is hidden',
    ),
    "nothing to complete it from": (
        with_(2, bboxes=[30.0, 170.0, 50.0, 195.0], landmarks=None),
        'frame 2: "landmarks" are missing, and the original shows no face there',
    ),
}


@pytest.mark.parametrize(("content", "said"), WRONG.values(), ids=WRONG.keys())
def test_a_wrong_file_is_refused_with_its_frame_and_field(content: object, said: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=said) as caught:
        read(tmp_path / "targets.json", content)
    assert str(caught.value).startswith(f"{tmp_path / 'targets.json'}: ")
    assert str(caught.value).endswith(".")
    assert "\n" not in str(caught.value)


def test_what_infer_writes_comes_out_as_it_was(tmp_path: Path) -> None:
    wanted = read(tmp_path / "targets.json", records())
    for own, given in zip(survey().observations, wanted.observations, strict=True):
        (before,), (after,) = own.faces, given.faces
        np.testing.assert_allclose(after.box, before.box, atol=1e-4)
        np.testing.assert_allclose(after.landmarks, before.landmarks, atol=1e-4)
        np.testing.assert_allclose(after.gaze, before.gaze, atol=1e-7)
    assert wanted.tracks == [(0,)] * FRAMES


def test_sub_pixel_coordinates_are_kept_and_pose_and_angles_follow(tmp_path: Path) -> None:
    """Of a head that looks straight into the lens from the axis, the normalised view is the camera's own frame."""
    points = landmarks(50.37)
    box = np.concatenate([points.min(axis=0), points.max(axis=0)])
    entry = {"frame_id": 1, "bboxes": box.tolist(), "landmarks": points.tolist(), "gaze_vector": [0.0, -0.6, -0.8]}
    found = read(tmp_path / "targets.json", [entry])
    assert [len(one.faces) for one in found.observations] == [0, 1, 0, 0], "frames without an entry get none"
    (own,) = found.observations[1].faces
    np.testing.assert_array_equal(own.box, box)
    np.testing.assert_array_equal(own.landmarks, points)
    np.testing.assert_allclose(own.euler_angles, euler_angles(solve_head_pose(points, CAMERA).rotation))
    np.testing.assert_allclose(own.gaze_angle, [np.arcsin(0.6), 0.0], atol=0.1)


def test_an_eye_tracker_gives_the_gaze_alone_and_the_rest_is_read(tmp_path: Path) -> None:
    gaze = [0.3, -0.1, -float(np.sqrt(0.9))]
    entry = {"frame_id": 2, "bboxes": (face(3.0).box + 1.25).tolist(), "gaze_vector": gaze}
    (own,) = read(tmp_path / "targets.json", [entry]).observations[2].faces
    np.testing.assert_array_equal(own.box, face(3.0).box + 1.25)
    np.testing.assert_array_equal(own.landmarks, landmarks(3.0))
    np.testing.assert_allclose(own.gaze, gaze, atol=1e-12)
    assert not np.allclose(own.gaze_angle, face().gaze_angle, atol=0.05), "the angle is the new gaze's"


def test_angles_alone_give_the_vector_that_has_them(tmp_path: Path) -> None:
    both = read(tmp_path / "a.json", records()).observations[1].faces[0]
    assert both.gaze_angle is not None
    entry = {"frame_id": 1, "bboxes": face(1.5).box.tolist(), "gaze_angle": both.gaze_angle.tolist()}
    (own,) = read(tmp_path / "b.json", [entry]).observations[1].faces
    np.testing.assert_allclose(own.gaze, face().gaze, atol=1e-6)


def test_each_face_is_completed_from_the_one_that_lies_there(tmp_path: Path) -> None:
    two = survey()
    second = face(75.0)
    two.observations[1] = replace(two.observations[1], faces=(*two.observations[1].faces, second))
    entry = {
        "frame_id": 1,
        "bboxes": (second.box + 2.0).tolist(),
        "faces": [{"bboxes": (face(1.5).box - 2.0).tolist()}],
    }
    given = read_targets(written(tmp_path / "targets.json", [entry]), INFO)
    wide = [(Region((0, 0, WIDTH, HEIGHT), 20),)] * FRAMES
    found = given_survey(two, given, wide, CHAIN, CAMERA)
    first, other = found.observations[1].faces
    np.testing.assert_array_equal(first.landmarks, second.landmarks)
    np.testing.assert_array_equal(other.landmarks, landmarks(1.5))
    assert sorted(found.tracks[1]) == [0, 1]


def test_what_no_victim_reads_is_left_out(tmp_path: Path) -> None:
    given = read_targets(written(tmp_path / "targets.json", records()), INFO)
    alone = given_survey(survey(), given, REGIONS, Observer(cast(Detector, None)), CAMERA)
    (own,) = alone.observations[0].faces
    assert (own.landmarks, own.gaze, own.gaze_angle, own.euler_angles) == (None, None, None, None)


def mesh_of(points: np.ndarray) -> np.ndarray:
    """(478, 3) with these landmarks (68, 2)."""
    mesh = np.zeros((478, 3))
    for pair, point in zip(LANDMARKS_68, points, strict=True):
        mesh[list(pair), :2] = point
    mesh[132, :2] = 2 * points[3] - mesh[58, :2]  # landmark 3 is the mean of these two, and 58 is part of 4 as well
    return mesh


def meshes() -> Observer:
    """A chain that reads meshes."""
    mesh = FaceMesh(cast(Any, None), cast(Any, SimpleNamespace(networks={})), {})
    return Observer(cast(Detector, None), mesh, IrisGaze(cast(Any, None), {}))


def test_facemesh_is_given_whole_meshes(tmp_path: Path) -> None:
    """The mesh that is given; the original's where nothing is given; never one that contradicts the landmarks."""
    people = survey()
    for k, one in enumerate(people.observations):
        own = replace(one.faces[0], mesh=mesh_of(landmarks(1.5 * k)))
        people.observations[k] = replace(one, faces=(own,))
    path = tmp_path / "targets.json"

    def given(entry: dict[str, Any]) -> Face:
        entry = {"frame_id": 1, "bboxes": face(1.5).box.tolist()} | entry
        targets = read_targets(written(path, [entry]), INFO)
        (own,) = given_survey(people, targets, REGIONS, meshes(), CAMERA).observations[1].faces
        return own

    np.testing.assert_array_equal(given({}).mesh, mesh_of(landmarks(1.5)))
    moved = mesh_of(landmarks(4.0))
    found = given({"mesh": moved.tolist()})
    np.testing.assert_array_equal(found.mesh, moved)
    np.testing.assert_allclose(found.landmarks, landmarks(4.0), atol=1e-9)
    given({"mesh": moved.tolist(), "landmarks": landmarks(4.0).tolist()})
    for entry, said in (
        ({"landmarks": landmarks(4.0).tolist()}, r'frame 1: "mesh" is missing'),
        ({"mesh": moved.tolist(), "landmarks": landmarks(8.0).tolist()}, r'"landmarks" lie .* from those of "mesh"'),
        ({"mesh": moved[:100].tolist()}, r'"mesh" has 100 points where facemesh reads 478'),
    ):
        with pytest.raises(InputError, match=said):
            given(entry)


def test_the_average_shape_is_each_track_s_own_affair() -> None:
    """Somebody 15 % wider than the template becomes it; his gaze stays; landmarks that are no numbers leave no face."""
    people = survey()
    for k in range(FRAMES):
        wide = face(1.5 * k, landmarks=landmarks(1.5 * k, 1.15))
        people.observations[k] = replace(people.observations[k], faces=(wide,))
    broken = replace(people.observations[3].faces[0], landmarks=np.full((68, 2), np.nan))
    people.observations[3] = replace(people.observations[3], faces=(broken,))
    found = averaged_survey(people, CHAIN, CAMERA)
    assert [len(one.faces) for one in found.observations] == [1, 1, 1, 0]
    assert found.tracks == [(0,), (0,), (0,), ()]
    (before,), (after,) = people.observations[1].faces, found.observations[1].faces
    assert before.landmarks is not None
    assert after.landmarks is not None
    ratios = [np.ptp(points[:17, 0]) / np.ptp(points[[8, 27], 1]) for points in (before.landmarks, after.landmarks)]
    template = np.ptp(landmarks()[:17, 0]) / np.ptp(landmarks()[[8, 27], 1])
    assert ratios[0] == pytest.approx(1.15 * template, rel=0.01)
    assert ratios[1] == pytest.approx(template, rel=0.02)
    np.testing.assert_array_equal(after.gaze, before.gaze)
    np.testing.assert_array_equal(after.box, before.box)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"shape": "mean"}, r"shape \(--shape\): 'mean' is not allowed; it takes own or average"),
        ({"shape": "average", "attack": "none"}, r"shape \(--shape\): it is for what is embedded"),
        ({"targets": Path("a.json"), "attack": "none"}, r"targets \(--targets\): it is for what is embedded"),
        ({"targets": Path("a.json"), "embed": "all"}, r"embed \(--embed\): --targets says itself whose"),
        ({"shape": "average", "victims": VictimNames(aligner=None, gaze=None)}, "without an aligner"),
        ({"shape": "average", "victims": VictimNames(aligner="face-mesh")}, r"the 478 points of facemesh would still"),
    ],
)
def test_settings_that_say_two_things_are_refused(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        DeidSettings(**settings)


def test_the_report_counts_given_faces(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text("[]")
    rows = {0: survey().observations[0], 1: FrameObservation(1, 0.04, (face(), face(80.0)))}
    section = targets_section(Given(path, rows))
    assert section is not None
    assert (section["frames"], section["faces"]) == (2, 3)


@pytest.mark.slow
def test_what_is_given_is_read_again(tmp_path: Path) -> None:
    """The clip's own attributes, moved by 2 px and turned by 5 degrees to the side: the file is nearer to these than to
    the original in every respect."""
    clip, output = make_demo_clip(tmp_path / "driver.mp4", 0.32, size=(480, 360)), tmp_path / "out.mkv"
    reading, targets = tmp_path / "reading.json", tmp_path / "targets.json"
    assert main(["infer", str(clip), "-o", str(reading), "-q"]) == 0
    document = json.loads(reading.read_text())
    turn = np.radians(5.0)
    sideways = np.array([[np.cos(turn), 0.0, np.sin(turn)], [0.0, 1.0, 0.0], [-np.sin(turn), 0.0, np.cos(turn)]])
    for record in document:
        record["bboxes"] = (np.array(record["bboxes"]) + 2.0).tolist()
        record["landmarks"] = (np.array(record["landmarks"]) + 2.0).tolist()
        record["gaze_vector"] = (sideways @ record["gaze_vector"]).tolist()
        for left_over in ("gaze_angle", "euler_angles", "faces"):
            record.pop(left_over, None)
    targets.write_text(json.dumps(document))
    flags = ["--targets", str(targets), "--codec", "ffv1", "--effort", "best", "-q"]
    assert main(["deid", str(clip), "-o", str(output), *flags]) == 0
    original = read_observations(reading)
    assert main(["infer", str(output), "-o", str(tmp_path / "found.json"), "-q"]) == 0
    found = read_observations(tmp_path / "found.json")
    moved, turned, corners = [], [], []
    for before, after in zip(original, found, strict=True):
        moved.append((after.faces[0].landmarks - before.faces[0].landmarks).mean(axis=0))
        corners.append((after.faces[0].box - before.faces[0].box).mean())
        gazes = after.faces[0].gaze, sideways @ before.faces[0].gaze, before.faces[0].gaze
        turned.append([np.degrees(np.arccos(np.clip(gazes[0] @ other, -1.0, 1.0))) for other in gazes[1:]])
    np.testing.assert_allclose(np.mean(moved, axis=0), [2.0, 2.0], atol=0.7)
    assert np.mean(corners) == pytest.approx(2.0, abs=1.0)
    to_targets, to_original = np.mean(turned, axis=0)
    assert to_targets < 2.0
    assert to_original > 3.5
    report = json.loads((tmp_path / "out.mkv.report.json").read_text())
    assert report["targets"]["faces"] == len(document)
