"""Composited eyes: the gaze that is drawn is the gaze that is labelled, judged by where the iris lands."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import cv2
import numpy as np
import pytest

from victims.camera import FACE_MODEL_68, angles_to_vector
from victims.compact.training.composite import (
    EYES,
    PX_PER_MM,
    SIDE,
    Eye,
    FaceBank,
    Look,
    compose,
    degrade,
    draw_eye,
    draw_gaze,
    load_faces,
)

LOOK = Look(
    sclera=np.full(3, 0.9),
    iris=np.array([0.1, 0.2, 0.6]),
    rim=0.0,
    shadow=0.0,
    shadow_depth=2.0,
    falloff=0.0,
    highlight=0.0,
    highlight_at=np.zeros(2),
    highlight_size=0.2,
    lash=0.0,
    lash_width=1.0,
    lower_lash=0.0,
    crease=0.0,
    crease_height=5.0,
    softness=0.5,
)


def eye(gaze: np.ndarray, *, half_height: float = 30.0) -> Eye:
    """An eye at (60, 50) in lids so wide that they hide nothing."""
    xs = np.linspace(20, 100, 9)
    return Eye(
        ball=np.array([60.0, 50.0]),
        gaze=gaze,
        ball_radius=19.2,
        iris_radius=9.4,
        pupil=0.3,
        top=np.stack([xs, np.full(9, 50 - half_height)], axis=1),
        bottom=np.stack([xs, np.full(9, 50 + half_height)], axis=1),
        inner_is_right=True,
    )


def iris_centroid(image: np.ndarray) -> np.ndarray:
    """Centre (x, y) of what is much bluer or darker than the sclera."""
    dark = 230.0 - image[..., 0].astype(float)
    dark[dark < 100] = 0
    rows, columns = np.mgrid[: image.shape[0], : image.shape[1]]
    return np.array([(columns * dark).sum(), (rows * dark).sum()]) / dark.sum()


def draw(gaze: np.ndarray) -> np.ndarray:
    image = np.full((100, 120, 3), 230, np.uint8)
    draw_eye(image, eye(gaze), LOOK)
    return image


def test_looking_into_the_camera_puts_the_iris_in_front_of_the_ball() -> None:
    assert iris_centroid(draw(np.array([0.0, 0.0, -1.0]))) == pytest.approx([60, 50], abs=0.1)


@pytest.mark.parametrize("angles", [(0.3, 0.0), (-0.3, 0.0), (0.0, 0.4), (0.0, -0.4), (0.25, -0.3)])
def test_the_iris_goes_where_the_gaze_goes(angles: tuple[float, float]) -> None:
    """The iris' plane is sqrt(R^2 - r^2) from the ball's centre: pitch > 0 is up, yaw > 0 to the image's left."""
    pitch, yaw = angles
    reach = np.sqrt(19.2**2 - 9.4**2)
    expected = [60 - reach * np.cos(pitch) * np.sin(yaw), 50 - reach * np.sin(pitch)]
    assert iris_centroid(draw(angles_to_vector(np.array(angles)))) == pytest.approx(expected, abs=0.3)


def test_an_iris_seen_from_the_side_is_narrow() -> None:
    def width(image: np.ndarray) -> int:
        return int((image[50, :, 0] < 130).sum())

    straight, turned = draw(np.array([0.0, 0.0, -1.0])), draw(angles_to_vector(np.array([0.0, 0.9])))
    assert width(straight) == pytest.approx(2 * 9.4, abs=1.5)
    assert width(turned) == pytest.approx(2 * 9.4 * np.cos(0.9), abs=1.5)


def test_lids_hide_the_eye() -> None:
    image = np.full((100, 120, 3), 200, np.uint8)
    draw_eye(image, eye(np.array([0.0, 0.0, -1.0]), half_height=-3.0), LOOK)
    assert np.abs(image.astype(int) - 200).max() <= 8


def test_an_eye_outside_the_image_is_left_out() -> None:
    image = np.full((10, 10, 3), 7, np.uint8)
    draw_eye(image, eye(np.array([0.0, 0.0, -1.0])), LOOK)
    assert (image == 7).all()


@pytest.fixture
def frontal_bank() -> FaceBank:
    """One grey face that looks straight into the camera."""
    points = FACE_MODEL_68[:, :2] * 1000 * PX_PER_MM + [112, 132]
    grey = np.full((1, SIDE, SIDE, 3), 150, np.uint8)
    return FaceBank(grey, grey.copy(), points[None].astype(np.float32), np.eye(3)[None], np.zeros(1))


