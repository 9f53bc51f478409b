"""Repelling: the hinge by hand, and a model that is repelled while another is embedded for."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
import skimage.data
import torch

from attacks.budget import Budget
from attacks.obscure import Pixelate, Region, obscure, region_mask
from attacks.perturb import AttackSettings, Stage, perturb
from attacks.repel import BLIND, GAZE_APART, DistanceObjective, Repeller
from victims.base import Detector, GazeEstimator, Image, Objective, Reading, Window
from victims.camera import Camera
from victims.face import Array, Detections, Face
from victims.mtcnn import load_mtcnn
from victims.retinaface import load_retinaface
from weights.errors import UsageError


class Distance(Objective):
    """Distance of the mean pixel from 0.5; the loss is its square."""

    def read(self, pixels, items, geometry=None):
        distance = (pixels.mean(dim=(1, 2, 3)) - 0.5).abs()
        return Reading(distance**2, distance.detach(), pixels.detach().mean(dim=(1, 2, 3)))


def test_the_hinge_by_hand():
    """Apart is 0.4: at a distance of 0.1 three quarters are lacking, at 0.3 one, at 0.45 nothing."""
    pixels = torch.tensor([0.6, 0.8, 0.95]).view(3, 1, 1, 1).expand(3, 3, 2, 2).clone().requires_grad_()
    reading = DistanceObjective(Distance(), 0.4).read(pixels, [0, 1, 2])
    np.testing.assert_allclose(reading.error.numpy(), [0.75, 0.25, 0.0], atol=1e-5)
    np.testing.assert_allclose(reading.loss.detach().numpy(), [0.75, 0.25, 0.0], atol=1e-5)
    (gradient,) = torch.autograd.grad(reading.loss.sum(), pixels)
    # going away from 0.5 lowers the hinge; beyond it there is nothing to gain
    assert (gradient[:2] < 0).all()
    assert (gradient[2] == 0).all()


def test_what_cannot_be_read_is_far_enough():
    class Lost(Objective):
        def read(self, pixels, items, geometry=None):
            return Reading(pixels.sum(dim=(1, 2, 3)), torch.tensor([torch.inf, torch.nan]), pixels.detach())

    pixels = torch.ones(2, 3, 2, 2, requires_grad=True)
    reading = DistanceObjective(Lost(), 10.0).read(pixels, [0, 1])
    assert reading.error.tolist() == [0.0, 0.0]
    assert torch.isfinite(torch.autograd.grad(reading.loss.sum(), pixels)[0]).all()


def test_a_detector_without_a_gradient_says_so():
    class Plain(Detector):
        name = "plain"

        def detect(self, images, threshold=None):
            return [Detections(np.zeros((0, 4)), np.zeros(0)) for _ in images]

        def objective(self, frames, windows, boxes):
            raise AssertionError

        def export_specs(self):
            return {}

    with pytest.raises(UsageError, match="--repel plain"):
        Plain({}, {}).repel_objective([], [], np.zeros((0, 4)))


@dataclass
class Hidden:
    covered: Image
    face: Face


class Compass(GazeEstimator):
    """Looks where the red channel of the window's mean says; reads (0, 0, -1) from what is black."""

    name = "compass"

    def estimate(self, images, landmarks, camera):
        return [(np.array([[0.0, 0.0, -1.0]]), np.zeros((1, 2))) for _ in images]

    def objective(self, frames, windows, landmarks, gaze: Array, camera):
        self.aimed_at = gaze

        class Angle(Objective):
            def read(self, pixels, items, geometry=None):
                angle = 90 * pixels[:, 0].mean(dim=(1, 2))
                return Reading(angle, angle.detach(), angle.detach())

        return Angle()

    def export_specs(self):
        return {}


def test_a_gaze_estimator_is_kept_from_the_gaze_that_is_embedded():
    image = np.zeros((32, 32, 3), np.uint8)
    compass = Compass({}, {})
    frame = Hidden(image, Face(np.array([0.0, 0, 9, 9]), 1.0, np.zeros((68, 2)), gaze=np.array([0.0, 0.6, -0.8])))
    (stage,) = Repeller({"compass": compass}, Camera.default(32, 32)).stages([frame], Window(0, 0, 32, 32))
    np.testing.assert_array_equal(compass.aimed_at, [[0.0, 0.6, -0.8]])
    assert (stage.name, stage.after) == ("repel compass", "aligner")
    base = torch.full((1, 3, 32, 32), 0.04)
    budget = Budget(base, torch.ones(1, 1, 32, 32, dtype=torch.bool), 0.5)
    outcome = perturb(budget, torch.zeros_like(base), [stage], AttackSettings("i-fgsm", 0.5, 40))
    turned = 90 * float((base + outcome.delta)[0, 0].mean())
    assert turned >= GAZE_APART * 0.79


