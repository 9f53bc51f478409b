"""The average face in place of a person's own.

Landmarks keep the head's pose, lids, lips and brows, and lose the proportions by which somebody may be known.

A person's landmarks in frame f are taken as L = P + J m + e. P is the projection of the 3D template in the head's
pose, m (68, 3) is how the person differs from the template, the same in every frame, J says where a point of the
template goes in the image as it is moved, and e is what moves by itself. The average face is L - J m = P + e. As m,
what has the least sum of *lengths* of e over a track is taken: a median, since a face is at rest most of the time and
far from it in between. A median of the landmarks in the image would be another thing in every pose.

Landmarks are arrays (n, 68, 2) of x, y in px of a camera without distortion, iBUG order; the template's unit is metres.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from victims.camera import Camera, HeadPose, solve_head_pose
from victims.face import Array
from victims.face_model import FACE_MODEL_68
from victims.openness import INNER_LIPS, LEFT_EYE, RIGHT_EYE

RIDGE = (0.002, 0.002, 0.05)
"""What is added to the normal equations of m for x, y and z of the template, as a share of a frame's own: a track that
shows a head from one side only does not tell the depth of its points, which then is the template's."""
ROUNDS = 8
"""Of reweighting by 1 / |e|, after which the sum of lengths hardly falls."""
LEAST = 3e-4
"""m. Lengths of e below it count alike: landmarks are no more exact."""
CORRECTIONS = 2
"""Rounds in which what the change did to the pose is taken back."""

LID_PAIRS = ((1, 5), (2, 4))
"""Places in an eye of a point on the upper lid and the one below it; the corners are 0 and 3."""
LIP_PAIRS = ((1, 7), (2, 6), (3, 5))
"""Places in the inner lips of a point on the upper one and the one below it; the corners are 0 and 4."""
OUTER_LIPS = {49: 61, 50: 61, 51: 62, 52: 63, 53: 63, 55: 65, 56: 65, 57: 66, 58: 67, 59: 67}
"""A point of the outer lips -> the one of the inner lips that it goes with."""


def average_face(landmarks: Array, camera: Camera) -> Array:
    """Landmarks (n, 68, 2) of one track, px as filmed, with the template's shape.

    Head pose (`solve_head_pose`), and the aspect ratios of eyes and mouth (victims/openness.py) are those of
    `landmarks`.

    Raises ValueError, DrsfError where no head pose fits a frame's.
    """
    own = np.stack([camera.undistort_points(points) for points in landmarks])
    poses = [solve_head_pose(points, camera) for points in landmarks]
    projected, moves = projections(poses, camera.matrix)
    changed = own - np.einsum("nkij,kj->nki", moves, person_shape(own - projected, moves))
    for _ in range(CORRECTIONS):
        found = [solve_head_pose(camera.distort_points(points), camera) for points in changed]
        changed = with_openness_of(own, changed + projected - projections(found, camera.matrix)[0])
    return np.stack([camera.distort_points(points) for points in changed])


def projections(poses: Sequence[HeadPose], matrix: Array) -> tuple[Array, Array]:
    """The template in each pose, (n, 68, 2) px, and how its points move in the image.

    The moves, (n, 68, 2, 3) px a metre, belong to moves of the points in the template. `matrix` (3, 3): the camera's
    intrinsics.
    """
    rotations = np.stack([pose.rotation for pose in poses])
    points = FACE_MODEL_68 @ rotations.transpose(0, 2, 1) + np.stack([pose.translation for pose in poses])[:, None]
    homogeneous = points @ matrix.T
    projected = homogeneous[..., :2] / homogeneous[..., 2:]
    # d(h / h_z) = (dh - (h / h_z) dh_z) / h_z, and dh = matrix rotation dM
    turned = matrix @ rotations
    moves = turned[:, None, :2] - projected[..., None] * turned[:, None, 2:]
    return projected, moves / homogeneous[..., 2:, None]


def person_shape(residuals: Array, moves: Array) -> Array:
    """(68, 3) metres: how a person differs from the template.

    From `residuals` (n, 68, 2) px between the landmarks and the template, and `moves` (n, 68, 2, 3) as `projections`
    gives them. Large and small heads count alike.
    """
    sizes = np.sqrt(np.square(moves).sum(axis=(2, 3)).mean(axis=1) / 2)  # px a metre, for points across the view
    moves, residuals = moves / sizes[:, None, None, None], residuals / sizes[:, None, None]
    # from the mean it would take many rounds to come to frames at rest that are only just more than half
    weights = 1.0 / np.maximum(np.linalg.norm(residuals - np.median(residuals, axis=0), axis=-1), LEAST)
    shape = np.zeros((residuals.shape[1], 3))
    for _ in range(ROUNDS):
        normal = np.einsum("nk,nkij,nkil->kjl", weights, moves, moves)
        ridge = weights.sum(axis=0)[:, None, None] * np.diag(RIDGE)
        right = np.einsum("nk,nkij,nki->kj", weights, moves, residuals)
        shape = np.linalg.solve(normal + ridge, right[..., None])[..., 0]
        left = np.linalg.norm(residuals - np.einsum("nkij,kj->nki", moves, shape), axis=-1)
        weights = 1.0 / np.maximum(left, LEAST)
    return shape


def with_openness_of(original: Array, changed: Array) -> Array:
    """`changed` (n, 68, 2) with the aspect ratios of eyes and mouth of `original` (n, 68, 2), exactly.

    Each pair of points on opposite lids or inner lips keeps its middle, and gets the distance and direction that it has
    in `original`, in units of the width between the corners. The outer lips go with the inner ones.
    """
    result = changed.copy()
    for indices, pairs, corner in ((RIGHT_EYE, LID_PAIRS, 3), (LEFT_EYE, LID_PAIRS, 3), (INNER_LIPS, LIP_PAIRS, 4)):
        first, last = indices[0], indices[corner]
        before, after = (np.linalg.norm(points[:, last] - points[:, first], axis=-1) for points in (original, changed))
        scale = (after / np.maximum(before, 1e-9))[:, None]
        for upper, lower in pairs:
            one, other = indices[upper], indices[lower]
            half = scale * (original[:, one] - original[:, other]) / 2
            middle = (changed[:, one] + changed[:, other]) / 2
            result[:, one], result[:, other] = middle + half, middle - half
    for outer, inner in OUTER_LIPS.items():
        result[:, outer] += result[:, inner] - changed[:, inner]
    return result
