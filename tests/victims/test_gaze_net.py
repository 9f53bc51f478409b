"""`gaze-compact`: mirrored faces are mirrored gazes, whatever the weights; the bundled weights read drawn eyes."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch

from victims.camera import FACE_MODEL_68, angle_between_degrees, angles_to_vector
from victims.compact.gaze_net import GazeNet
from victims.compact.training.composite import PX_PER_MM, SIDE, Eye, Look, draw_eye
from victims.compact.training.train_gaze import WEIGHTS, load, read

PATCHES = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (4, 3, 224, 224), dtype=np.uint8))


@pytest.fixture(scope="module")
def bundled() -> GazeNet:
    return load(WEIGHTS)


def test_size() -> None:
    assert sum(parameter.numel() for parameter in GazeNet().parameters()) <= 1_000_000
    assert WEIGHTS.stat().st_size < 4_000_000


def test_mirrored_faces_are_mirrored_gazes() -> None:
    torch.manual_seed(0)
    network = GazeNet()
    straight, mirrored = read(network, PATCHES), read(network, PATCHES.flip(3))
    np.testing.assert_allclose(mirrored, straight * [1.0, -1.0], atol=1e-5)


def test_light_and_contrast_fall_out(bundled: GazeNet) -> None:
    pixels = torch.nn.functional.avg_pool2d(PATCHES.float() / 255, 9, 1, 4)
    with torch.inference_mode():
        angles = bundled(pixels)
        dimmer = bundled(0.7 * pixels + 0.1)
    assert angle_between_degrees(angles_to_vector(angles.numpy()), angles_to_vector(dimmer.numpy())).max() < 6


def test_gradients_reach_eyes_and_face(bundled: GazeNet) -> None:
    pixels = (PATCHES.float() / 255).requires_grad_()
    bundled(pixels).square().sum().backward()
    assert pixels.grad is not None
    assert torch.isfinite(pixels.grad).all()
    assert (pixels.grad.abs().amax(dim=(1, 2, 3)) > 0).all()
    assert (pixels.grad[:, :, 60:110, 40:100] != 0).float().mean() > 0.9
    assert (pixels.grad[:, :, 150:200] != 0).any()


def cartoon(angles: np.ndarray) -> torch.Tensor:
    """A plain frontal face (skin, brows, mouth) with open eyes that look along `angles`; (3, 224, 224) uint8."""
    image = np.full((SIDE, SIDE, 3), (190, 150, 130), np.uint8)
    points = FACE_MODEL_68[:, :2] * 1000 * PX_PER_MM + [112, 132]
    for part in (points[17:22], points[22:27]):
        cv2.polylines(image, [part.astype(np.int32)], False, (90, 60, 50), 4)
    cv2.fillPoly(image, [points[48:60].astype(np.int32)], (170, 90, 90))
    image = cv2.GaussianBlur(image, (0, 0), 1.5).astype(np.uint8)
    look = Look(
        sclera=np.array([0.85, 0.82, 0.8]), iris=np.array([0.2, 0.12, 0.08]), rim=0.3, shadow=0.3, shadow_depth=3.0,
        falloff=0.3, highlight=0.6, highlight_at=np.zeros(2), highlight_size=0.2, lash=0.6, lash_width=1.5,
        lower_lash=0.2, crease=0.15, crease_height=6.0, softness=1.0,
    )  # fmt: skip
    rise = 10.5 * np.sin(angles[0])
    across = np.linspace(-1, 1, 17)
    for index, first in enumerate((36, 42)):
        middle = (points[first] + points[first + 3]) / 2
        line = np.stack([middle[0] + 23 * across, np.full(17, middle[1])], axis=1)
        arch = (1 - across**2) ** 0.75
        upper, lower = (5.6 + 0.7 * rise) * PX_PER_MM, (3.8 - 0.3 * rise) * PX_PER_MM
        top, bottom = line.copy(), line.copy()
        top[:, 1] -= upper * arch
        bottom[:, 1] += lower * arch
        ball = middle + np.array([0.0, -1.6 * PX_PER_MM])
        gaze = angles_to_vector(angles)
        draw_eye(image, Eye(ball, gaze, 12 * PX_PER_MM, 5.9 * PX_PER_MM, 0.4, top, bottom, index == 0), look)
    return torch.from_numpy(image).permute(2, 0, 1)


def test_bundled_weights_follow_drawn_eyes(bundled: GazeNet) -> None:
    """A cartoon that no training saw: the answers follow the eyes, with the right signs and about the right size."""
    pitch, yaw = np.meshgrid(np.radians([-18, -9, 0, 9, 18]), np.radians([-24, -12, 0, 12, 24]))
    truth = np.stack([pitch.ravel(), yaw.ravel()], axis=1)
    angles = read(bundled, torch.stack([cartoon(row) for row in truth]))
    for column in (0, 1):
        assert np.corrcoef(angles[:, column], truth[:, column])[0, 1] > 0.9
        slope = np.polyfit(truth[:, column], angles[:, column], 1)[0]
        assert 0.6 < slope < 1.5
    assert angle_between_degrees(angles_to_vector(angles), angles_to_vector(truth)).mean() < 10
