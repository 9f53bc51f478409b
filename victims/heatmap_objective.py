"""Aligners that read heatmaps (`victims.fan`), under attack.

A crop is linear in the frame and zero outside it, so it is the crop of the changing window plus that of the frame with
the window blacked out; the second part is constant, and is skipped where the window holds the whole crop.

An attack asks for three things, all made from the target's coordinates alone: the landmarks themselves, decoded so
that they have a gradient; how far eyes and mouth are open, which a mean over landmarks hardly sees; and while landmarks
are far off, maps that peak at their targets, which pull from any distance.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from victims.base import FaceTargets, Image, Objective, Reading, Window
from victims.fan import HeatmapAligner
from victims.openness import INNER_LIPS, LEFT_EYE, RIGHT_EYE, eye_aspect_ratio, mouth_aspect_ratio

BETA = 0.01
"""Distance, in box sizes, and difference of openness, where losses turn from square to linear."""
EYES, MOUTH = 0.05, 0.01
"""Weights of the openness of each eye and of the mouth beside the mean loss of the landmarks."""


class HeatmapObjective(Objective):
    """Make a heatmap aligner return landmarks, and eyes and mouth be as far open as they say."""

    REACH = 0.25
    """Landmarks farther than this many box sizes from their target are left to the maps: the peak that is read there
    is not the one to be moved."""
    NEAR = 0.2
    """Distance, in box sizes, under which what is asked of a landmark's map fades: a map need not have the target's
    shape for its landmark to be right, and the loss is to end near 0."""

    def __init__(
        self, victim: HeatmapAligner, frames: Sequence[Image], windows: Sequence[Window], faces: FaceTargets
    ) -> None:
        self._victim = victim
        device = victim.device
        self._frames = list(frames)
        self._corners = torch.tensor([[w.x, w.y] for w in windows], dtype=torch.float64, device=device)
        self._windows = list(windows)
        self._boxes = torch.from_numpy(np.array(faces.boxes, dtype=np.float64)).to(device)
        self._landmarks = torch.from_numpy(np.array(faces.landmarks, dtype=np.float64)).to(device)
        self._sizes = (self._boxes[:, 2:] - self._boxes[:, :2]).prod(dim=1).sqrt()

    def read(self, pixels: Tensor, items: Sequence[int], geometry: Tensor | None = None) -> Reading:
        """See Objective; `geometry` is boxes (B, 4)."""
        victim, rows = self._victim, torch.as_tensor(list(items), device=self._boxes.device)
        boxes = self._boxes[rows]
        if geometry is not None:
            given = geometry.detach().to(boxes)
            usable = torch.isfinite(given).all(dim=1) & (given[:, 2:] > given[:, :2]).all(dim=1)
            boxes = torch.where(usable[:, None], given, boxes)
        windows = victim.windows(boxes)
        maps = victim.heatmaps(self._crops(pixels, rows, windows))
        targets, sizes = self._landmarks[rows], self._sizes[rows]

        soft = victim.in_frame(victim.soft_points(maps).double(), windows)
        offsets = (soft - targets) / sizes[:, None, None]
        distance = functional.smooth_l1_loss(offsets, torch.zeros_like(offsets), beta=BETA, reduction="none")
        away = offsets.detach().norm(dim=-1, keepdim=True)
        coordinates = (distance * (away < self.REACH)).mean(dim=(1, 2))
        coordinates = coordinates + openness_loss(torch.where(away < self.REACH, soft, targets), targets)
        wanted = victim.in_map(targets, windows).to(maps.dtype)
        far = (away[..., 0] / self.NEAR).clamp_max(1.0).to(maps.dtype)
        loss = (far * victim.map_loss(maps, wanted)).mean(dim=1)
        loss = loss + victim.coordinate_weight * coordinates.to(pixels.dtype)

        read = victim.in_frame(victim.points(maps.detach()).double(), windows)
        error = (read - targets).norm(dim=-1).mean(dim=-1) / sizes
        return Reading(loss, error.to(pixels.dtype), read.to(pixels.dtype))

    def _crops(self, pixels: Tensor, rows: Tensor, windows: Tensor) -> Tensor:
        """Crops of the frames `rows` with `pixels` in their windows."""
        corners = self._corners[rows]
        crops = self._victim.crop(pixels, windows, corners)
        extent = windows.new_tensor((pixels.shape[-1], pixels.shape[-2]))
        low, high = windows[:, :2] - corners, windows[:, 2:] - corners
        held = ((low >= 1) & (high <= extent - 1)).all(dim=1).tolist()  # a pixel more for the interpolation
        still = torch.zeros_like(crops)
        for place, (row, whole) in enumerate(zip(rows.tolist(), held, strict=True)):
            if not whole:
                rest = self._frames[row].copy()
                self._windows[row].cut(rest)[:] = 0
                image = torch.from_numpy(rest).to(pixels.device).permute(2, 0, 1)[None]
                still[place] = self._victim.crop(image, windows[place : place + 1])[0]
        return crops + still


def openness_loss(points: Tensor, targets: Tensor) -> Tensor:
    """(n,) how much farther or less open eyes and mouth of landmarks (n, 68, 2) are than those of targets."""

    def off(ratio: Callable[[Tensor], Tensor], indices: tuple[int, ...]) -> Tensor:
        own, wanted = (ratio(whole[:, list(indices)]).clamp_max(1.0) for whole in (points, targets))
        return functional.smooth_l1_loss(own, wanted, beta=BETA, reduction="none")

    eyes = off(eye_aspect_ratio, RIGHT_EYE) + off(eye_aspect_ratio, LEFT_EYE)
    return EYES * eyes + MOUTH * off(mouth_aspect_ratio, INNER_LIPS)
