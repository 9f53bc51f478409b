"""Which point of MediaPipe's face mesh is what. "Right" and "left" are the person's.

Points 0..467 are the mesh's; 468..472 belong to the right eye's iris, 473..477 to the left one's: centre, right, top,
left, bottom of the picture. `LIPS`, `RIGHT_EYE_REGION` and `LEFT_EYE_REGION` are the points that the attention network
refines, in its order (mediapipe/modules/face_landmark/tensors_to_face_landmarks_with_attention.pbtxt, Apache-2.0).
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from victims.face import Array

POINTS = 478
MESH_POINTS = 468
RIGHT_IRIS, LEFT_IRIS = 468, 473
"""The irises' centres."""
RIGHT_EYE_CORNERS = (33, 133)
LEFT_EYE_CORNERS = (362, 263)
TURNED_BY = (33, 263)
"""The region of the next frame has the second of these to the right of the first."""
LID_POINTS = 16
"""So many points at the start of an eye's region are its lids."""

# fmt: off
LIPS = (
    61, 146, 91, 181, 84, 17, 314, 405, 321, 375, 291, 185, 40, 39, 37, 0, 267, 269, 270, 409, 78, 95, 88, 178, 87, 14,
    317, 402, 318, 324, 308, 191, 80, 81, 82, 13, 312, 311, 310, 415, 76, 77, 90, 180, 85, 16, 315, 404, 320, 307, 306,
    184, 74, 73, 72, 11, 302, 303, 304, 408, 62, 96, 89, 179, 86, 15, 316, 403, 319, 325, 292, 183, 42, 41, 38, 12, 268,
    271, 272, 407,
)
RIGHT_EYE_REGION = (
    33, 7, 163, 144, 145, 153, 154, 155, 133, 246, 161, 160, 159, 158, 157, 173, 130, 25, 110, 24, 23, 22, 26, 112, 243,
    247, 30, 29, 27, 28, 56, 190, 226, 31, 228, 229, 230, 231, 232, 233, 244, 113, 225, 224, 223, 222, 221, 189, 35,
    124, 46, 53, 52, 65, 143, 111, 117, 118, 119, 120, 121, 128, 245, 156, 70, 63, 105, 66, 107, 55, 193,
)
LEFT_EYE_REGION = (
    263, 249, 390, 373, 374, 380, 381, 382, 362, 466, 388, 387, 386, 385, 384, 398, 359, 255, 339, 254, 253, 252, 256,
    341, 463, 467, 260, 259, 257, 258, 286, 414, 446, 261, 448, 449, 450, 451, 452, 453, 464, 342, 445, 444, 443, 442,
    441, 413, 265, 353, 276, 283, 282, 295, 372, 340, 346, 347, 348, 349, 350, 357, 465, 383, 300, 293, 334, 296, 336,
    285, 417,
)

LANDMARKS_68: tuple[tuple[int, int], ...] = tuple(
    (entry, entry) if isinstance(entry, int) else entry
    for entry in (
        127, 234, 93, (132, 58), (58, 172), 136, 150, 176, 152, 400, 379, 365, (397, 288), 361, 323, 454, 356,
        70, 63, 105, 66, 107, 336, 296, 334, 293, 300,
        (168, 6), (197, 195), 5, 4, 75, 97, 2, 326, 305,
        33, 160, 158, 133, 153, 144, 362, 385, 387, 263, 373, 380,
        61, 39, 37, 0, 267, 269, 291, 321, 314, 17, 84, 91, 78, 82, 13, 312, 308, 317, 14, 87,
    )
)
# fmt: on
"""iBUG's 68 landmarks, each the mean of two points of the mesh (PeizhiYan/Mediapipe_2_Dlib_Landmarks, MIT)."""

_FIRST, _SECOND = (list(column) for column in zip(*LANDMARKS_68, strict=True))
_RIGHT_LIDS = (33, 160, 158, 133, 153, 144)
_LEFT_LIDS = (362, 385, 387, 263, 373, 380)
_MOUTH = (13, 14, 78, 308)


def landmarks_68(points: Array) -> Array:
    """(..., 468 or 478, 2 or 3) -> (..., 68, 2)."""
    return np.asarray((points[..., _FIRST, :2] + points[..., _SECOND, :2]) / 2)


def landmarks_68_tensor(points: Tensor) -> Tensor:
    """The same, differentiable."""
    return (points[..., _FIRST, :2] + points[..., _SECOND, :2]) / 2


def eye_aspect_ratios(points: Tensor) -> Tensor:
    """(..., 2) how far the right and the left eye are open: height over width (Soukupová and Čech 2016)."""
    ratios = []
    for lids in (_RIGHT_LIDS, _LEFT_LIDS):
        p = points[..., list(lids), :2]
        heights = _distance(p, 1, 5) + _distance(p, 2, 4)
        ratios.append(heights / (2.0 * _distance(p, 0, 3)).clamp_min(1e-6))
    return torch.stack(ratios, dim=-1)


def mouth_aspect_ratio(points: Tensor) -> Tensor:
    """(...,) how far the lips are apart: height over width of their inner rim."""
    p = points[..., list(_MOUTH), :2]
    return _distance(p, 0, 1) / _distance(p, 2, 3).clamp_min(1e-6)


def _distance(points: Tensor, one: int, other: int) -> Tensor:
    apart = points[..., one, :] - points[..., other, :]
    return (apart.square().sum(dim=-1) + 1e-12).sqrt()  # a gradient at 0, where lips meet
