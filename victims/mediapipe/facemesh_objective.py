"""The face mesh under attack."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from victims.base import FaceTargets, Image, Objective, Reading, Window
from victims.face import Array
from victims.mediapipe import topology
from victims.mediapipe.blazeface_objective import BlazeFaceObjective
from victims.mediapipe.facemesh import (
    MESH,
    PRESENT,
    SIZE,
    FaceMesh,
    assemble,
    box_of_mesh,
    region_of_detection,
    region_of_points,
)
from victims.mediapipe.regions import RegionPixels, to_frame_tensor


class FaceMeshObjective(Objective):
    """Make the client read the meshes that are given, in its static mode and in its video mode.

    Static: what was read in the region of the client's own detection (`starts`) is to be read again in that of the
    detection as it is now. The detector's objective sees to it that this is where it was
    (`FaceMesh.detector_objective`), or this one where the box is another detector's. The static answer differs from
    what the client reads of the same picture in video mode, by 3 % of the box on a turned head. A face without a
    start, which was given, has its detection where the mesh says, and the same mesh in its region. One that was
    followed is read in video mode only. Video:
    the mesh is to be read in the region of its own points, so that a client that follows the face stays where it is.
    No gradient is taken through regions. All of it comes from meshes and boxes; no pixel of the original is asked for.

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
    EYES = 0.3
    MOUTH = 0.2
    PRESENCE = 0.03
    FINDER = 0.2
    PRESENCE_MARGIN = 3.0
    POINTS = 4.0
    """Weight of the mean over points."""

    def __init__(
        self, victim: FaceMesh, frames: Sequence[Image], windows: Sequence[Window], faces: FaceTargets, meshes: Array
    ) -> None:
        """`meshes` (B, 478, 3): those of `faces`."""
        self._victim = victim
        device = victim.device
        wide, meshes = np.asarray(faces.boxes, dtype=np.float64), np.asarray(meshes, dtype=np.float64)
        self._landmarks = torch.from_numpy(np.asarray(faces.landmarks, dtype=np.float64)).to(device)
        self._sizes = torch.from_numpy(np.sqrt(np.prod(wide[:, 2:] - wide[:, :2], axis=1))).to(device)
        found, eyes, first = starts_of(faces, meshes)
        start = np.stack([region_of_detection(*one) for one in zip(found, eyes, strict=True)])
        follow = np.stack([region_of_points(mesh) for mesh in meshes])
        self._regions = [torch.from_numpy(regions).to(device) for regions in (start, follow)]
        self._points = torch.from_numpy(np.stack([first, meshes])).to(device)
        self._pixels = [RegionPixels(frames, windows, regions, SIZE, True, device) for regions in (start, follow)]
        self._finder = BlazeFaceObjective(victim.finder, frames, windows, found, eyes)
        # the detector's objective sees to a box that is the client's own
        self._followed = torch.tensor(list(faces.followed) or [False] * len(wide), device=device)
        away = (np.abs(found - wide) > 0.1).any(axis=1)
        self._finding = torch.from_numpy(self.FINDER * away).to(device).masked_fill(self._followed, 0.0)

    def read(self, pixels: Tensor, items: Sequence[int], geometry: Tensor | None = None) -> Reading:
        """See Objective. `geometry` is not needed: regions come from the client's own detector and points."""
        rows = torch.as_tensor(list(items), device=self._victim.device)
        finding = self._finding[rows]
        seen, eyes = self._finder.read_with_eyes(pixels if finding.any() else pixels.detach(), items)
        start = self._regions[0][rows].cpu().numpy()
        for row in torch.isfinite(seen.error).nonzero().flatten().tolist():
            start[row] = region_of_detection(seen.output[row].double().cpu().numpy(), eyes[row].double().cpu().numpy())
        crops = torch.cat([self._pixels[0].read(pixels, rows, start), self._pixels[1].read(pixels, rows)])
        regions = torch.cat([torch.from_numpy(start).to(self._regions[1]), self._regions[1][rows]])
        targets = self._points[:, rows].flatten(0, 1)
        sizes = self._sizes[rows].repeat(2)
        local, presence = assemble(self._victim.networks[MESH](crops))
        points = to_frame_tensor(local.double(), regions, SIZE)
        loss = self._loss(points, targets, sizes) + self.PRESENCE * torch.relu(self.PRESENCE_MARGIN - presence)
        followed = self._followed[rows]
        loss = torch.where(followed, loss.view(2, -1)[1], loss.view(2, -1).mean(dim=0))
        read = topology.landmarks_68_tensor(points.detach())
        error = (read - topology.landmarks_68_tensor(targets)).norm(dim=-1).mean(dim=-1) / sizes
        error = error.masked_fill(torch.sigmoid(presence.detach()) < PRESENT, torch.inf).view(2, -1)
        output, mesh = read[len(rows) :], points[len(rows) :]
        # what is reported is held against the target as it was given
        video = (output - self._landmarks[rows]).norm(dim=-1).mean(dim=-1) / self._sizes[rows]
        error = torch.maximum(torch.where(followed, error[1], error.amax(dim=0)), video)
        loss = loss + finding * seen.loss
        error = error.masked_fill(~followed & torch.isinf(seen.error), torch.inf)
        return Reading(loss.to(pixels.dtype), error.to(pixels.dtype), output.to(pixels.dtype), mesh)

    def _loss(self, points: Tensor, targets: Tensor, sizes: Tensor) -> Tensor:
        """(n,) of points (n, 478, 3) against targets."""
        off = (points - targets) / sizes[:, None, None]
        plane = self._huber(off[..., :2])
        loss = self.POINTS * (plane.mean(dim=(1, 2)) + 0.1 * self._huber(off[..., 2:]).mean(dim=(1, 2)))
        loss = loss + self.IRISES * plane[:, topology.MESH_POINTS :].mean(dim=(1, 2))
        box = (_extent(points) - _extent(targets)) / sizes[:, None]
        turning = plane[:, list(topology.TURNED_BY)].mean(dim=(1, 2)) + self._huber(box).mean(dim=1)
        loss = loss + self.TURNING * turning
        eyes = topology.eye_aspect_ratios(points) - topology.eye_aspect_ratios(targets)
        mouth = topology.mouth_aspect_ratio(points) - topology.mouth_aspect_ratio(targets)
        return loss + self.EYES * self._huber(eyes).mean(dim=1) + self.MOUTH * self._huber(mouth)

    def _huber(self, off: Tensor) -> Tensor:
        return functional.smooth_l1_loss(off, torch.zeros_like(off), beta=self.BETA, reduction="none")


