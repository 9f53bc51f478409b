"""The drawer: a function of what is obscured and of the attributes, and of nothing else."""

from __future__ import annotations

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch

from attacks.drawer import (
    DRAWERS,
    DRAWN,
    EPS,
    SEEN,
    SHADE,
    SIDE,
    Attributes,
    Drawer,
    DrawerNet,
    draw_with,
    load_drawer,
    maps_of,
    placed,
    square_of,
)
from victims.base import Image, Window
from victims.face import Face
from victims.face_model import FACE_MODEL_68
from weights.errors import WeightsError

WINDOW = Window(32, 32, 224, 224)


def attributes() -> Attributes:
    """A frontal face of about 80 px at (150, 140)."""
    points = FACE_MODEL_68[:, :2] * 560.0 + np.array([150.0, 140.0])
    return Attributes(np.array([110.0, 105.0, 190.0, 205.0]), points, np.array([0.1, -0.2]))


def covered(seed: int = 0) -> Image:
    """A frame of blocks of 40 px."""
    blocks = np.random.default_rng(seed).integers(60, 200, (8, 8, 3), dtype=np.uint8)
    return blocks.repeat(40, 0).repeat(40, 1)


@pytest.fixture(scope="module")
def drawer() -> Drawer:
    return load_drawer("mtcnn")


def test_it_is_small() -> None:
    assert sum(weight.numel() for weight in DrawerNet().parameters()) <= 2_000_000


def test_equal_attributes_and_obscured_pixels_give_equal_bits(drawer: Drawer) -> None:
    """Two originals whose obscured frames are the same, read alike, cannot be told apart by what is drawn. Whatever
    else a face has, such as its score or its head pose, is not looked at."""
    one = attributes()
    faces = [
        Face(one.box.copy(), score, one.landmarks, np.array(pose), np.array(gaze), one.gaze_angle)
        for score, pose, gaze in ((0.99, [0.0, 1.0, 2.0], [0.0, 0.0, -1.0]), (0.71, [9.0, 8.0, 7.0], [0.6, 0.0, -0.8]))
    ]
    first, second = (drawer.draw([covered()], [Attributes.of(face)], WINDOW) for face in faces)
    assert torch.equal(first, second)
    assert float(first.abs().max()) > 4 / 255


@pytest.mark.parametrize(
    "other",
    [
        replace(attributes(), gaze_angle=np.array([-0.2, 0.3])),
        replace(attributes(), landmarks=attributes().landmarks + np.array([0.0, 4.0])),
        replace(attributes(), box=attributes().box + 4.0),
    ],
)
def test_every_attribute_counts(drawer: Drawer, other: Attributes) -> None:
    first, second = (drawer.draw([covered()], [one], WINDOW) for one in (attributes(), other))
    assert float((first - second).abs().max()) > 2 / 255


def test_what_blazeface_is_not_to_see_is_drawn_otherwise() -> None:
    drawer, own = load_drawer("blazeface"), attributes()
    first, second = (drawer.draw([covered()], [replace(own, followed=known)], WINDOW) for known in (False, True))
    assert float((first - second).abs().max()) > 2 / 255


def test_it_keeps_to_eps_and_to_the_square(drawer: Drawer) -> None:
    drawn = drawer.draw([covered()], [attributes()], WINDOW)
    assert drawn.shape == (1, 3, WINDOW.height, WINDOW.width)
    assert float(drawn.abs().max()) <= np.float32(EPS)
    x1, y1, x2, y2 = square_of(attributes().box) - np.tile([WINDOW.x, WINDOW.y], 2)
    outside = torch.ones(WINDOW.height, WINDOW.width, dtype=torch.bool)
    # a pixel more for the interpolation
    outside[max(0, int(y1) - 1) : int(y2) + 2, max(0, int(x1) - 1) : int(x2) + 2] = False
    assert outside.any()
    assert (drawn[:, :, outside] == 0).all()


def test_the_square_is_about_the_box() -> None:
    """80 wide and 100 high, centre (150, 155): 1.1 * 180 = 198 to a side."""
    assert square_of(attributes().box) == pytest.approx([150 - 99, 155 - 99, 150 + 99, 155 + 99])
    assert pytest.approx(1.1) == SIDE


def test_landmarks_are_drawn_where_they_lie() -> None:
    """The centre of mass of the nose's bridge, four points and those between them, is that of its landmarks."""
    one = attributes()
    assert one.landmarks is not None
    bridge = maps_of(one)[3].astype(np.float64)
    cells = np.arange(SEEN) + 0.5
    square = square_of(one.box)
    scale = (square[2] - square[0]) / SEEN
    centre = np.array([(bridge.sum(axis=0) * cells).sum(), (bridge.sum(axis=1) * cells).sum()]) / bridge.sum()
    expected = one.landmarks[27:31].mean(axis=0) + 0.5
    assert square[:2] + centre * scale == pytest.approx(expected, abs=0.5)


