"""Models to be kept from reading: further stages, of the drawer's fit and of steps, that push the other way.

Embedding for one network revives its relatives. A repelled model is given an objective of its own, a hinge: while it
reads more than it should its gradient is normalised and added like a victim's, and once it reads little enough it
costs one look and no gradient. Detectors are made to see nothing (TOG's vanishing objective, arXiv 2004.04320);
aligners and gaze estimators to read something far from what is embedded, from the crops that the *authorised* victims
before them give: whoever holds those has the better crops.

What is repelled is the models that were listed, as they were measured. Nothing follows for others.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from attacks.embed import Target
from attacks.perturb import Stage
from victims.base import Aligner, Detector, FaceTargets, GazeEstimator, Objective, Reading, Victim, Window
from victims.camera import Camera

BLIND = 0.2
"""A repelled detector's best score that is low enough; detectors report faces from 0.5 or 0.7 on, and what is read
from the file differs a little from what the loop sees (docs/measurements/attack.md)."""
LANDMARKS_APART = 0.10
"""Mean distance from the landmarks that are embedded, over sqrt(w·h): more than ten times an aligner's tolerance."""
GAZE_APART = 20.0
"""Degrees from the gaze that is embedded, likewise."""
SHORT_OF = 0.2
"""Share of such a distance that may be lacking."""


class DistanceObjective(Objective):
    """Keep a victim's reading at least `apart` from what its `objective` aims at.

    The hinge is max(0, apart - error), with the error's own value and the direction of the objective's loss, which
    pulls wherever the error itself has no gradient. `Reading.error` is what is lacking, as a share of `apart`, of which
    there may be one (B,) for each frame that is read.
    """

    def __init__(self, objective: Objective, apart: float | Tensor) -> None:
        self.objective, self.apart = objective, apart

    def read(self, pixels: Tensor, items: Sequence[int], geometry: Tensor | None = None) -> Reading:
        """See Objective."""
        reading = self.objective.read(pixels, items, geometry)
        error = torch.nan_to_num(reading.error, nan=torch.inf)
        distance = reading.loss * (error / reading.loss.detach().clamp_min(1e-9)).clamp_max(1e9)
        lacking = torch.relu(self.apart - torch.where(error < self.apart, distance, self.apart))
        return Reading(lacking / self.apart, lacking.detach() / self.apart, reading.output)


@dataclass(frozen=True)
class Repeller:
    """Repels `models`, by name, in the frames of a clip seen by `camera` (None: the field's default for the size)."""

    models: Mapping[str, Victim]
    camera: Camera | None = None

    def stages(self, frames: Sequence[Target], window: Window) -> list[Stage]:
        """Stages for a batch of frames that share a window; they come after the chain's own, whose outputs they use.

        A model is left out where the frames' faces lack what it is to be kept away from: an aligner without landmarks.
        """
        stages = []
        for name, victim in self.models.items():
            if isinstance(victim, Detector):
                boxes = np.stack([frame.face.box for frame in frames])
                vanish = victim.repel_objective([f.covered for f in frames], [window] * len(frames), boxes)
                stages.append(Stage(f"repel {name}", vanish, BLIND, hinge=True))
            elif isinstance(victim, Aligner) and all(frame.face.landmarks is not None for frame in frames):
                apart = DistanceObjective(self._aligner(victim, frames, window), LANDMARKS_APART)
                stages.append(Stage(f"repel {name}", apart, SHORT_OF, "detector", hinge=True))
            elif isinstance(victim, GazeEstimator) and all(frame.face.gaze is not None for frame in frames):
                apart = DistanceObjective(self._gaze(victim, frames, window), GAZE_APART)
                stages.append(Stage(f"repel {name}", apart, SHORT_OF, "aligner", hinge=True))
        return stages

    @staticmethod
    def _aligner(victim: Aligner, frames: Sequence[Target], window: Window) -> Objective:
        boxes = np.stack([frame.face.box for frame in frames])
        landmarks = np.stack([frame.face.landmarks for frame in frames if frame.face.landmarks is not None])
        faces = FaceTargets(boxes, landmarks)
        return victim.distance_objective([f.covered for f in frames], [window] * len(frames), faces)

    def _gaze(self, victim: GazeEstimator, frames: Sequence[Target], window: Window) -> Objective:
        landmarks = np.stack([frame.face.landmarks for frame in frames if frame.face.landmarks is not None])
        gaze = np.stack([frame.face.gaze for frame in frames if frame.face.gaze is not None])
        height, width = frames[0].covered.shape[:2]
        camera = self.camera or Camera.default(width, height)
        return victim.objective([f.covered for f in frames], [window] * len(frames), landmarks, gaze, camera)
