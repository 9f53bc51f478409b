"""A reader who is told the box and looks at no pixel."""

from __future__ import annotations

import numpy as np
import pytest

from victims.blind import blind_face, blind_landmarks
from victims.camera import Camera

EYES, NOSE, MOUTH, CHIN = slice(36, 48), 30, slice(48, 68), 8


def test_the_mean_face_is_a_face_in_its_box() -> None:
    points = blind_landmarks(np.array([100.0, 50, 300, 300])) + 0.5
    places = (points - [100, 50]) / [200, 250]
    assert places[EYES, 1].max() < places[NOSE, 1] < places[MOUTH, 1].min() < places[CHIN, 1]
    assert np.diff(places[:17, 0]).min() > 0, "the jaw runs from left to right"
    assert places.min() > -0.1
    assert places.max() < 1.1
    assert 1 - places[16::-1, 0] == pytest.approx(places[:17, 0], abs=2e-4), "nobody's head is turned on average"


def test_it_moves_and_grows_with_the_box() -> None:
    small, large = (np.array(box, dtype=float) for box in ((0, 0, 40, 50), (7, 9, 127, 159)))
    assert blind_landmarks(large) + 0.5 == pytest.approx((blind_landmarks(small) + 0.5) * 3 + [7, 9])


@pytest.mark.parametrize("corner", [(0, 0), (560, 300), (20, 400)])
def test_it_looks_at_the_camera_wherever_the_box_is(corner: tuple[int, int]) -> None:
    """The angle between its gaze and the way back to the camera is that of the mean gaze, everywhere."""
    camera = Camera(np.array([[500.0, 0, 320], [0, 480, 240], [0, 0, 1]]), np.zeros(5))
    box = np.array([*corner, corner[0] + 80, corner[1] + 100], dtype=float)
    face = blind_face(box, camera)
    assert face.gaze is not None
    assert face.gaze_angle is not None
    back = -np.array([(corner[0] + 39.5 - 320) / 500, (corner[1] + 49.5 - 240) / 480, 1.0])
    pitch, yaw = face.gaze_angle
    assert face.gaze @ back / np.linalg.norm(back) == pytest.approx(np.cos(pitch) * np.cos(yaw))
    assert np.linalg.norm(face.gaze) == pytest.approx(1)
