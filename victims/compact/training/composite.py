"""Faces with rendered eyes whose gaze is known exactly, for training and judging `gaze-compact`.

A photograph gives the face: its 68 landmarks give the head pose and the normalised 224x224 patch (ETH-XGaze's
normalisation). The photographed eyes are filled with skin, and new ones drawn in their place: an eyeball behind
the eye plane, its iris where a gaze drawn at random puts it, lids that follow the gaze loosely, shadows,
lashes, a highlight. Edges are drawn with a soft step of known width instead of supersampling.

Sizes of the eye are in millimetres and come from anatomy: eyeball radius 12, iris radius 5.9, palpebral fissure
about 28 wide, upper lid 4 above and lower lid 5.4 below the pupil's centre when looking straight ahead, which is
1.6 above the line between the corners (the template's own lids lie 5.4 above and 2.3 below that line).

Frames: "head" is the template's (x to the right of the image, y down, z into the head), "patch" the normalised
camera's. Patches are RGB.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from victims.base import Image
from victims.camera import (
    NORMALIZATIONS,
    Camera,
    angles_to_vector,
    euler_angles,
    normalize_view,
    solve_head_pose,
    vector_to_angles,
)
from victims.compact.training.eyes import Eye, Look, draw_eye
from victims.compact.training.faces68 import load_faces68
from victims.face_model import FACE_MODEL_68

SPEC = NORMALIZATIONS["eth-xgaze"]
SIDE = SPEC.size[0]
PX_PER_MM = SPEC.focal / SPEC.distance / 1000
"""1.6 patch px to the millimetre at the face."""

EYES = (tuple(range(36, 42)), tuple(range(42, 48)))
"""Landmarks of the person's right and left eye: image-left corner, two above, image-right corner, two below."""

CLOSING_TURN = np.radians(18.0)
"""How far down eyes turn, on average, as they close: in a blink by a few degrees, looking down by more."""

MAX_HEAD_ANGLE = 45.0
"""Faces turned further (pitch or yaw, degrees) show one eye only or none and are left out."""


@dataclass(frozen=True)
class FaceBank:
    """Normalised photographs, ready to have eyes drawn into them."""

    patches: np.ndarray
    """(N, 224, 224, 3) uint8 RGB."""
    blank: np.ndarray
    """(N, 224, 224, 3) uint8: the same with skin where the eyes were."""
    landmarks: np.ndarray
    """(N, 68, 2) float32, patch px."""
    head: np.ndarray
    """(N, 3, 3) head -> patch rotation."""
    identity: np.ndarray
    """(N,) which person."""

    def __len__(self) -> int:
        return len(self.patches)


def _fill_eyes(patch: np.ndarray, landmarks: np.ndarray) -> np.ndarray:
    """The patch with both eyes replaced by a blend of the skin around them."""
    hole = np.zeros((SIDE, SIDE), np.float32)
    for eye in EYES:
        points = landmarks[list(eye)]
        middle = points.mean(axis=0)
        half_width = max(np.ptp(points[:, 0]) / 2, 18.0) + 6.0
        half_height = max(np.ptp(points[:, 1]) / 2, 7.0) + 4.0
        brows = landmarks[17:22] if eye[0] == 36 else landmarks[22:27]
        half_height = min(half_height, max(middle[1] - brows[:, 1].max() - 3.0, 8.0))
        cv2.ellipse(hole, (middle.tolist(), (2 * half_width, 2 * half_height), 0.0), 1.0, -1)
    rest = cv2.dilate(hole, np.ones((5, 5)))
    rest = 1 - rest
    weight = cv2.GaussianBlur(rest, (0, 0), 9.0)[..., None] + 1e-4
    fill = cv2.GaussianBlur(patch * rest[..., None], (0, 0), 9.0) / weight
    blend = cv2.GaussianBlur(hole, (0, 0), 2.0)[..., None]
    return np.clip(patch * (1 - blend) + fill * blend + 0.5, 0, 255).astype(np.uint8)


