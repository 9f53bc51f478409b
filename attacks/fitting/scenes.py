"""Training scenes: obscured heads at many sizes, with the attributes that are to be read from them.

A scene is a batch of tiles of one size, each a frame of its own with one head. The attributes are those of a real face,
moved, mirrored, stretched, its eyes and mouth opened or closed and its gaze turned; what lies under the obscuring need
not fit them, since nothing of it is left. A face of which a mesh is read is only moved and scaled: its landmarks, its
box and its gaze are parts of that mesh.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from attacks.drawer import Attributes
from attacks.fitting.faces import ReadFaces
from attacks.obscure import Obscuring, head_mask, obscure, parse_obscuring, plan_regions, region_mask
from victims.base import FaceTargets, Image, Window
from victims.camera import Camera, angles_to_vector, vector_to_angles
from victims.face import Array
from victims.face_model import FLIP
from victims.gaze import NormalizedGaze
from victims.mediapipe.iris import IrisGaze, eye_geometry, gaze_from_irises
from victims.track import CoverBox

HEIGHTS = (48.0, 320.0)
"""Of a face's box, px, drawn log-uniformly: faces about 40 to 290 px across."""
TILE = 2.5
"""Side of a tile, in box heights: a head region is about two high and wide."""
GRID = 32
PIXELS = 900_000
"""Of a batch: large faces come in small batches."""
MOST = 16
"""Tiles of a batch."""
MASKS = (
    (0.62, ("pixelate_5",)),
    (0.18, ("pixelate_4", "pixelate_6", "pixelate_8", "pixelate_3")),
    (0.13, ("blur_14", "blur_20", "blur_30")),
    (0.07, ("solid",)),
)
"""Shares of obscurings."""
ANYWHERE = 0.25
"""Share of gazes drawn from all that occur; the others are the person's own, turned by GAZE_TURN."""
GAZE_TURN = 0.15
"""rad, standard deviation."""
BOX_TURN = 0.015
"""Standard deviation of each side of a box, in its sizes: a detector is to read the box it is given."""
FOLLOWED = 0.15
"""Share of the faces with a mesh that a client is to follow and its detector not to see (`Face.followed`)."""
GAZE_RANGE = (0.5, 0.75)
"""rad, largest pitch and yaw of the former."""


Gaze = NormalizedGaze | IrisGaze


@dataclass(frozen=True)
class Scene:
    """A batch of tiles (S, S, 3)."""

    covered: list[Image]
    masks: NDArray[np.bool_]
    """(n, S, S)"""
    attributes: list[Attributes]
    gaze: Array
    """(n, 3) unit vectors in the frame of `camera`."""
    camera: Camera
    """Of every tile."""
    meshes: Array | None = None
    """(n, k, 3) px of the tiles, of an aligner that has more than 68 landmarks."""

    @property
    def windows(self) -> list[Window]:
        """Its tiles, whole."""
        side = self.covered[0].shape[0]
        return [Window(0, 0, side, side)] * len(self.covered)

    @property
    def faces(self) -> FaceTargets:
        """What an aligner is to read, where landmarks are told."""
        return FaceTargets(self.boxes, self.landmarks, self.meshes, (), [one.followed for one in self.attributes])

    @property
    def boxes(self) -> Array:
        """(B, 4) px of the picture."""
        return np.stack([one.box for one in self.attributes])

    @property
    def landmarks(self) -> Array:
        """(B, 68, 2) px of the picture."""
        return np.stack([one.landmarks for one in self.attributes if one.landmarks is not None])


def draw_obscuring(random: np.random.Generator) -> Obscuring:
    """One of MASKS."""
    pick = random.choice(len(MASKS), p=[share for share, _ in MASKS])
    return parse_obscuring(str(random.choice(MASKS[pick][1])))


