"""`iris`: gaze from where the irises of the face mesh lie between the lids, by geometry alone.

Each eye is a ball of 12 mm. Its centre lies on the ray through the measured midpoint of the lid corners, at the depth
that the head pose gives these corners, and from there 2 mm up and 4 mm back in the head's axes. The ray through the
iris's centre meets the ball; gaze is from the ball's centre to there, both eyes summed. A ray that misses takes the
ball's nearest point. The pose's own eye centres would be worse: the translation that fits all landmarks jitters, while
lid corners and iris jitter together.

The shift of 2 and 4 mm was fitted to MPIIGaze's vectors on one clip; see docs/measurements. Only the pose is taken as
given: gaze has a gradient in the irises and in the lid corners.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional
from typing_extensions import override

from victims.base import ExportSpec, GazeEstimator, Image, Network, Objective, Window
from victims.camera import Camera, HeadPose, Normalization, normalize_view, solve_head_pose, vector_to_angles
from victims.face import Alignment, Array
from victims.face_model import LEFT_EYE_CORNERS as LEFT_CORNERS_68
from victims.face_model import RIGHT_EYE_CORNERS as RIGHT_CORNERS_68
from victims.mediapipe.facemesh import FILE, MESH, OUTPUTS, mesh_spec, read_regions, region_of_points
from victims.mediapipe.graph import load_network
from victims.mediapipe.regions import region_around
from victims.mediapipe.topology import LEFT_EYE_CORNERS, LEFT_IRIS, POINTS, RIGHT_EYE_CORNERS, RIGHT_IRIS
from weights import store
from weights.errors import DrsfError

RADIUS = 0.012
"""m, of the eyeball."""
CENTRE = (0.0, -0.002, 0.004)
"""m from the midpoint of the lid corners to the eyeball's centre, in the head's axes."""
REFERENCE = Normalization(960.0, (60, 36), (30.0, 18.0), 0.6, RIGHT_CORNERS_68 + LEFT_CORNERS_68)
"""The virtual camera in whose frame pitch and yaw are given: turned to the midpoint of both eyes."""
_EYES = ((RIGHT_EYE_CORNERS, RIGHT_IRIS, RIGHT_CORNERS_68), (LEFT_EYE_CORNERS, LEFT_IRIS, LEFT_CORNERS_68))
_WIDER = 1.15
"""The region of all 478 points over that of the 68, which have no forehead."""


@dataclass(frozen=True)
class EyeGeometry:
    """What gaze takes as given of one face."""

    depths: Array
    """(2,) m, of the right and left eye's lid corners."""
    shift: Array
    """(3,) m, from the corners' midpoint to the eyeball's centre, camera frame."""
    reference: Array
    """(3, 3) camera frame -> the frame in which pitch and yaw are given."""


def eye_geometry(landmarks: Array, camera: Camera) -> EyeGeometry | None:
    """From landmarks (68, 2); None where they are not finite or fit no head."""
    if not np.all(np.isfinite(landmarks)):
        return None
    try:
        pose: HeadPose = solve_head_pose(landmarks, camera)
        reference = normalize_view(pose, REFERENCE, camera).rotation
    except DrsfError:
        return None
    depths = np.array([pose.points(corners)[:, 2].mean() for _, _, corners in _EYES])
    if not np.all(depths > 0) or not np.all(np.isfinite(reference)):
        return None
    return EyeGeometry(depths, pose.rotation @ np.array(CENTRE), reference)


def gaze_from_irises(points: Tensor, faces: Sequence[EyeGeometry], camera: Camera) -> Tensor:
    """Unit gaze vectors (n, 3), camera frame, from points (n, 478, 2 or 3) px; float64, differentiable."""
    places = [p for corners, iris, _ in _EYES for p in (*corners, iris)]
    filmed = points[:, places, :2].double()
    flat = filmed.detach().cpu().numpy().reshape(-1, 2)
    # the lens bends little over an eye: its shift is taken as given
    bent = torch.from_numpy(camera.undistort_points(flat) - flat).to(filmed).view_as(filmed)
    inverse = torch.from_numpy(np.linalg.inv(camera.matrix)).to(filmed)
    rays = functional.pad(filmed + bent, (0, 1), value=1.0) @ inverse.T  # (n, 6, 3) with z = 1
    shifts = torch.from_numpy(np.stack([face.shift for face in faces])).to(filmed)
    depths = torch.from_numpy(np.stack([face.depths for face in faces])).to(filmed)
    total = torch.zeros_like(shifts)
    for eye in (0, 1):
        first, second, iris = rays[:, 3 * eye : 3 * eye + 3].unbind(1)
        centre = (first + second) / 2 * depths[:, eye, None] + shifts
        along = functional.normalize(iris, dim=1)
        nearest = (along * centre).sum(dim=1)
        inside = nearest.square() - centre.square().sum(dim=1) + RADIUS**2
        hit = along * (nearest - inside.clamp_min(1e-12).sqrt())[:, None]
        total = total + functional.normalize(hit - centre, dim=1)
    return functional.normalize(total, dim=1)


