"""What a drawer is told about strangers: hinges on what they read of a batch of hidden heads.

A stranger's own preprocessing is not known, and the next stranger has other weights. So while a gradient is wanted the
picture is blurred half of the time.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torchvision.transforms.functional import gaussian_blur

from attacks.fitting.scenes import Scene
from attacks.repel import DistanceObjective
from victims.base import Aligner, Detector, Objective, Reading, Victim
from victims.blind import blind_landmarks

APART = (0.06, 0.12)
"""Least and greatest distance from the truth, over sqrt(w·h), that is asked of a stranger's landmarks. Between them it
is that of the mean face in the true box, which knows nothing of the pixels: 0.10 on average, less of frontal faces."""
BLURRED, BLUR = 0.5, 0.008
"""Share of looks that are blurred, and the largest standard deviation, in sides of the window."""


def hinge(victim: Victim, scene: Scene) -> Objective | None:
    """What keeps `victim` from reading the heads of a scene, whose windows are its tiles.

    `Reading.error` is how much it still reads, 0 to 1: a detector's best score, or how much nearer to the truth an
    aligner is than the mean face. None for an aligner where landmarks are not told.
    """
    if isinstance(victim, Detector):
        return Varied(victim.repel_objective(scene.covered, scene.windows, scene.boxes))
    if isinstance(victim, Aligner) and scene.attributes[0].landmarks is not None:
        own = victim.distance_objective(scene.covered, scene.windows, scene.faces)
        return Varied(DistanceObjective(own, blind_errors(scene).clamp(*APART)))
    return None


def blind_errors(scene: Scene) -> Tensor:
    """(n,) mean distance of the mean face in each true box from the true landmarks, over sqrt(w·h)."""
    errors = []
    for box, landmarks in zip(scene.boxes, scene.landmarks, strict=True):
        apart = np.linalg.norm(blind_landmarks(box) - landmarks, axis=1).mean()
        errors.append(apart / math.sqrt((box[2:] - box[:2]).prod()))
    return torch.tensor(errors, dtype=torch.float32)


class Varied(Objective):
    """An objective that is shown a blurred picture half of the time, while gradients are enabled."""

    def __init__(self, objective: Objective) -> None:
        self.objective = objective

    def read(self, pixels: Tensor, items: Sequence[int], geometry: Tensor | None = None) -> Reading:
        """See Objective."""
        if torch.is_grad_enabled() and float(torch.rand(())) < BLURRED:
            pixels = blurred(pixels, BLUR * max(pixels.shape[2:]) * float(torch.rand(())))
        return self.objective.read(pixels, items, geometry)


def blurred(pixels: Tensor, deviation: float) -> Tensor:
    """A Gaussian of `deviation` px, borders mirrored."""
    reach = math.ceil(2.5 * deviation)
    return pixels if reach < 1 else gaussian_blur(pixels, [2 * reach + 1] * 2, [deviation] * 2)