def draw_scene(faces: ReadFaces, gaze: Gaze | None, random: np.random.Generator, most: int = 0) -> Scene:
    """A random batch of at most `most` (0: MOST) of `faces`, one size and one obscuring for all.

    `gaze` turns angles into vectors.
    """
    height = math.exp(random.uniform(math.log(HEIGHTS[0]), math.log(HEIGHTS[1])))
    side = tile_side(height)
    count = int(np.clip(PIXELS // side**2, 2, most or MOST))
    rows = random.choice(len(faces), count, replace=False)
    width = side * random.uniform(1.3, 4.0)
    centre = side / 2 + random.uniform(-0.3, 0.3, 2) * (width - side)
    matrix = np.array([[width, 0.0, centre[0]], [0.0, width, centre[1]], [0.0, 0.0, 1.0]])
    camera = Camera(matrix, np.zeros(5))
    return make_scene(faces, rows, height, camera, draw_obscuring(random), gaze, random, augmented=True)


def tile_side(height: float) -> int:
    """The side, px, of the tiles for faces whose boxes are `height` px high."""
    return math.ceil(TILE * height / GRID) * GRID


def make_scene(
    faces: ReadFaces,
    rows: NDArray[np.intp],
    height: float,
    camera: Camera,
    obscuring: Obscuring,
    gaze: Gaze | None,
    random: np.random.Generator,
    augmented: bool,
) -> Scene:
    """Faces `rows`, their boxes about `height` px high."""
    side = tile_side(height)
    covered, masks, attributes, vectors, meshes = [], [], [], [], []
    for row in rows:
        image, own, mesh = _moved(faces, int(row), height, side, random, augmented)
        own, vector = _looking(own, mesh, gaze, camera)
        if vector is None:  # landmarks that fit no head
            continue
        hidden, mask = _hidden(image, own.box, obscuring, random)
        covered.append(hidden)
        masks.append(mask)
        attributes.append(own)
        vectors.append(vector)
        if mesh is not None:
            meshes.append(mesh)
    return Scene(covered, np.stack(masks), attributes, np.stack(vectors), camera, np.stack(meshes) if meshes else None)


def _moved(
    faces: ReadFaces, row: int, height: float, side: int, random: np.random.Generator, augmented: bool
) -> tuple[Image, Attributes, Array | None]:
    """One picture on a tile, with its attributes and its mesh."""
    image, box = faces.images[row], faces.boxes[row]
    mesh = None if faces.meshes is None else faces.meshes[row].copy()
    landmarks, angle = faces.landmarks[row].copy(), faces.gaze_angles[row].copy()
    scale = np.full(2, height / (box[3] - box[1]))
    mirrored = False
    jitter = np.zeros(2)
    if augmented:
        scale *= np.exp(random.uniform(-0.08, 0.08))
        jitter = random.uniform(-0.04, 0.04, 2) * side
    if augmented and mesh is None:
        scale *= np.exp(random.uniform(-0.06, 0.06) * np.array([1.0, -1.0]))
        mirrored = bool(random.random() < 0.5)
        landmarks = _expressed(landmarks, random)
    if mirrored:
        scale[0] = -scale[0]
    middle = (box[:2] + box[2:]) / 2
    # a head's region reaches higher above the box than below it
    shift = np.array([0.5, 0.56]) * side + jitter - scale * middle
    corners = np.stack([box[:2], box[2:]]) * scale + shift
    box = np.concatenate([corners.min(axis=0), corners.max(axis=0)])
    landmarks = (landmarks + 0.5) * scale + shift - 0.5
    if mirrored:
        landmarks = landmarks[FLIP]
        angle[1] = -angle[1]
    if mesh is not None:
        mesh = np.concatenate([(mesh[:, :2] + 0.5) * scale + shift - 0.5, mesh[:, 2:] * scale[0]], axis=1)
    elif augmented:
        angle = _turned(angle, random)
        box = box + random.normal(0.0, BOX_TURN, 4) * np.tile(box[2:] - box[:2], 2)
    warp = np.array([[scale[0], 0.0, shift[0]], [0.0, scale[1], shift[1]]])
    warp[:, 2] += 0.5 * (scale - 1.0)  # matrices are of pixel centres
    border = (cv2.BORDER_REPLICATE, cv2.BORDER_REFLECT_101)[int(random.integers(2))]
    area = cv2.INTER_AREA if abs(scale[0]) < 1.0 else cv2.INTER_LINEAR
    tile = cv2.warpAffine(image, warp, (side, side), flags=area, borderMode=border)
    if augmented:
        tile = _lit(tile.astype(np.uint8), random)
    followed = augmented and mesh is not None and bool(random.random() < FOLLOWED)
    return tile.astype(np.uint8), Attributes(box, landmarks, angle, followed), mesh


def _expressed(landmarks: Array, random: np.random.Generator) -> Array:
    """Eyes closed some of the way in a fifth of the faces, the mouth opened or closed in another."""
    changed = landmarks.copy()
    if random.random() < 0.2:
        share = random.uniform(0.05, 0.9)
        for corner, other, lids in ((36, 39, (37, 38, 40, 41)), (42, 45, (43, 44, 46, 47))):
            _flatten(changed, corner, other, lids, share)
    if random.random() < 0.2:
        share = random.uniform(0.3, 2.0)
        _flatten(changed, 60, 64, (61, 62, 63, 65, 66, 67), share)
    return changed


def _flatten(points: Array, first: int, last: int, others: tuple[int, ...], share: float) -> None:
    """Scale the distance of `others` from the line through two points by `share`, in place."""
    axis = points[last] - points[first]
    normal = np.array([-axis[1], axis[0]]) / max(float(np.linalg.norm(axis)), 1e-6)
    for index in others:
        distance = float((points[index] - points[first]) @ normal)
        points[index] -= (1.0 - share) * distance * normal


def _turned(angle: Array, random: np.random.Generator) -> Array:
    """Pitch and yaw (2,), turned at random."""
    if random.random() < ANYWHERE:
        return random.uniform(-1.0, 1.0, 2) * GAZE_RANGE
    return angle + random.normal(0.0, GAZE_TURN, 2)


def _lit(image: Image, random: np.random.Generator) -> Image:
    """Other light: grey in a quarter of the pictures, contrast, brightness, colour."""
    values = image.astype(np.float32)
    if random.random() < 0.25:
        values = np.repeat(values.mean(axis=2, keepdims=True), 3, axis=2)
    gain = np.exp(random.normal(0.0, 0.25) + random.normal(0.0, 0.06, 3))
    lit: Image = np.clip(values * gain + random.normal(0.0, 15.0), 0, 255).astype(np.uint8)
    return lit


def _hidden(
    image: Image, box: Array, obscuring: Obscuring, random: np.random.Generator
) -> tuple[Image, NDArray[np.bool_]]:
    """The picture with its head obscured as in the middle of a track, and where a perturbation may be."""
    height, width = image.shape[:2]
    size = (box[2:] - box[:2]) * random.uniform(1.0, 1.25)
    grown = (box[2:] - box[:2]) * random.uniform(0.0, 0.06, 2)
    wide = np.concatenate([box[:2] - grown, box[2:] + grown])
    start = wide + np.tile(random.uniform(-0.5, 0.5, 2) * size, 2)
    covers = [[CoverBox(0, one, (float(size[0]), float(size[1])))] for one in (start, wide)]
    regions = plan_regions(covers, obscuring, height, width)[1]
    mask = region_mask(regions, height, width) & head_mask(box, height, width)
    return obscure(image, regions, obscuring), mask


def _looking(own: Attributes, mesh: Array | None, gaze: Gaze | None, camera: Camera) -> tuple[Attributes, Array | None]:
    """The attributes, and the gaze (3,) in the camera's frame; None where the landmarks fit no head.

    The gaze of irises follows from the mesh.
    """
    assert own.landmarks is not None
    assert own.gaze_angle is not None
    if gaze is None:
        return own, np.array([0.0, 0.0, -1.0])
    if isinstance(gaze, NormalizedGaze):
        views = gaze.views(own.landmarks, camera)
        return own, None if views is None else views.reference.T @ angles_to_vector(own.gaze_angle)
    face = eye_geometry(own.landmarks, camera)
    if face is None or mesh is None:
        return own, None
    vector = gaze_from_irises(torch.from_numpy(mesh[None]), [face], camera)[0].numpy()
    return replace(own, gaze_angle=vector_to_angles(face.reference @ vector)), vector
