"""Drawings are where the geometry says, and clips keep their times."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from attacks.codec import Colour
from drsf_cli.media.demo_clip import make_demo_clip
from drsf_cli.media.images import read_image, write_image
from drsf_cli.media.probe import VideoInfo
from drsf_cli.media.reader import VideoReader
from drsf_cli.media.writer import VideoWriter
from drsf_cli.report.drawing import (
    AXIS_COLOURS,
    BOX_COLOUR,
    GAZE_COLOUR,
    Panel,
    axis_segments,
    draw,
    gaze_segment,
    head_pose,
    project,
    three_panels,
    visualize,
)
from tests.drsf_cli.many import Steps
from victims.camera import FACE_MODEL_68, Camera, HeadPose
from victims.face import Face, FrameObservation
from weights.errors import InputError, OutputError

CAMERA = Camera.default(640, 480)
PLACE = np.array([0.05, -0.02, 0.7])
"""Of the nose tip, metres."""


def made_face(angles: tuple[float, float, float] = (0, 0, 0), gaze: tuple[float, float, float] = (0, 0, -1)) -> Face:
    """A face whose landmarks are the template's, filmed by hand: x = f X / Z + cx."""
    rotation = Rotation.from_euler("XYZ", angles, degrees=True).as_matrix()
    points = FACE_MODEL_68 @ rotation.T + PLACE
    landmarks = 640 * points[:, :2] / points[:, 2:] + [320, 240]
    box = np.concatenate([landmarks.min(axis=0), landmarks.max(axis=0)])
    vector = np.array(gaze, float)
    return Face(box, 0.987, landmarks, np.array(angles, float), vector / np.linalg.norm(vector), np.zeros(2))


def distance_near(
    image: NDArray[np.uint8], point: tuple[float, float], colour: Colour | tuple, radius: int = 2
) -> float:
    """Smallest distance of any pixel around `point` from `colour`, 0..255."""
    x, y = round(point[0]), round(point[1])
    patch = image[max(0, y - radius) : y + radius + 1, max(0, x - radius) : x + radius + 1].astype(float)
    return float(np.abs(patch - np.array(colour)).max(axis=2).min())


def test_the_gaze_arrow_is_ten_centimetres_in_the_camera_frame() -> None:
    # 30 degrees to the right of the image and towards the camera.
    face = made_face(gaze=(0.5, 0, -np.sqrt(0.75)))
    pose = head_pose(face, CAMERA)
    assert pose is not None
    segment = gaze_segment(face, pose, CAMERA)
    eyes = FACE_MODEL_68[36:48].mean(axis=0) + PLACE
    np.testing.assert_allclose(segment[0], eyes, atol=1e-5)
    np.testing.assert_allclose(segment[1] - segment[0], [0.05, 0, -0.1 * np.sqrt(0.75)], atol=1e-9)
    # By hand: the pinhole formula at both ends, so the nearer end is foreshortened correctly.
    end = eyes + np.array([0.05, 0, -0.1 * np.sqrt(0.75)])
    expected = [[640 * p[0] / p[2] + 320, 640 * p[1] / p[2] + 240] for p in (eyes, end)]
    np.testing.assert_allclose(project(segment, CAMERA), expected, atol=0.02)
    drawn = draw(np.full((480, 640, 3), 128, np.uint8), FrameObservation(0, 0.0, (face,)), CAMERA)
    for t in (0.2, 0.5, 0.8):
        point = (1 - t) * np.array(expected[0]) + t * np.array(expected[1])
        assert distance_near(drawn, tuple(point), GAZE_COLOUR) < 30


def test_a_gaze_into_the_lens_of_a_central_face_has_no_length_in_the_picture() -> None:
    camera = Camera.default(640, 480)
    segment = np.array([[0, 0, 0.7], [0, 0, 0.6]])
    np.testing.assert_allclose(project(segment, camera), [[320, 240], [320, 240]], atol=1e-9)


def test_lines_through_the_lens_are_cut_off_before_it() -> None:
    ends = project(np.array([[0.01, 0, 0.1], [0.01, 0, -0.1]]), CAMERA)
    expected = np.array([[320 + 64, 240], [320 + 640 * 0.01 / 0.05, 240]])
    np.testing.assert_allclose(ends, expected, atol=1e-6)


