"""Head pose, normalisation and gaze angles, against golden numbers and against OpenCV.

The golden numbers were made with ptgaze 0.3.0 for a 640x480 frame, a head turned by XYZ(10, -20, 5) degrees
with its nose tip at (0.08, -0.05, 0.70) m.
"""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from victims.camera import (
    FACE_MODEL_68,
    NORMALIZATIONS,
    Camera,
    HeadPose,
    angle_between_degrees,
    angles_to_vector,
    euler_angles,
    normalize_view,
    solve_head_pose,
    vector_to_angles,
)
from weights.errors import DrsfError, InputError

CAMERA = Camera.default(640, 480)
ROTATION = Rotation.from_euler("XYZ", [10, -20, 5], degrees=True).as_matrix()
TRANSLATION = np.array([0.08, -0.05, 0.70])
POSE = HeadPose(ROTATION, TRANSLATION)

GOLDEN_VIEWS = {
    "eth-xgaze": ([0.071161, -0.072653, 0.725318], 0.732413, [-0.040505, -0.450691]),
    "mpiifacegaze": ([0.068277, -0.065887, 0.732502], 0.738622, [-0.052020, -0.446627]),
    "mpiigaze-right": ([0.040004, -0.088122, 0.718132], 0.724624, [-0.019480, -0.407127]),
    "mpiigaze-left": ([0.100100, -0.086410, 0.740645], 0.752357, [-0.019480, -0.485561]),
}


def project(camera: Camera) -> np.ndarray:
    """The template seen by a camera, by OpenCV."""
    rotation_vector = cv2.Rodrigues(ROTATION)[0]
    points, _ = cv2.projectPoints(
        np.array(FACE_MODEL_68), rotation_vector, TRANSLATION, camera.matrix, camera.distortion
    )
    return points.reshape(-1, 2)


def write_camera(path: Path, *, size: tuple[int, int] | None = (640, 480), distortion: str = "") -> Path:
    """A calibration file as text, as OpenCV's calibration sample writes it."""
    lines = ["%YAML:1.0", "---"]
    if size:
        lines += [f"image_width: {size[0]}", f"image_height: {size[1]}"]
    lines += ["camera_matrix: !!opencv-matrix", "   rows: 3", "   cols: 3", "   dt: d"]
    lines += ["   data: [ 700., 0., 319.5, 0., 710., 239.5, 0., 0., 1. ]"]
    if distortion:
        lines += [f"{distortion}: !!opencv-matrix", "   rows: 1", "   cols: 5", "   dt: d"]
        lines += ["   data: [ -0.2, 0.05, 0.001, -0.002, 0. ]"]
    path.write_text("\n".join(lines) + "\n")
    return path


def test_template() -> None:
    assert FACE_MODEL_68.shape == (68, 3)
    assert FACE_MODEL_68[30] == pytest.approx([0, 0, 0])
    assert FACE_MODEL_68[45, 0] - FACE_MODEL_68[36, 0] == pytest.approx(0.09, abs=1e-6)
    assert FACE_MODEL_68[8] == pytest.approx([0, 0.08105961, 0.0425195])


def test_default_camera() -> None:
    expected = [[641, 0, 320], [0, 641, 240], [0, 0, 1]]
    np.testing.assert_array_equal(Camera.default(641, 481).matrix, expected)


def test_pose_from_exact_projections() -> None:
    pose = solve_head_pose(project(CAMERA), CAMERA)
    assert euler_angles(pose.rotation) == pytest.approx([10, -20, 5], abs=1e-3)
    assert pose.translation == pytest.approx(TRANSLATION, abs=1e-5)


def test_pose_through_a_distorting_lens(tmp_path: Path) -> None:
    camera = Camera.load(write_camera(tmp_path / "c.yml", distortion="dist_coeffs"), 640, 480)
    pose = solve_head_pose(project(camera), camera)
    assert euler_angles(pose.rotation) == pytest.approx([10, -20, 5], abs=1e-2)
    assert pose.translation == pytest.approx(TRANSLATION, abs=1e-4)


@pytest.mark.parametrize("bad", [np.zeros((5, 2)), np.full((68, 2), np.nan)])
def test_pose_refuses_what_is_no_landmarks(bad: np.ndarray) -> None:
    with pytest.raises(ValueError, match="68, 2"):
        solve_head_pose(bad, CAMERA)


