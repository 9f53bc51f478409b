"""The face mesh as a model to be kept from reading: its 68 landmarks, where a client that knows the head would look."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from victims.base import FaceTargets, Image, Objective, Reading, Window
from victims.mediapipe.facemesh import MESH, SIZE, FaceMesh, assemble
from victims.mediapipe.iris import region_of_landmarks
from victims.mediapipe.regions import RegionPixels, to_frame_tensor
from victims.mediapipe.topology import landmarks_68_tensor


class LandmarksObjective(Objective):
    """The distance between landmarks (B, 68, 2) and what the mesh reads in their region.

    The other points are unknown and do not count. Use FaceMeshObjective to have a mesh read again.
    """

    BETA = 0.004
    """Huber's loss is linear from here on, in sizes of the box."""

    def __init__(
        self, victim: FaceMesh, frames: Sequence[Image], windows: Sequence[Window], faces: FaceTargets
    ) -> None:
        self._network = victim.networks[MESH]
        device = victim.device
        wide = np.asarray(faces.boxes, dtype=np.float64)
        self._sizes = torch.from_numpy(np.sqrt(np.prod(wide[:, 2:] - wide[:, :2], axis=1))).to(device)
        self._landmarks = torch.from_numpy(np.asarray(faces.landmarks, dtype=np.float64)).to(device)
        regions = np.stack([region_of_landmarks(own) for own in faces.landmarks])
        self._regions = torch.from_numpy(regions).to(device)
        self._pixels = RegionPixels(frames, windows, regions, SIZE, True, device)

    def read(self, pixels: Tensor, items: Sequence[int], geometry: Tensor | None = None) -> Reading:
        """See Objective. `geometry` is not needed. `Reading.output` is (n, 68, 2), px of the frame."""
        rows = torch.as_tensor(list(items), device=self._landmarks.device)
        local, _ = assemble(self._network(self._pixels.read(pixels, rows)))
        read = landmarks_68_tensor(to_frame_tensor(local.double(), self._regions[rows], SIZE))
        off = (read - self._landmarks[rows]) / self._sizes[rows, None, None]
        loss = functional.smooth_l1_loss(off, torch.zeros_like(off), beta=self.BETA, reduction="none").mean(dim=(1, 2))
        error = off.detach().norm(dim=-1).mean(dim=-1)
        return Reading(loss.to(pixels.dtype), error.to(pixels.dtype), read.detach().to(pixels.dtype))
