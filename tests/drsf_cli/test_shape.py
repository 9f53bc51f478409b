"""The average face: what it keeps of landmarks, and what it takes."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from drsf_cli.deid.shape import average_face, person_shape, projections, with_openness_of
from victims.camera import Camera, HeadPose, solve_head_pose
from victims.face_model import FACE_MODEL_68
from victims.openness import eye_openness, mouth_openness

CAMERA = Camera.default(640, 480)
ANGLES = [(-10, -25, 4), (0, -12, 0), (5, 0, -6), (-4, 13, 2), (8, 26, 0)]
PLACES = [(0.02 * k - 0.03, 0.01 * k, 0.6 + 0.05 * k) for k in range(5)]


def poses() -> list[HeadPose]:
    """Five heads that turn, tilt and go away."""
    return [
        HeadPose(Rotation.from_euler("XYZ", angles, degrees=True).as_matrix(), np.array(place))
        for angles, place in zip(ANGLES, PLACES, strict=True)
    ]


def seen(shape: np.ndarray) -> np.ndarray:
    """(5, 68, 2): a head of this shape (68, 3) or (5, 68, 3), m, by projection with the intrinsics by hand."""
    found = []
    for number, pose in enumerate(poses()):
        points = (shape if shape.ndim == 2 else shape[number]) @ pose.rotation.T + pose.translation
        x, y = (CAMERA.matrix[axis, axis] * points[:, axis] / points[:, 2] + CAMERA.matrix[axis, 2] for axis in (0, 1))
        found.append(np.stack([x, y], axis=-1))
    return np.array(found)


def someone() -> np.ndarray:
    """Somebody's difference from the template, m: a wide jaw, narrow eyes that lie close, a long nose, full lips."""
    shape = np.zeros((68, 3))
    shape[:17, 0] = 0.12 * FACE_MODEL_68[:17, 0]
    shape[36:42, 0], shape[42:48, 0] = 0.003, -0.003
    shape[27:36, 1] = np.linspace(0.0, 0.004, 9)
    shape[27:31, 2] = -0.003
    shape[48:60, 1] = np.sign(FACE_MODEL_68[48:60, 1] - 0.0335) * 0.002
    return shape


def test_what_a_point_does_in_the_image_as_it_moves_in_the_template() -> None:
    projected, moves = projections(poses(), CAMERA.matrix)
    np.testing.assert_allclose(projected, seen(FACE_MODEL_68), atol=1e-9)
    step = np.array([1e-6, -2e-6, 3e-6])
    np.testing.assert_allclose(moves @ step, seen(FACE_MODEL_68 + step) - projected, atol=1e-7)


def test_of_a_point_that_is_far_from_rest_in_two_of_five_frames_the_rest_is_what_counts() -> None:
    """Heads seen from the front at 1 m by a camera of focal length 500: a metre is 500 px."""
    moves = np.zeros((5, 1, 2, 3))
    moves[:, :, 0, 0] = moves[:, :, 1, 1] = 500.0
    residuals = np.array([(5.0, -2.5)] * 3 + [(5.0, 40.0), (5.0, 60.0)])[:, None]
    ((x, y, z),) = person_shape(residuals, moves)
    assert z == 0, "the depth of a point that is seen from one side only is the template's"
    assert x == pytest.approx(0.01 / 1.002, rel=1e-6), "5 px of 500, less the ridge"
    assert y == pytest.approx(-0.005 / 1.002, abs=0.0003), "the mean would be 0.036"


def test_a_person_at_rest_becomes_the_template_in_the_same_poses() -> None:
    own = seen(FACE_MODEL_68 + someone())
    changed = average_face(own, CAMERA)
    solved = [solve_head_pose(points, CAMERA) for points in own]
    template, _ = projections(solved, CAMERA.matrix)
    skin = [*range(36), *range(27, 36)]  # lids and lips stay as open as they were
    before, after = (np.linalg.norm(points - template, axis=-1)[:, skin].mean() for points in (own, changed))
    assert before > 2.0
    assert after < 0.12 * before
    for one, other in zip(solved, [solve_head_pose(points, CAMERA) for points in changed], strict=True):
        assert np.degrees(Rotation.from_matrix(one.rotation.T @ other.rotation).magnitude()) < 0.1
        np.testing.assert_allclose(other.translation, one.translation, rtol=0.002, atol=0.0005)


def test_a_brow_that_goes_up_for_two_frames_goes_up_in_the_average_face() -> None:
    raised = np.repeat((FACE_MODEL_68 + someone())[None], 5, axis=0)
    raised[1:3, 17:22, 1] -= 0.008
    still, moved = average_face(seen(FACE_MODEL_68 + someone()), CAMERA), average_face(seen(raised), CAMERA)
    wanted = seen(raised)[:, 17:22, 1] - seen(FACE_MODEL_68 + someone())[:, 17:22, 1]
    assert wanted[1].mean() < -4, "px"
    np.testing.assert_allclose((moved - still)[1:3, 17:22, 1], wanted[1:3], atol=0.25 * -wanted[1].mean())
    assert np.abs((moved - still)[[0, 3, 4], 17:22]).max() < 0.2 * -wanted[1].mean()


def test_eyes_and_mouth_are_as_open_as_they_were_a_blink_too() -> None:
    shape = np.repeat((FACE_MODEL_68 + someone())[None], 5, axis=0)
    for upper, lower in ((37, 41), (38, 40), (43, 47), (44, 46)):
        shape[2, upper] = shape[2, lower] - [0.0, 0.0004, 0.0]  # shut but for 0.4 mm
    shape[3, 65:68, 1] += 0.015  # a mouth that opens
    shape[3, 55:60, 1] += 0.015
    own = seen(shape)
    changed = average_face(own, CAMERA)
    for before, after in zip(own, changed, strict=True):
        assert eye_openness(after) == pytest.approx(eye_openness(before), abs=1e-9)
        assert mouth_openness(after) == pytest.approx(mouth_openness(before), abs=1e-9)
        assert (after[[41, 40, 47, 46], 1] > after[[37, 38, 43, 44], 1]).all(), "lids do not cross"
    assert eye_openness(changed[2])[0] < 0.03
    assert eye_openness(changed[1])[0] > 0.2
    assert np.linalg.norm(changed[3, 57] - changed[3, 51]) > 1.5 * np.linalg.norm(changed[1, 57] - changed[1, 51])


def test_pairs_of_lids_by_hand() -> None:
    """An eye of width 10 with lids 4 and 2 apart, in a face whose eye is 20 wide: 8 and 4, about the same middles."""
    original, changed = np.zeros((1, 68, 2)), np.zeros((1, 68, 2))
    original[0, 36:42] = [(0, 0), (3, -2), (7, -1), (10, 0), (7, 1), (3, 2)]
    changed[0, 36:42] = [(0, 0), (6, -9), (14, -9), (20, 0), (14, 3), (6, 3)]
    found = with_openness_of(original, changed)[0, 36:42]
    np.testing.assert_allclose(found, [(0, 0), (6, -7), (14, -5), (20, 0), (14, -1), (6, 1)])


def test_landmarks_that_are_no_numbers_are_refused() -> None:
    broken = seen(FACE_MODEL_68)
    broken[2, 5] = np.nan
    with pytest.raises(ValueError, match="finite"):
        average_face(broken, CAMERA)