def test_pose_of_points_in_one_place_is_finite_or_refused() -> None:
    try:
        pose = solve_head_pose(np.full((68, 2), 100.0), CAMERA)
    except DrsfError:
        return
    assert np.all(np.isfinite(pose.rotation))
    assert pose.translation[2] > 0


@pytest.mark.parametrize("name", GOLDEN_VIEWS)
def test_views(name: str) -> None:
    center, distance, head = GOLDEN_VIEWS[name]
    view = normalize_view(POSE, NORMALIZATIONS[name], CAMERA)
    assert view.center == pytest.approx(center, abs=1e-6)
    assert np.linalg.norm(view.center) == pytest.approx(distance, abs=1e-6)
    assert view.head_angles == pytest.approx(head, abs=1e-6)


def test_eth_xgaze_rotation_and_warp() -> None:
    view = normalize_view(POSE, NORMALIZATIONS["eth-xgaze"], CAMERA)
    rotation = [
        [0.992944, 0.077627, -0.089642],
        [-0.067983, 0.992035, 0.106040],
        [0.097160, -0.099197, 0.990313],
    ]
    warp = [
        [1.874610, 0.127463, -624.473033],
        [-0.109789, 1.837807, -165.701286],
        [0.000155, -0.000158, 1],
    ]
    np.testing.assert_allclose(view.rotation, rotation, atol=1e-6)
    np.testing.assert_allclose(view.warp, warp, atol=1e-6, rtol=1e-6)


def test_mpiifacegaze_zoom() -> None:
    """The outer eye corners of the test pose are 130 px apart upstream (216 px with the wrong distance)."""
    view = normalize_view(POSE, NORMALIZATIONS["mpiifacegaze"], CAMERA)
    corners = cv2.perspectiveTransform(project(CAMERA)[[36, 45]].reshape(-1, 1, 2), view.warp).reshape(-1, 2)
    assert np.linalg.norm(corners[0] - corners[1]) == pytest.approx(130, abs=0.5)


def test_warp_puts_the_centre_in_the_middle_through_a_distorting_lens(tmp_path: Path) -> None:
    camera = Camera.load(write_camera(tmp_path / "c.yml", distortion="distortion_coefficients"), 640, 480)
    view = normalize_view(POSE, NORMALIZATIONS["eth-xgaze"], camera)
    filmed, _ = cv2.projectPoints(view.center.reshape(1, 3), np.zeros(3), np.zeros(3), camera.matrix, camera.distortion)
    middle = cv2.perspectiveTransform(filmed.reshape(1, 1, 2), view.warp).ravel()
    assert middle == pytest.approx([112, 112], abs=0.2)
    ignoring_the_lens = normalize_view(POSE, NORMALIZATIONS["eth-xgaze"], Camera(camera.matrix, np.zeros(5)))
    off = cv2.perspectiveTransform(filmed.reshape(1, 1, 2), ignoring_the_lens.warp).ravel()
    assert np.linalg.norm(off - 112) > 0.5


def test_gaze_angles() -> None:
    gaze = angles_to_vector(np.array([0.1, -0.2]))
    assert gaze == pytest.approx([0.197677, -0.099833, -0.975170], abs=1e-6)
    view = normalize_view(POSE, NORMALIZATIONS["eth-xgaze"], CAMERA)
    assert gaze @ view.rotation == pytest.approx([0.108322, 0.013041, -0.994030], abs=1e-6)
    assert angles_to_vector(np.zeros(2)) == pytest.approx([0, 0, -1])


def test_gaze_angles_are_inverted() -> None:
    angles = np.random.default_rng(0).uniform(-1.4, 1.4, (50, 2))
    np.testing.assert_allclose(vector_to_angles(3.0 * angles_to_vector(angles)), angles, atol=1e-12)


def test_angle_between_near_its_ends() -> None:
    a = np.array([0.0, 0.0, -1.0])
    tiny = np.array([np.sin(1e-9), 0.0, -np.cos(1e-9)])
    assert angle_between_degrees(a, a) == 0.0
    assert angle_between_degrees(a, -a) == pytest.approx(180.0)
    assert angle_between_degrees(a, tiny) == pytest.approx(np.degrees(1e-9), rel=1e-6)
    assert angle_between_degrees(a, np.array([2.0, 0.0, 0.0])) == pytest.approx(90.0)


def test_camera_file_at_the_videos_size(tmp_path: Path) -> None:
    camera = Camera.load(write_camera(tmp_path / "c.yml", distortion="distortion_coefficients"), 640, 480)
    np.testing.assert_allclose(camera.matrix, np.array([[700, 0, 319.5], [0, 710, 239.5], [0, 0, 1]]))
    np.testing.assert_allclose(camera.distortion, [-0.2, 0.05, 0.001, -0.002, 0])


