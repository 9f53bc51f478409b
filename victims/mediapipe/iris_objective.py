"""The gaze of the irises under attack."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from victims.base import Image, Objective, Reading, Window
from victims.camera import Camera
from victims.face import Array
from victims.gaze import GazeTargets
from victims.mediapipe.facemesh import MESH, SIZE, assemble
from victims.mediapipe.iris import IrisGaze, eye_geometry, gaze_from_irises, region_of_landmarks
from victims.mediapipe.regions import RegionPixels, to_frame_tensor
from victims.mediapipe.topology import POINTS, landmarks_68


class IrisObjective(Objective):
    """Make the irises look where they looked.

    `geometry` is the aligner's mesh (B, 478, 3), whose graph is then used, or landmarks (B, 68, 2), which give the pose
    while the mesh is read in the region of the target's own landmarks.
    """

    takes_mesh = True

    def __init__(
        self,
        victim: IrisGaze,
        frames: Sequence[Image],
        windows: Sequence[Window],
        landmarks: Array,
        gaze: Array,
        camera: Camera,
    ) -> None:
        self._victim, self._camera = victim, camera
        self._targets = GazeTargets(victim, landmarks, gaze, lambda face: eye_geometry(face, camera))
        regions = np.stack([region_of_landmarks(face) for face in landmarks])
        self._regions = torch.from_numpy(regions).to(victim.device)
        self._source = list(frames), list(windows), regions
        self._pixels: RegionPixels | None = None

    def read(self, pixels: Tensor, items: Sequence[int], geometry: Tensor | None = None) -> Reading:
        """See Objective.

        Points that fit no head leave the loss to the target's pose, but the error is infinite and the output NaN: at
        decode time such a face has no gaze.
        """
        known = None if geometry is None else geometry.detach().double().cpu().numpy()
        if geometry is not None and geometry.shape[1] == POINTS:
            points, known = geometry, landmarks_68(np.asarray(known))
        else:
            points = self._read_mesh(pixels, torch.as_tensor(list(items), device=self._victim.device))
        faces, lost = self._targets.places(items, known)
        return self._targets.reading(gaze_from_irises(points, faces, self._camera), items, lost, pixels)

    def _read_mesh(self, pixels: Tensor, rows: Tensor) -> Tensor:
        """(n, 478, 3) px of the frame."""
        if self._pixels is None:  # which an aligner with a mesh never needs
            self._pixels = RegionPixels(*self._source, SIZE, True, self._victim.device)
        points, _ = assemble(self._victim.networks[MESH](self._pixels.read(pixels, rows)))
        return to_frame_tensor(points, self._regions[rows].to(points.dtype), SIZE)