def _extent(points: Tensor) -> Tensor:
    """(n, 4) box of points (n, k, 3)."""
    return torch.cat([points[..., :2].amin(dim=1), points[..., :2].amax(dim=1)], dim=1)


SQUARE = 0.02
"""A box whose sides differ by less than this share is taken for BlazeFace's own."""


def starts_of(faces: FaceTargets, meshes: Array) -> tuple[Array, Array, Array]:
    """Where the client's own detector is to see `faces` with `meshes` (B, 478, 3), and what is to be read there.

    Boxes (B, 4), eyes (B, 2, 2), the person's right one first, and meshes (B, 478, 3): those of their starts, and for
    others what follows from the mesh.
    """
    boxes = np.stack([detection_of(mesh, box) for mesh, box in zip(meshes, faces.boxes, strict=True)])
    eyes, first = meshes[:, [topology.RIGHT_IRIS, topology.LEFT_IRIS], :2].copy(), meshes.copy()
    for row, own in enumerate(faces.starts):
        if own is not None:
            boxes[row], eyes[row], first[row] = own.box, own.points[:2], own.mesh
    return boxes, eyes, first


def detection_of(mesh: Array, box: Array) -> Array:
    """(4,) where short-range BlazeFace sees the face of a mesh (478, 3): `box` if that is its own, or an estimate."""
    width, height = box[2:] - box[:2]
    if abs(width - height) < SQUARE * max(width, height):
        return box
    return box_of_mesh(mesh)