# ------------------------------------------------------------------------------------------------- detectors


@pytest.fixture(scope="module")
def portrait() -> Image:
    """Half of scikit-image's portrait: 256 px, a face of 60."""
    return np.ascontiguousarray(skimage.data.astronaut()[:256, 64:384])


def head(box: Array, image: Image) -> tuple[int, int, int, int]:
    width, height = box[2:] - box[:2]
    low, high = box[:2] - np.array([0.4 * width, 0.5 * height]), box[2:] + np.array([0.4 * width, 0.3 * height])
    corners = np.concatenate([np.maximum(low, 0), np.minimum(high, image.shape[1::-1])]).astype(int)
    return tuple(corners.tolist())


def test_mtcnn_vanishes_from_a_face_it_sees(portrait):
    """From the untouched portrait, which is harder than from an obscured head."""
    victim = load_mtcnn()
    (found,) = victim.detect([portrait])
    window = Window(0, 0, 320, 256)
    objective = victim.repel_objective([portrait], [window], found.boxes[:1])
    base = torch.from_numpy(portrait.copy()).permute(2, 0, 1)[None] / 255.0
    before = objective.read(base, [0])
    assert float(before.error[0]) == pytest.approx(float(found.scores[0]), abs=0.02)
    x1, y1, x2, y2 = head(found.boxes[0], portrait)
    mask = torch.zeros(1, 1, 256, 320, dtype=torch.bool)
    mask[..., y1:y2, x1:x2] = True
    outcome = perturb(
        Budget(base, mask, 24 / 255),
        torch.zeros_like(base),
        [Stage("r", objective, BLIND)],
        AttackSettings("mi-fgsm", 24 / 255, 20),
    )
    written = ((base + outcome.delta) * 255).round()[0].permute(1, 2, 0).byte().numpy()
    (after,) = victim.detect([np.ascontiguousarray(written)])
    assert len(found) == 1
    assert len(after) == 0


@pytest.mark.slow
def test_one_training_run_is_embedded_for_and_another_sees_nothing(portrait, shared, published):
    """The whole point: with the repelled one's stage its best score falls under half of what it is without, and under
    the threshold at which it reports a face, while the authorised one's box is as good."""
    official = load_retinaface("retinaface", published("retinaface_mobilenet0.25.pth"))
    other = load_retinaface("retinaface", shared / "weights" / "retinaface_mobilenet0.25_other_training_run.pth", True)
    (found,) = official.detect([portrait])
    rect = head(found.boxes[0], portrait)
    region = Region(rect, cell=(rect[2] - rect[0]) // 5, origin=rect[:2])
    covered = obscure(portrait, [region], Pixelate(5))
    window = Window(0, 0, 320, 256)
    base = torch.from_numpy(covered.copy()).permute(2, 0, 1)[None] / 255.0
    mask = torch.from_numpy(region_mask([region], 256, 320))[None, None]
    own = Stage("detector", official.objective([covered], [window], found.boxes[:1]), 0.02)
    repel = Repeller({"other": other}).stages([Hidden(covered, Face(found.boxes[0], 1.0))], window)
    scores, errors = [], []
    for stages in ([own], [own, *repel]):
        outcome = perturb(
            Budget(base, mask, 24 / 255), torch.zeros_like(base), stages, AttackSettings("mi-fgsm", 24 / 255, 30)
        )
        written = ((base + outcome.delta) * 255).round()[0].permute(1, 2, 0).byte().numpy()
        (seen,) = other.detect([np.ascontiguousarray(written)], 0.001)
        scores.append(max(seen.scores, default=0.0))
        errors.append(float(outcome.errors["detector"][0]))
    assert scores[1] < 0.5
    assert scores[1] < 0.5 * scores[0]
    assert errors[1] < 0.05
    assert len(other.detect([covered])[0]) == 0
