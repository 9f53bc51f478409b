"""The face mesh under attack."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from victims.base import Image, Objective, Reading, Window
from victims.face import Array
from victims.mediapipe.blazeface_objective import BlazeFaceObjective
from victims.mediapipe.facemesh import (
    MESH,
    PRESENT,
    SIZE,
    FaceMesh,
    assemble,
    overlapping,
    read_regions,
    region_of_points,
)
from victims.mediapipe.regions import RegionPixels, to_frame_tensor
from victims.mediapipe.topology import (
    MESH_POINTS,
    TURNED_BY,
    eye_aspect_ratios,
    landmarks_68_tensor,
    mouth_aspect_ratio,
)


class FaceMeshObjective(Objective):
    """Make the client read the original's mesh, in its static mode and in its video mode.

    Static: in the region of the original's detection, the client's own detector is to give that detection again (its
    objective is part of this one), and the mesh what it gave there. Video: in the region of the original's own points
    the mesh is to be what it gave there, so that the client that follows a face stays where it is. Regions are frozen.

    Of each region, with distances in sizes of the target's box (Huber's loss, linear from BETA on):

        mean over all points, x, y         and a tenth of z's
        + IRISES · mean over the irises    a pixel of theirs is some five degrees of gaze
        + TURNING · mean over what the next region comes from: the points that turn it, and the box of all points
        + EYES, MOUTH · eye and mouth aspect ratios' distance, which a mean over points does not see
        + PRESENCE · hinge(3 - logit)
    """

    BETA = 0.004
    IRISES = 4.0
    TURNING = 1.0
    EYES = 0.1
    MOUTH = 0.1
    PRESENCE = 0.03
    FINDER = 0.2
    PRESENCE_MARGIN = 3.0
    POINTS = 4.0
    """Weight of the mean over points."""

    def __init__(
        self,
        victim: FaceMesh,
        frames: Sequence[Image],
        windows: Sequence[Window],
        boxes: Array,
        landmarks: Array,
        originals: Sequence[Image],
    ) -> None:
        self._victim = victim
        device = victim.device
        wide = np.asarray(boxes, dtype=np.float64)
        self._landmarks = torch.from_numpy(np.asarray(landmarks, dtype=np.float64)).to(device)
        self._sizes = torch.from_numpy(np.sqrt(np.prod(wide[:, 2:] - wide[:, :2], axis=1))).to(device)
        start = np.concatenate(victim.start_regions(originals, list(wide[:, None])))
        static = self._targets(originals, start)
        follow = np.stack([region_of_points(own) for own in static])
        self._regions = [torch.from_numpy(regions).to(device) for regions in (start, follow)]
        self._points = [torch.from_numpy(points).to(device) for points in (static, self._targets(originals, follow))]
        self._pixels = [RegionPixels(frames, windows, regions, SIZE, True, device) for regions in (start, follow)]
        self._finder = self._detections(frames, windows, wide, originals)

    def _targets(self, originals: Sequence[Image], regions: Array) -> Array:
        """(B, 478, 3) what the untouched frames give in `regions` (B, 5)."""
        network, device = self._victim.networks[MESH], self._victim.device
        read = [read_regions(network, image, own[None], device) for image, own in zip(originals, regions, strict=True)]
        return np.concatenate([points for points, _ in read])

    def _detections(
        self, frames: Sequence[Image], windows: Sequence[Window], boxes: Array, originals: Sequence[Image]
    ) -> BlazeFaceObjective | None:
        """The finder's objective; `_found` says in which frames it saw the face. None where in none."""
        finder = self._victim.finder
        targets, found = boxes.copy(), []
        for row, seen in enumerate(finder.detect(originals)):
            best = overlapping(seen.boxes, boxes[row])
            found.append(best is not None)
            if best is not None:
                targets[row] = seen.boxes[best]
        self._found = torch.tensor(found, device=self._victim.device)
        return BlazeFaceObjective(finder, frames, windows, targets, originals) if any(found) else None

    def read(self, pixels: Tensor, items: Sequence[int], geometry: Tensor | None = None) -> Reading:
        """See Objective. `geometry` is not needed: regions come from the client's own detector and points."""
        rows = torch.as_tensor(list(items), device=self._victim.device)
        crops = torch.cat([own.read(pixels, rows) for own in self._pixels])
        regions = torch.cat([own[rows] for own in self._regions])
        targets = torch.cat([own[rows] for own in self._points])
        sizes = self._sizes[rows].repeat(2)
        local, presence = assemble(self._victim.networks[MESH](crops))
        points = to_frame_tensor(local.double(), regions, SIZE)
        loss = self._loss(points, targets, sizes) + self.PRESENCE * torch.relu(self.PRESENCE_MARGIN - presence)
        loss = loss.view(2, -1).mean(dim=0)
        read = landmarks_68_tensor(points.detach())
        error = (read - landmarks_68_tensor(targets)).norm(dim=-1).mean(dim=-1) / sizes
        error = error.masked_fill(torch.sigmoid(presence.detach()) < PRESENT, torch.inf).view(2, -1)
        output, mesh = read[len(rows) :], points[len(rows) :]
        # what is reported is held against the target as it was given
        video = (output - self._landmarks[rows]).norm(dim=-1).mean(dim=-1) / self._sizes[rows]
        error = torch.maximum(error.amax(dim=0), video)
        if self._finder is not None:
            seen = self._finder.read(pixels, items)
            found = self._found[rows]
            loss = loss + self.FINDER * torch.where(found, seen.loss, 0.0)
            error = error.masked_fill(found & torch.isinf(seen.error), torch.inf)
        return Reading(loss.to(pixels.dtype), error.to(pixels.dtype), output.to(pixels.dtype), mesh)

    def _loss(self, points: Tensor, targets: Tensor, sizes: Tensor) -> Tensor:
        """(n,) of points (n, 478, 3) against targets."""
        off = (points - targets) / sizes[:, None, None]
        plane = self._huber(off[..., :2])
        loss = self.POINTS * (plane.mean(dim=(1, 2)) + 0.1 * self._huber(off[..., 2:]).mean(dim=(1, 2)))
        loss = loss + self.IRISES * plane[:, MESH_POINTS:].mean(dim=(1, 2))
        box = (_extent(points) - _extent(targets)) / sizes[:, None]
        turning = plane[:, list(TURNED_BY)].mean(dim=(1, 2)) + self._huber(box).mean(dim=1)
        loss = loss + self.TURNING * turning
        eyes = eye_aspect_ratios(points) - eye_aspect_ratios(targets)
        mouth = mouth_aspect_ratio(points) - mouth_aspect_ratio(targets)
        return loss + self.EYES * self._huber(eyes).mean(dim=1) + self.MOUTH * self._huber(mouth)

    def _huber(self, off: Tensor) -> Tensor:
        return functional.smooth_l1_loss(off, torch.zeros_like(off), beta=self.BETA, reduction="none")


def _extent(points: Tensor) -> Tensor:
    """(n, 4) box of points (n, k, 3)."""
    return torch.cat([points[..., :2].amin(dim=1), points[..., :2].amax(dim=1)], dim=1)