@pytest.mark.parametrize(("gaze", "axis", "sign"), [((0.0, 0.5), 0, -1), ((0.0, -0.5), 0, 1), ((0.4, 0.0), 1, -1)])
def test_irises_lie_where_the_eyes_look(gaze: tuple[float, float], axis: int, sign: int) -> None:
    """Yaw above 0 looks to the left of the image, pitch above 0 upwards."""

    def centre(angle: tuple[float, float]) -> float:
        mass = maps_of(replace(attributes(), gaze_angle=np.array(angle)))[-2].sum(axis=axis)
        return float((mass * np.arange(SEEN)).sum() / mass.sum())

    moved = centre(gaze) - centre((0.0, 0.0))
    assert moved * sign > 0.5


def test_what_is_not_known_leaves_its_maps_empty() -> None:
    bare = maps_of(Attributes(attributes().box))
    assert bare[9].any()
    assert not np.delete(bare, 9, axis=0).any()
    lost = Attributes.of(Face(attributes().box, 0.9, attributes().landmarks, gaze_angle=np.array([np.nan, np.nan])))
    assert lost.gaze_angle is None


@pytest.mark.parametrize("side", [60.0, 192.0, 500.0])
def test_a_drawing_keeps_its_place_at_every_size(side: float) -> None:
    """A spot a quarter down and three quarters across."""
    drawn = torch.zeros(1, 3, DRAWN, DRAWN)
    drawn[:, :, DRAWN // 4 - 6 : DRAWN // 4 + 6, 3 * DRAWN // 4 - 6 : 3 * DRAWN // 4 + 6] = 1.0
    square = np.array([20.0, 40.0, 20.0 + side, 40.0 + side])
    window = Window(0, 0, 560, 560)
    spot = placed(drawn, [square], [window])[0, 0].double().numpy()
    cells = np.arange(560) + 0.5
    found = np.array([(spot.sum(axis=0) * cells).sum(), (spot.sum(axis=1) * cells).sum()]) / spot.sum()
    assert found == pytest.approx([20.0 + 0.75 * side, 40.0 + 0.25 * side], abs=0.01 * side)
    assert spot.sum() == pytest.approx((12 / DRAWN * side) ** 2, rel=0.03)


def test_the_nearest_drawer_is_taken_and_one_of_ones_own() -> None:
    from weights.store import default_store

    known = {record.name for record in default_store().records.values()}
    assert set(DRAWERS.values()) <= known
    assert load_drawer("retinaface-resnet50").weights == load_drawer("retinaface").weights
    assert load_drawer("blazeface").weights.keys() == {"drawer_mediapipe.safetensors"}
    assert load_drawer("somebody's").weights == load_drawer("mtcnn").weights


def test_a_file_that_is_no_drawer_is_refused(tmp_path) -> None:  # type: ignore[no-untyped-def]
    from safetensors.torch import save_file

    path = tmp_path / "own.safetensors"
    save_file({"weight": torch.zeros(3)}, path)
    with pytest.raises(WeightsError, match="own"):
        load_drawer("mtcnn", path)
    with pytest.raises(WeightsError, match="DrawerNet"):
        load_drawer("mtcnn", path, allow_unknown=True)


def test_the_shade_is_taken_off_every_drawing(drawer: Drawer) -> None:
    """One of 6 levels more in the square's middle, where the network's own drawing is known; nothing at its border."""
    other, third = copy.deepcopy(drawer.network), SHADE // 3
    other.shade[..., third:-third, third:-third] += 6 / 255 / EPS
    with torch.no_grad():
        plain, less = (draw_with(one, [covered()], [attributes()], WINDOW)[0] for one in (drawer.network, other))
    apart = 255.0 * (plain - less)
    assert apart[:, 150 - 32, 150 - 32].tolist() == pytest.approx([6.0] * 3, abs=0.01)
    assert torch.equal(plain[:, :20], less[:, :20])


def test_which_drawers_have_a_shade() -> None:
    """From a detector that strangers' detectors resemble it would hide the face."""
    mtcnn, retinaface, blazeface = (
        255.0 * EPS * float(load_drawer(detector).network.shade.square().mean().sqrt())
        for detector in ("mtcnn", "retinaface", "blazeface")
    )
    assert 2.0 < mtcnn < 6.0
    assert 0.0 < retinaface < 1.0
    assert blazeface == 0.0
