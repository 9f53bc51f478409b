"""`facemesh`: MediaPipe's face mesh with attention (Grishchenko et al. 2020, arXiv 2006.10962), 478 points.

Where the region lies decides what is read. The client takes it from short-range BlazeFace's detection in the first
frame (in every frame with static_image_mode), and from the points of the frame before in all others. An aligner is
given boxes, which say nothing of rotation. So each face is read twice: in the region of the detection that overlaps its
box, which is the client's static answer, and then in the region of the points found there, which is its answer in video
mode once it has followed the face, and what is reported. A box that no detection overlaps starts with an upright region
of its own. Whichever detector the chain has, the client's own is one of this victim's networks: its answer is part of
what the client reads.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from typing_extensions import override

from victims.base import Aligner, Detector, ExportSpec, FaceTargets, Image, Network, Objective, Window
from victims.boxes import iou
from victims.face import Alignment, Array, Detections, Start
from victims.mediapipe import topology
from victims.mediapipe.blazeface import NETWORK as FINDER
from victims.mediapipe.blazeface import BlazeFace, load_blazeface
from victims.mediapipe.graph import load_network
from victims.mediapipe.regions import read_exact, region_around, to_frame, upright_region
from weights import store
from weights.errors import UsageError

FILE = "face_landmark_with_attention.tflite"
MESH = "mesh"
SIZE = 192
PASSES = 5
"""At most: the first in the detection's region, the others in that of the points before ..."""
SETTLED = 0.04
"""... until it hardly moves any more (`_moved`), which takes two passes in most frames, and more where the detection is
off: what is read then is far from what the client reads in video mode (docs/victims.md)."""
SAME_FACE = 0.3
"""IoU of a box with a detection that is taken for it; those of MTCNN and BlazeFace overlap by 0.58 in the mean."""
PRESENT = 0.5
"""Presence from which the client keeps a face."""

OUTPUTS = {0: (1, 1, 1404), 1: (1, 1, 160), 2: (1, 1, 142), 3: (1, 1, 142), 4: (1, 1, 10), 5: (1, 1, 10), 6: (1, 1, 1)}
_BATCH = 8


def _source_of_points() -> list[int]:
    """Of each of the 478 points, where its x, y are among mesh, lips, eyes and irises in the network's order."""
    source = list(range(topology.MESH_POINTS))
    start = topology.MESH_POINTS
    for region in (topology.LIPS, topology.RIGHT_EYE_REGION, topology.LEFT_EYE_REGION):
        for offset, point in enumerate(region):
            source[point] = start + offset
        start += len(region)
    return source + list(range(start, start + topology.POINTS - topology.MESH_POINTS))


_SOURCE = _source_of_points()