def test_head_axes_follow_the_observed_angles() -> None:
    pose = HeadPose(np.eye(3), PLACE)
    frontal = axis_segments(np.zeros(3), pose)
    np.testing.assert_allclose(frontal[:, 0], np.stack([PLACE] * 3))
    np.testing.assert_allclose(frontal[:, 1] - PLACE, np.diag([0.06, 0.06, -0.06]), atol=1e-12)
    # 90 degrees about x (R = Rx): down turns away from the camera, and the face looks down.
    nodding = axis_segments(np.array([90.0, 0, 0]), pose)[:, 1] - PLACE
    np.testing.assert_allclose(nodding, [[0.06, 0, 0], [0, 0, 0.06], [0, 0.06, 0]], atol=1e-12)
    drawn = draw(np.full((480, 640, 3), 128, np.uint8), FrameObservation(0, 0.0, (made_face((0, 0, 30)),)))
    nose = project(np.stack([PLACE, PLACE]), CAMERA)[0]
    for angle, colour in ((30, AXIS_COLOURS[0]), (120, AXIS_COLOURS[1])):
        middle = nose + 0.5 * 640 * 0.06 / 0.7 * np.array([np.cos(np.radians(angle)), np.sin(np.radians(angle))])
        assert distance_near(drawn, tuple(middle), colour) < 30


def test_distortion_bends_what_is_drawn() -> None:
    bent = Camera(CAMERA.matrix, np.array([-0.3, 0, 0, 0, 0]))
    straight, filmed = (project(np.array([[0.2, 0.1, 0.7], [0.25, 0.1, 0.7]]), camera) for camera in (CAMERA, bent))
    x, y = 0.2 / 0.7, 0.1 / 0.7
    factor = 1 - 0.3 * (x * x + y * y)
    np.testing.assert_allclose(filmed[0], [640 * x * factor + 320, 640 * y * factor + 240], atol=1e-6)
    assert np.linalg.norm(filmed[1] - straight[1]) > 5


def test_without_landmarks_the_gaze_starts_at_the_boxs_eyes() -> None:
    face = Face(np.array([250.0, 100.0, 390.0, 280.0]), 1.0, gaze=np.array([1.0, 0, 0]))
    ends = project(gaze_segment(face, None, CAMERA), CAMERA)
    # Depth 640 x 0.14 / 140 = 0.64 m, where 10 cm are 100 px.
    np.testing.assert_allclose(ends, [[320, 172], [420, 172]], atol=1e-6)


@pytest.mark.parametrize("scale", [0.25, 1, 4])
def test_everything_is_visible_at_any_size(scale: float) -> None:
    """The same scene, filmed smaller or larger: the box's colour covers a like share, letters fit."""
    face = made_face((5, 10, 0), (0.4, 0.2, -1))
    assert face.landmarks is not None
    scaled = Face(face.box * scale, face.score, face.landmarks * scale, face.euler_angles, face.gaze)
    image = np.full((round(480 * scale), round(640 * scale), 3), 128, np.uint8)
    before = image.copy()
    drawn = draw(image, FrameObservation(7, 0.28, (scaled,)))
    assert np.array_equal(image, before), "the caller's picture is left alone"
    assert drawn.shape == image.shape
    exact = [(np.abs(drawn.astype(int) - colour).max(axis=2) < 25).mean() for colour in (BOX_COLOUR, GAZE_COLOUR)]
    assert exact[0] > 0.001
    assert exact[1] > 0.0001
    corner = drawn[: round(40 * max(scale, 0.5)), : round(200 * max(scale, 0.6))]
    assert (corner > 200).all(axis=2).sum() > 20, "the frame number"


def test_nothing_seen_and_nobody_looked_are_told_apart() -> None:
    image = np.full((240, 320, 3), 90, np.uint8)
    none, unread = draw(image, FrameObservation(3, 0.1)), draw(image, None)
    assert not np.array_equal(none, unread)
    assert np.array_equal(draw(image, FrameObservation(3, 0.1), label=False), image)


def test_faces_over_the_border_and_points_far_outside_are_drawn_without_fail() -> None:
    face = made_face()
    assert face.landmarks is not None
    moved = Face(face.box + 1e6, 0.5, face.landmarks - 1e6, face.euler_angles, face.gaze)
    half = Face(face.box - [300, 0, 300, 0], 0.5, face.landmarks - [300, 0], face.euler_angles, face.gaze)
    assert draw(np.zeros((480, 640, 3), np.uint8), FrameObservation(0, 0.0, (moved, half))).any()