def test_camera_file_of_another_size_is_scaled(tmp_path: Path) -> None:
    camera = Camera.load(write_camera(tmp_path / "c.yml"), 1280, 960)
    np.testing.assert_allclose(camera.matrix, np.array([[1400, 0, 639.5], [0, 1420, 479.5], [0, 0, 1]]))
    np.testing.assert_array_equal(camera.distortion, np.zeros(5))


def test_camera_file_without_size_is_taken_as_it_is(tmp_path: Path) -> None:
    camera = Camera.load(write_camera(tmp_path / "c.yml", size=None), 1280, 720)
    np.testing.assert_allclose(camera.matrix, np.array([[700, 0, 319.5], [0, 710, 239.5], [0, 0, 1]]))


def test_camera_file_written_by_opencv(tmp_path: Path) -> None:
    path = tmp_path / "c.yml"
    storage = cv2.FileStorage(str(path), cv2.FILE_STORAGE_WRITE)
    storage.write("camera_matrix", np.array([[500.0, 0, 300], [0, 500, 200], [0, 0, 1]]))
    storage.write("dist_coeffs", np.array([[0.1], [0.0], [0.0], [0.0]]))
    storage.release()
    camera = Camera.load(path, 640, 480)
    assert camera.matrix[0, 0] == 500.0
    np.testing.assert_array_equal(camera.distortion, [0.1, 0, 0, 0])


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (None, "does not exist"),
        (b"", "c.yml"),
        (b"hello", "c.yml"),
        (b"\xff\xfe\x00binary", "no YAML with a 3x3 camera_matrix"),
        (b"other: 1\n", "has no 3x3"),
        (b"camera_matrix: [1, 2\n", "no YAML with a 3x3 camera_matrix"),
        (b"camera_matrix: {rows: 3, cols: 3, data: [1, 0, 0]}\n", "no YAML with a 3x3 camera_matrix"),
        (b"camera_matrix: {rows: 3, cols: 3, data: [a, b, c, d, e, f, g, h, i]}\n", "no YAML with a 3x3"),
        (
            b"distortion_model: equidistant\ncamera_matrix: [[9, 0, 1], [0, 9, 1], [0, 0, 1]]\n",
            "equidistant is none of",
        ),
        (b"%YAML:1.0\n---\nother: 1\n", "camera_matrix"),
        (b"%YAML:1.0\n---\ncamera_matrix: 3\n", "camera_matrix"),
    ],
)
def test_bad_camera_files_are_named(tmp_path: Path, content: bytes | None, says: str) -> None:
    path = tmp_path / "c.yml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError) as error:
        Camera.load(path, 640, 480)
    assert says in str(error.value)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


PLAIN = """\ufeffimage_width: 640
image_height: 480
camera_name: driver
camera_matrix:
  rows: 3
  cols: 3
  data: [700.0, 0.0, 319.5, 0.0, 7.1e2, 239.5, 0.0, 0.0, 1.0]
distortion_model: plumb_bob
distortion_coefficients:
  rows: 1
  cols: 5
  data: [-0.2, 0.05, 1e-3, -0.002, 0.0]
rectification_matrix:
  rows: 3
  cols: 3
  data: [1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0]
"""


def test_plain_yaml_is_read_as_opencvs(tmp_path: Path) -> None:
    """As ROS's camera calibrator writes it; ptgaze's files have the same three nodes."""
    (tmp_path / "plain.yaml").write_text(PLAIN)
    expected = Camera.load(write_camera(tmp_path / "c.yml", distortion="distortion_coefficients"), 1280, 960)
    found = Camera.load(tmp_path / "plain.yaml", 1280, 960)
    np.testing.assert_array_equal(found.matrix, expected.matrix)
    np.testing.assert_array_equal(found.distortion, expected.distortion)
    (tmp_path / "lists.yaml").write_text("camera_matrix: [[700, 0, 319.5], [0, 710, 239.5], [0, 0, 1]]\n")
    np.testing.assert_array_equal(Camera.load(tmp_path / "lists.yaml", 640, 480).matrix[1], [0, 710, 239.5])


def test_camera_file_of_another_aspect_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="640x480"):
        Camera.load(write_camera(tmp_path / "c.yml"), 1280, 720)