def load_faces(folder: Path, *, validation: bool, seed: int = 0) -> FaceBank:
    """faces68 as normalised patches: the validation people, or all the others.

    The photographs are crops, so their focal length is not known: one is drawn that puts the head 0.6 to 1.3 m away,
    as a camera facing a person sees it. Raises InputError where `folder` does not hold the set.
    """
    faces = load_faces68(folder)
    rows = np.flatnonzero(faces.is_validation == validation)
    distances = np.random.default_rng(seed).uniform(0.6, 1.3, len(rows))
    patches, blanks, points, heads, people = [], [], [], [], []
    for row, distance in zip(rows.tolist(), distances.tolist(), strict=True):
        image, landmarks = faces.images[row], faces.landmarks[row]
        height, width = image.shape[:2]
        # The landmarks' box measures about the template's 0.14 m across the jaw.
        focal = distance * np.sqrt(np.prod(np.ptp(landmarks, axis=0))) / 0.14
        camera = Camera(np.array([[focal, 0, width / 2], [0, focal, height / 2], [0, 0, 1.0]]), np.zeros(5))
        view = normalize_view(solve_head_pose(landmarks, camera), SPEC, camera)
        if np.abs(euler_angles(view.head_rotation)[:2]).max() > MAX_HEAD_ANGLE:
            continue
        patch: Image = cv2.warpPerspective(
            image, view.warp, SPEC.size, flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE
        ).astype(np.uint8)
        seen = cv2.perspectiveTransform(landmarks.reshape(-1, 1, 2), view.warp).reshape(-1, 2)
        patches.append(patch)
        blanks.append(_fill_eyes(patch, seen))
        points.append(seen.astype(np.float32))
        heads.append(view.head_rotation)
        people.append(faces.identity[row])
    return FaceBank(np.stack(patches), np.stack(blanks), np.stack(points), np.stack(heads), np.array(people))


_PROFILE = np.linspace(-1, 1, 17)


def _lids(
    middle: np.ndarray,
    half: np.ndarray,
    head: np.ndarray,
    upper: float,
    lower: float,
    power: float,
    skew: float,
) -> tuple[np.ndarray, np.ndarray]:
    """Lid curves in patch px: half-axis `half` (2,) px around `middle`, `upper` and `lower` mm above and below.

    The lids lie on the ball, so their middle is nearer to the camera than the corners: with a turned head that
    moves it sideways.
    """
    skewed = np.clip(_PROFILE + skew * (1 - _PROFILE**2), -1, 1)
    profile = (1 - skewed**2) ** power
    bulge = 4.0 * (1 - _PROFILE**2)
    line = middle + _PROFILE[:, None] * half - (bulge[:, None] * head[:2, 2]) * PX_PER_MM
    up = -head[:2, 1] * PX_PER_MM
    curves = [line + (height * profile)[:, None] * up for height in (upper, -lower)]
    for curve in curves:
        curve[:, 0] = np.maximum.accumulate(curve[:, 0] + 1e-3 * np.arange(len(curve)))
    return curves[0], curves[1]