class IrisGaze(GazeEstimator):
    """`iris`. Takes the aligner's mesh where there is one, and reads one itself, around the landmarks, where not."""

    name = "iris"

    def __init__(self, network: Network, weights: Mapping[str, str]) -> None:
        """`network` is the mesh with attention, as `facemesh` has it."""
        super().__init__({MESH: network}, weights)

    def estimate(
        self, images: Sequence[Image], landmarks: Sequence[Array], camera: Camera
    ) -> list[tuple[Array, Array]]:
        """See GazeEstimator. A face whose landmarks are not finite, or fit no head, gets NaN in both."""
        alignments = [
            Alignment(own, np.array([self.mesh_around(image, face) for face in own]).reshape(-1, POINTS, 3))
            for image, own in zip(images, landmarks, strict=True)
        ]
        return self.estimate_faces(images, alignments, camera)

    def estimate_faces(
        self, images: Sequence[Image], alignments: Sequence[Alignment], camera: Camera
    ) -> list[tuple[Array, Array]]:
        """See GazeEstimator. A mesh of another number of points than 478 is not taken."""
        if any(own.mesh is None or own.mesh.shape[1] != POINTS for own in alignments):
            return self.estimate(images, [own.landmarks for own in alignments], camera)
        results = []
        for own in alignments:
            vectors, angles = np.full((len(own.landmarks), 3), np.nan), np.full((len(own.landmarks), 2), np.nan)
            for row, landmarks in enumerate(own.landmarks):
                face = eye_geometry(landmarks, camera)
                if face is not None and own.mesh is not None:
                    mesh = torch.from_numpy(own.mesh[row : row + 1])
                    vectors[row] = gaze_from_irises(mesh, [face], camera)[0].numpy()
                    angles[row] = vector_to_angles(face.reference @ vectors[row])
            results.append((vectors, angles))
        return results

    def mesh_around(self, image: Image, landmarks: Array) -> Array:
        """(478, 3) px, read in the region of landmarks (68, 2), and again in that of the points found.

        NaN where the landmarks are not finite.
        """
        if not np.all(np.isfinite(landmarks)):
            return np.full((POINTS, 3), np.nan)
        region = region_of_landmarks(landmarks)
        for _ in range(2):
            points, _presence = read_regions(self.networks[MESH], image, region[None], self.device)
            region = region_of_points(points[0])
        return np.asarray(points[0])

    def objective(
        self, frames: Sequence[Image], windows: Sequence[Window], landmarks: Array, gaze: Array, camera: Camera
    ) -> Objective:
        """Make the victim return `gaze` (B, 3) with landmarks (B, 68, 2), which must fit a head (else DrsfError)."""
        from victims.mediapipe.iris_objective import IrisObjective  # which needs this module

        return IrisObjective(self, frames, windows, landmarks, gaze, camera)

    @override
    def export_specs(self) -> dict[str, ExportSpec]:
        return {MESH: mesh_spec()}


def region_of_landmarks(landmarks: Array) -> Array:
    """(5,) about where the client would look for the face with these landmarks (68, 2)."""
    box = np.concatenate([landmarks.min(axis=0), landmarks.max(axis=0)])
    region = region_around(box, landmarks[36], landmarks[45])
    region[2:4] *= _WIDER
    return region


def load_iris(name: str = "iris", override: Path | None = None, allow_unknown: bool = False) -> IrisGaze:
    """`iris` with the mesh of mediapipe's wheel, or with `override`. Raises WeightsError."""
    resolved = store.resolve([FILE], override, allow_unknown)
    return IrisGaze(load_network(resolved.path, OUTPUTS), {resolved.path.name: resolved.sha256})