def test_labels_are_the_gaze_relative_to_a_frontal_head(frontal_bank: FaceBank) -> None:
    """With a frontal head (roll jitter aside) labels are spread as the drawn gaze is, without a bias."""
    rng = np.random.default_rng(0)
    labels = np.degrees([compose(frontal_bank, 0, rng)[1] for _ in range(100)])
    spread = np.degrees([draw_gaze(np.random.default_rng(seed)) for seed in range(100)])
    assert np.abs(labels.mean(axis=0)).max() < 4
    assert labels.std(axis=0) == pytest.approx(spread.std(axis=0), rel=0.3)


def test_composites_show_their_labels(frontal_bank: FaceBank) -> None:
    """The dark of the eyes lies to the left when the label says left, lower when it says down.

    Loosely: jitter moves the whole face by 3 px, where 10 degrees move an iris by 3, and lids are dark too.
    """
    rng = np.random.default_rng(1)
    rows, columns = np.mgrid[:SIDE, :SIDE]
    left, up, labels = [], [], []
    middle = frontal_bank.landmarks[0][[index for side in EYES for index in side]].mean(axis=0)
    for _ in range(120):
        patch, angles = compose(frontal_bank, 0, rng)
        grey = patch.mean(axis=2)
        dark = np.clip(np.median(grey) * 0.6 - grey, 0, None)
        if dark.sum() < 200:
            continue
        left.append(middle[0] - (columns * dark).sum() / dark.sum())
        up.append(middle[1] - (rows * dark).sum() / dark.sum())
        labels.append(angles)
    assert len(labels) > 60
    pitch, yaw = np.array(labels).T
    assert np.corrcoef(left, yaw)[0, 1] > 0.35
    assert np.corrcoef(up, pitch)[0, 1] > 0.2


def test_composites_repeat_with_the_seed(frontal_bank: FaceBank) -> None:
    first = compose(frontal_bank, 0, np.random.default_rng(3))
    again = compose(frontal_bank, 0, np.random.default_rng(3))
    np.testing.assert_array_equal(first[0], again[0])
    np.testing.assert_array_equal(first[1], again[1])
    assert first[0].shape == (SIDE, SIDE, 3)
    assert first[0].dtype == np.uint8


def test_gaze_is_wide() -> None:
    drawn = np.degrees([draw_gaze(np.random.default_rng(seed)) for seed in range(400)])
    assert (np.abs(drawn) <= [35, 45]).all()
    assert (drawn.std(axis=0) > [12, 16]).all()


def test_degrading_keeps_the_shape() -> None:
    image = np.random.default_rng(0).integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)
    for seed in range(20):
        out = degrade(image, np.random.default_rng(seed))
        assert out.shape == image.shape
        assert out.dtype == np.uint8


def test_validation_people_are_kept_apart(tmp_path: Path) -> None:
    """A set of four frontal faces of four people, two of them held out."""
    landmarks = FACE_MODEL_68[:, :2] * 1000 + [100, 100]
    with tarfile.open(tmp_path / "faces68.tar", "w") as archive:
        for person in range(4):
            coded = cv2.imencode(".jpg", np.full((200, 200, 3), 40 * person + 40, np.uint8))[1].tobytes()
            entry = tarfile.TarInfo(f"{person}/0.jpg")
            entry.size = len(coded)
            archive.addfile(entry, io.BytesIO(coded))
    np.savez(
        tmp_path / "faces68_landmarks.npz",
        name=[f"{person}/0.jpg" for person in range(4)],
        landmarks=np.repeat(landmarks[None], 4, axis=0),
        identity=np.arange(4),
        is_validation=np.array([True, False, False, True]),
    )
    held_out, seen = (load_faces(tmp_path, validation=flag) for flag in (True, False))
    assert held_out.identity.tolist() == [0, 3]
    assert seen.identity.tolist() == [1, 2]
    np.testing.assert_allclose(seen.patches.mean(axis=(1, 2, 3)), [80, 120], atol=2)
    eyes = seen.landmarks[0][[36, 45]]
    assert eyes[1, 0] - eyes[0, 0] == pytest.approx(0.09 * 1600, rel=0.05)
    assert np.degrees(np.arccos((np.trace(seen.head[0]) - 1) / 2)) < 8