def _photographed_lids(points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Lid curves through the six landmarks of an eye, (6, 2) patch px."""
    curves = []
    for order in ((0, 1, 2, 3), (0, 5, 4, 3)):
        nodes = points[list(order)].astype(np.float64)
        at = np.concatenate([[0], np.cumsum(np.linalg.norm(np.diff(nodes, axis=0), axis=1) + 1e-3)])
        cubic = [np.polyfit(at, nodes[:, k], 3) for k in (0, 1)]
        along = np.linspace(0, at[-1], len(_PROFILE))
        curve = np.stack([np.polyval(c, along) for c in cubic], axis=1)
        curve[:, 0] = np.maximum.accumulate(curve[:, 0] + 1e-3 * np.arange(len(curve)))
        curves.append(curve)
    return curves[0], curves[1]


def draw_look(rng: np.random.Generator, skin: np.ndarray) -> Look:
    """Colours and shading for a face whose skin around the eyes is `skin` (3,) RGB in [0, 1]."""
    light = float(skin.mean())
    white = np.clip(light * rng.uniform(0.85, 1.7), 0.12, 0.97)
    tint = 1 + 0.35 * (skin / max(light, 0.05) - 1) * rng.uniform(0, 1) + rng.normal(0, 0.02, 3)
    hues = np.array([[0.36, 0.22, 0.12], [0.25, 0.16, 0.10], [0.45, 0.52, 0.60], [0.40, 0.42, 0.28], [0.4, 0.4, 0.4]])
    hue = hues[rng.choice(len(hues), p=[0.4, 0.35, 0.1, 0.08, 0.07])]
    return Look(
        sclera=np.clip(white * tint, 0.05, 1),
        iris=np.clip(hue * rng.uniform(0.25, 1.6) * np.clip(white, 0.25, 1), 0.01, 0.8),
        rim=rng.uniform(0, 0.6),
        shadow=rng.uniform(0, 0.65),
        shadow_depth=rng.uniform(1.0, 6.0),
        falloff=rng.uniform(0.05, 0.6),
        highlight=rng.uniform(0, 1) * (rng.random() < 0.7),
        highlight_at=rng.normal(0, 0.35, 2) + np.array([0, -0.15]),
        highlight_size=rng.uniform(0.1, 0.35),
        lash=rng.uniform(0, 0.9),
        lash_width=rng.uniform(0.5, 3.0),
        lower_lash=rng.uniform(0, 0.45),
        crease=rng.uniform(0, 0.35),
        crease_height=rng.uniform(3.0, 9.0),
        softness=float(np.exp(rng.uniform(np.log(0.6), np.log(3.0)))),
    )


def draw_gaze(rng: np.random.Generator) -> np.ndarray:
    """(2,) radians: a gaze relative to the head, half near straight ahead, half anywhere in +-30, +-40."""
    if rng.random() < 0.5:
        angles = rng.normal(0, [11.0, 14.0])
    else:
        angles = rng.uniform([-30.0, -40.0], [30.0, 40.0])
    return np.radians(np.clip(angles, [-35.0, -45.0], [35.0, 45.0]))


def compose(bank: FaceBank, index: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """A face with new eyes: patch (224, 224, 3) uint8 RGB and the gaze (pitch, yaw) in radians, patch frame.

    The virtual camera is jittered as noise in the landmarks would jitter it (turned by up to a few degrees of
    roll and shifted by some px), and the label turns with it.
    """
    photographed = rng.random() < 0.25
    source = bank.patches[index] if photographed else bank.blank[index]
    flip = rng.random() < 0.5
    roll, zoom, shift = np.radians(rng.normal(0, 2.0)), np.exp(rng.normal(0, 0.035)), rng.normal(0, 3.0, 2)
    cos, sin = np.cos(roll), np.sin(roll)
    turn = np.array([[cos, -sin, 0], [sin, cos, 0], [0, 0, 1.0]])
    centre = np.array([(SIDE - 1) / 2, (SIDE - 1) / 2])
    linear = zoom * turn[:2, :2]
    affine = np.concatenate([linear, (centre + shift - linear @ centre)[:, None]], axis=1)
    image = cv2.warpAffine(source, affine, SPEC.size, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    landmarks = bank.landmarks[index] @ affine[:, :2].T + affine[:, 2]
    head = turn @ bank.head[index]

    relative = draw_gaze(rng)
    closing = rng.uniform(0.2, 0.95) if rng.random() < 0.25 and not photographed else 0.0
    relative[0] -= closing * CLOSING_TURN * rng.uniform(0.5, 1.5)
    if photographed:
        relative[0] *= 0.5  # these lids do not follow the gaze
    gaze_head = angles_to_vector(relative)
    distance = 1000 / rng.uniform(0.2, 2.5)  # mm; where both eyes meet
    box = landmarks[36:48]
    around = image[
        max(int(box[:, 1].min()) - 6, 0) : int(box[:, 1].max()) + 18,
        max(int(box[:, 0].min()) - 4, 0) : int(box[:, 0].max()) + 4,
    ]
    look = draw_look(rng, around.reshape(-1, 3).mean(axis=0) / 255 if around.size else np.full(3, 0.5))

    scale = float(zoom * PX_PER_MM)
    ball_radius, iris_radius = rng.normal(12.0, 0.4), rng.triangular(5.2, 5.9, 6.6)
    # Of the centre of rotation behind the line between the corners: 13.5 behind the cornea's apex, which stands 16
    # before the orbital rim (Hertel); the corners lie some 8 behind it, in some people more and in some less.
    depth = rng.normal(5.0, 1.5)
    offset = rng.normal([0.0, -1.6], [0.5, 0.9])  # of the ball from the line between the corners; mm, head x, y
    pupil = rng.uniform(0.25, 0.6)
    pitch = relative[0]
    rise = 10.5 * np.sin(pitch)  # of the pupil, mm
    upper = rng.normal(4.0, 1.1) + rng.uniform(0.45, 1.0) * rise
    lower = rng.normal(5.4, 0.8) - rng.uniform(0.1, 0.5) * rise
    upper = max(upper, -lower + 1.0)
    upper -= closing * (upper + lower)
    width, power, skew = rng.uniform(0.95, 1.3), rng.uniform(0.55, 1.0), rng.normal(0, 0.15)
    slant = rng.normal(0.0, 0.06)

    for side, eye in enumerate(EYES):
        points = landmarks[list(eye)]
        middle = (points[0] + points[3]) / 2
        corners = (FACE_MODEL_68[eye[3]] - FACE_MODEL_68[eye[0]]) * 1000 / 2
        corners[1] += (slant if side else -slant) * corners[0]
        half = (head @ corners)[:2] * scale * width
        if photographed:
            top, bottom = _photographed_lids(points)
        else:
            heights = (upper - offset[1], lower + offset[1])  # from the line of the corners
            top, bottom = _lids(middle, half, head, *heights, power, -skew if side else skew)
        mirror = -1 if side else 1
        ball_head = np.array([mirror * offset[0], offset[1], depth])
        ball = middle + (head @ ball_head)[:2] * scale
        eye_at = FACE_MODEL_68[[eye[0], eye[3]]].mean(axis=0) * 1000
        eyes_at = FACE_MODEL_68[[36, 39, 42, 45]].mean(axis=0) * 1000
        aim = gaze_head * distance - (eye_at - eyes_at)
        aim = aim / np.linalg.norm(aim)
        draw_eye(
            image,
            Eye(ball, head @ aim, ball_radius * scale, iris_radius * scale, pupil, top, bottom, side == 0),
            look,
        )
    patch = degrade(image, rng)
    angles = vector_to_angles(head @ gaze_head)
    if flip:
        patch, angles = np.ascontiguousarray(patch[:, ::-1]), angles * np.array([1.0, -1.0])
    return patch, angles


def degrade(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A camera's view of `image`: light, colour, detail, noise and JPEG. (224, 224, 3) uint8 -> the same."""
    if rng.random() < 0.3:
        # Light from one side.
        direction, strength = rng.uniform(0, 2 * np.pi), rng.uniform(0, 0.35)
        ramp = np.linspace(-strength, strength, SIDE, dtype=np.float32)
        field = 1 + np.float32(np.cos(direction)) * ramp[None, :] + np.float32(np.sin(direction)) * ramp[:, None]
        image = cv2.multiply(image, np.repeat(field[..., None], 3, axis=2), dtype=cv2.CV_8U)
    gain = np.exp(rng.normal(0, 0.25)) * np.exp(rng.normal(0, 0.05, 3))
    contrast, gamma = np.exp(rng.normal(0, [0.2, 0.2]))
    middle = image[::4, ::4].mean() / 255
    levels = np.clip((np.arange(256) / 255 - middle) * contrast + middle, 0, 1) ** gamma
    table = np.clip(levels[:, None] * gain * 255 + 0.5, 0, 255).astype(np.uint8)
    image = cv2.LUT(image, table.reshape(1, 256, 3))
    if rng.random() < 0.5:
        side = int(SIDE / np.exp(rng.uniform(0, np.log(3.5))))
        small = cv2.resize(image, (side, side), interpolation=cv2.INTER_AREA)
        back = cv2.INTER_CUBIC if rng.random() < 0.5 else cv2.INTER_LINEAR
        image = cv2.resize(small, SPEC.size, interpolation=back)
    elif rng.random() < 0.4:
        image = cv2.GaussianBlur(image, (0, 0), rng.uniform(0.4, 2.0))
    if rng.random() < 0.6:
        noise: np.ndarray = rng.standard_normal((SIDE, SIDE), dtype=np.float32) * np.float32(rng.uniform(0, 7))
        if rng.random() < 0.5:
            noise = 2 * cv2.GaussianBlur(noise, (0, 0), rng.uniform(0.5, 1.5))
        image = cv2.add(image, cv2.merge([noise] * 3), dtype=cv2.CV_8U)
    if rng.random() < 0.4:
        coded = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(35, 96))])[1]
        image = np.asarray(cv2.imdecode(coded, cv2.IMREAD_COLOR))
    return image