def test_panels_stand_side_by_side_under_their_titles() -> None:
    images = [np.full((101, 151, 3), shade, np.uint8) for shade in (60, 120, 180)]
    whole = three_panels(images, [None, None, None], ["a", "b", "c"])
    assert whole.shape[0] % 2 == whole.shape[1] % 2 == 0
    assert whole.shape[0] > 101
    assert 3 * 151 <= whole.shape[1] < 3 * 151 + 12
    assert [tuple(whole[-5, column]) for column in (75, 75 + 153, 75 + 306)] == [(60,) * 3, (120,) * 3, (180,) * 3]
    wide = three_panels([np.zeros((20, 2000, 3), np.uint8)] * 3, [None] * 3, ["a", "b", "c"])
    assert wide.shape[1] <= 3840
    with pytest.raises(ValueError, match="one size"):
        three_panels([images[0], images[1][:50]], [None, None], ["a", "b"])


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six frames at variable rate, 160x120."""
    folder = tmp_path_factory.mktemp("clips")
    plain = make_demo_clip(folder / "plain.mp4", seconds=0.24, size=(160, 120))
    reader = VideoReader(plain)
    info = VideoInfo(**{**vars(reader.info), "time_base": Fraction(1, 1000)})
    with VideoWriter(folder / "variable.mp4", info) as writer:
        for frame, ticks in zip(reader, (0, 40, 90, 91, 300, 1000), strict=True):
            writer.write(frame.image, ticks)
        return writer.publish()


def test_a_clip_keeps_size_and_times(clip: Path, tmp_path: Path) -> None:
    seen = [FrameObservation(i, 0.0, (Face(np.array([40.0, 30.0, 90.0, 100.0]), 0.9),)) for i in range(6)]
    steps = Steps()
    output = visualize([Panel("clip", clip, seen)], tmp_path / "out.mp4", progress=steps)
    before, after = list(VideoReader(clip)), list(VideoReader(output))
    assert [frame.pts for frame in after] == [frame.pts for frame in before]
    assert after[0].image.shape == before[0].image.shape
    assert steps.told == [["Drawing", 6, 6]]
    # The box's upper edge, here and nowhere in the source.
    assert after[3].image[30, 60:80].astype(int).mean(axis=0) == pytest.approx(BOX_COLOUR, abs=60)
    with pytest.raises(OutputError):
        visualize([Panel("clip", clip, seen)], output)
    with pytest.raises(OutputError, match="inputs"):
        visualize([Panel("clip", clip, seen)], clip, overwrite=True)


def test_panels_of_clips_take_files_and_frames(clip: Path, tmp_path: Path) -> None:
    seen = [FrameObservation(i, 0.0) for i in range(6)]
    grey = (np.full((120, 160, 3), 99, np.uint8) for _ in range(6))
    output = visualize(
        [Panel("original", clip, seen), Panel("obscured", grey, seen), Panel("attacked", clip, seen)],
        tmp_path / "three.mp4",
    )
    frames = list(VideoReader(output))
    assert [frame.pts for frame in frames] == [frame.pts for frame in VideoReader(clip)]
    assert frames[0].image.shape[1] >= 480
    assert frames[2].image[-30:-5, 200:300].mean() == pytest.approx(99, abs=4)


def test_clips_that_do_not_belong_together_are_refused(clip: Path, tmp_path: Path) -> None:
    seen = [FrameObservation(i, 0.0) for i in range(6)]
    few = [np.zeros((120, 160, 3), np.uint8)] * 5
    other_size = [np.zeros((100, 160, 3), np.uint8)] * 6
    for frames, word in ((few, "ends after 5 frames"), (other_size, "one size")):
        with pytest.raises(InputError, match=word):
            visualize([Panel("a", frames, seen), Panel("b", clip, seen)], tmp_path / "x.mp4")
    with pytest.raises(InputError, match="none of its frames"):
        visualize([Panel("b", clip, [FrameObservation(99, 0.0)])], tmp_path / "x.mp4")
    assert list(tmp_path.iterdir()) == [], "nothing is left behind"


def test_a_picture_gives_a_picture(tmp_path: Path) -> None:
    write_image(tmp_path / "in.png", np.full((90, 120, 3), 50, np.uint8))
    face = Face(np.array([20.0, 30.0, 70.0, 80.0]), 0.9)
    output = visualize([Panel("x", tmp_path / "in.png", [FrameObservation(0, 0.0, (face,))])], tmp_path / "out.png")
    drawn = read_image(output)
    assert drawn.shape == (90, 120, 3)
    assert distance_near(drawn, (20, 60), BOX_COLOUR, radius=1) < 10