def assemble(outputs: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Points (n, 478, 3), px of the crop, and logits (n,) of presence, from the network's seven outputs.

    x, y of lips, eyes and irises are the refined ones; z is the mesh's, an iris's the mean of its eye's lids.
    """
    mesh = outputs[0].reshape(-1, topology.MESH_POINTS, 3)
    plane = torch.cat([mesh[..., :2], *(part.unflatten(1, (-1, 2)) for part in outputs[1:6])], dim=1)[:, _SOURCE]
    depth = mesh[..., 2]
    irises = [
        depth[:, list(region[: topology.LID_POINTS])].mean(dim=1, keepdim=True).expand(-1, 5)
        for region in (topology.RIGHT_EYE_REGION, topology.LEFT_EYE_REGION)
    ]
    return torch.cat([plane, torch.cat([depth, *irises], dim=1)[..., None]], dim=2), outputs[6].flatten()


def region_of_points(points: Array) -> Array:
    """(5,) where the client looks in the next frame, from points (478, 3) of this one."""
    box = np.concatenate([points[:, :2].min(axis=0), points[:, :2].max(axis=0)])
    start, end = topology.TURNED_BY
    return region_around(box, points[start, :2], points[end, :2])


def region_of_detection(box: Array, points: Array) -> Array:
    """(5,) where the client looks after a detection: box (4,), its points (2 or more, 2), eyes first."""
    return region_around(box, points[0], points[1])


DETECTION_SIDE, DETECTION_SHIFT = 0.935, (0.015, 0.051)
"""BlazeFace's box beside the mesh's extent along the head's axes: its side, and how far its centre lies right and down;
medians of 58 faces (talking_720p.mp4, faces68), where the sides scatter by 5 % (median absolute deviation)."""


def box_of_mesh(mesh: Array) -> Array:
    """(4,) about where short-range BlazeFace sees the face of a mesh (478, 3)."""
    start, end = (mesh[point, :2] for point in topology.TURNED_BY)
    angle = np.arctan2(*(end - start)[::-1])
    own = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    along = mesh[: topology.MESH_POINTS, :2] @ own.T
    low, high = along.min(axis=0), along.max(axis=0)
    size = float((high - low).max())
    centre = own.T @ ((low + high) / 2 + size * np.array(DETECTION_SHIFT))
    return np.concatenate([centre - size * DETECTION_SIDE / 2, centre + size * DETECTION_SIDE / 2])


def _moved(before: Array, after: Array) -> Array:
    """(k,) how far squares (k, 5) moved and grew, in sides, and turned, rad: the sum of the three."""
    moved = np.linalg.norm(after[:, :2] - before[:, :2], axis=1) + np.abs(after[:, 2] - before[:, 2])
    turned = np.abs((after[:, 4] - before[:, 4] + np.pi) % (2 * np.pi) - np.pi)
    return np.asarray(moved / before[:, 2] + turned)


def read_regions(network: Network, image: Image, regions: Array, device: torch.device) -> tuple[Array, Array]:
    """Points (k, 478, 3) px of the frame and presence (k,) 0..1 in `regions` (k, 5) of an image, as the client."""
    points, presence = [], []
    for start in range(0, len(regions), _BATCH):
        crops = read_exact(image, regions[start : start + _BATCH], SIZE, repeat_border=True)
        pixels = torch.from_numpy(crops).to(device).permute(0, 3, 1, 2).float() / 255.0
        with torch.no_grad():
            own, logits = assemble(network(pixels))
        points.append(own.double().cpu().numpy())
        presence.append(torch.sigmoid(logits.double()).cpu().numpy())
    if not points:
        return np.zeros((0, topology.POINTS, 3)), np.zeros(0)
    return to_frame(np.concatenate(points), regions, SIZE), np.concatenate(presence)


def mesh_spec() -> ExportSpec:
    """How the mesh's network is exported."""
    names = ("mesh", "lips", "right_eye", "left_eye", "right_iris", "left_iris", "presence")
    return ExportSpec(
        (torch.full((2, 3, SIZE, SIZE), 0.5),),
        ("crops",),
        names,
        {name: {0: "batch"} for name in ("crops", *names)},
        f"RGB in [0, 1], {SIZE}x{SIZE} whole pixels of a rotated square around the face",
    )


class FaceMesh(Aligner):
    """`facemesh`. `networks`: "mesh", and "blazeface", the client's own detector."""

    name = "facemesh"

    def __init__(self, network: Network, finder: BlazeFace, weights: Mapping[str, str]) -> None:
        super().__init__({MESH: network, **finder.networks}, weights)
        self._finder = finder

    @property
    def finder(self) -> BlazeFace:
        """Short-range BlazeFace with the network that this victim has now."""
        own = self._finder.with_networks({FINDER: self.networks[FINDER]})
        own.device = self.device
        return own

    @override
    def align(self, images: Sequence[Image], boxes: Sequence[Array]) -> list[Array]:
        return [own.landmarks for own in self.align_faces(images, boxes)]

    def align_faces(self, images: Sequence[Image], boxes: Sequence[Array]) -> list[Alignment]:
        """Landmarks (k, 68, 2) and mesh (k, 478, 3) of the k boxes (k, 4) of each image.

        A box without a face gets points, too. `present` is False where the client's own detection is there and the mesh
        sees no face in its region: the client drops such a detection, which is a false alarm or turned wrongly.
        """
        found = []
        for image, own in zip(images, boxes, strict=True):
            began = self._begin(image, own)
            pairs = zip(own, began, strict=True)
            turned = [upright_region(box) if one is None else region_of_detection(*one) for box, one in pairs]
            regions = np.array(turned).reshape(-1, 5)
            first, presence = read_regions(self.networks[MESH], image, regions, self.device)
            points = self._settled(image, regions, first)
            starts = tuple(None if one is None else Start(*one, mesh) for one, mesh in zip(began, first, strict=True))
            present = np.array([one is None for one in began], dtype=bool) | (presence >= PRESENT)
            found.append(Alignment(topology.landmarks_68(points), points, starts, present))
        return found

    def _settled(self, image: Image, regions: Array, points: Array) -> Array:
        """Points (k, 478, 3) that come back in their own region, from points that were read in `regions` (k, 5)."""
        points = points.copy()
        moving = np.arange(len(points))
        for _ in range(PASSES - 1):
            before = regions[moving]
            regions = np.array([region_of_points(own) for own in points]).reshape(-1, 5)
            moving = moving[_moved(before, regions[moving]) > SETTLED]
            if not len(moving):
                break
            points[moving], _ = read_regions(self.networks[MESH], image, regions[moving], self.device)
        return points

    @override
    def follow(self, image: Image, before: Array) -> tuple[Detections, Alignment]:
        """See Aligner: as the client does in video mode, in the region of the points before.

        A face's score is its presence; its box is where BlazeFace would see it.
        """
        regions = np.array([region_of_points(own) for own in before]).reshape(-1, 5)
        points, presence = read_regions(self.networks[MESH], image, regions, self.device)
        points, presence = points[presence >= PRESENT], presence[presence >= PRESENT]
        boxes = np.array([box_of_mesh(own) for own in points]).reshape(-1, 4)
        return Detections(boxes, presence), Alignment(topology.landmarks_68(points), points)

    def _begin(self, image: Image, boxes: Array) -> list[tuple[Array, Array] | None]:
        """Of each face (k, 4) of an image the detection, its box (4,) and points (6, 2); None where there is none."""
        if not len(boxes):
            return []
        ((seen, points),) = self.finder.detect_with_points([image])
        overlaps = [iou(seen.boxes, box) if len(seen) else np.zeros(1) for box in boxes]
        best = [int(own.argmax()) if own.max() > SAME_FACE else None for own in overlaps]
        return [None if row is None else (seen.boxes[row], points[row]) for row in best]

    def objective(self, frames: Sequence[Image], windows: Sequence[Window], faces: FaceTargets) -> Objective:
        """See Aligner. Meshes (B, 478, 3) are needed: 68 landmarks tell neither irises nor where the client looks."""
        from victims.mediapipe.facemesh_objective import FaceMeshObjective  # which needs this module

        if faces.meshes is None:
            raise UsageError("facemesh is made to read whole meshes, and there are none; write them with infer --mesh.")
        return FaceMeshObjective(self, frames, windows, faces, faces.meshes)

    @override
    def detector_objective(
        self, detector: Detector, frames: Sequence[Image], windows: Sequence[Window], faces: FaceTargets
    ) -> Objective:
        """See Aligner. The client's own detector is to see the eyes where it saw them: they turn the mesh's region.

        Where it saw nothing, and the client followed the face, it is to see nothing.
        """
        from victims.mediapipe.blazeface_objective import BlazeFaceObjective
        from victims.mediapipe.facemesh_objective import starts_of

        if not isinstance(detector, BlazeFace) or detector.name != self._finder.name or faces.meshes is None:
            return super().detector_objective(detector, frames, windows, faces)
        eyes = starts_of(faces, faces.meshes)[1]
        return BlazeFaceObjective(detector, frames, windows, faces.boxes, eyes, faces.followed)

    @override
    def distance_objective(self, frames: Sequence[Image], windows: Sequence[Window], faces: FaceTargets) -> Objective:
        """See Aligner."""
        from victims.mediapipe.landmarks_objective import LandmarksObjective  # which needs this module

        return LandmarksObjective(self, frames, windows, faces)

    @override
    def export_specs(self) -> dict[str, ExportSpec]:
        return {MESH: mesh_spec(), **self._finder.export_specs()}


def load_facemesh(name: str = "facemesh", override: Path | None = None, allow_unknown: bool = False) -> FaceMesh:
    """`facemesh` with the files of mediapipe's wheel; `override` takes the mesh's place. Raises WeightsError."""
    resolved = store.resolve([FILE], override, allow_unknown)
    finder = load_blazeface("blazeface")
    network = load_network(resolved.path, OUTPUTS)
    return FaceMesh(network, finder, {resolved.path.name: resolved.sha256, **finder.weights})
