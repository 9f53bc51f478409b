"""Eyes as `gaze-compact` is trained on them: ball, iris, lids, shadows, lashes and a highlight."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Eye:
    """One eye to draw. Lengths in patch px, positions in patch px, colours RGB in [0, 1]."""

    ball: np.ndarray
    """(2,) centre of the eyeball."""
    gaze: np.ndarray
    """(3,) unit vector, patch frame."""
    ball_radius: float
    iris_radius: float
    pupil: float
    """Radius of the pupil in iris radii."""
    top: np.ndarray
    """(K, 2) upper lid from the image-left to the image-right corner, x increasing."""
    bottom: np.ndarray
    """(K, 2) lower lid."""
    inner_is_right: bool
    """Whether the inner corner is the image-right one (the person's right eye)."""


@dataclass(frozen=True)
class Look:
    """What both eyes of a face share."""

    sclera: np.ndarray
    iris: np.ndarray
    rim: float
    """How much darker the iris is at its edge, 0..1."""
    shadow: float
    """Darkness under the upper lid, 0..1."""
    shadow_depth: float
    """How far down that shadow reaches, px."""
    falloff: float
    """Darkening of the sclera towards its corners, 0..1."""
    highlight: float
    highlight_at: np.ndarray
    """(2,) offset from the iris centre, iris radii."""
    highlight_size: float
    """Iris radii."""
    lash: float
    """Darkness of the upper lash line, 0..1."""
    lash_width: float
    lower_lash: float
    crease: float
    crease_height: float
    """Distance of the lid's crease above the lid's edge, px."""
    softness: float
    """Half width of every edge, px."""


def _step(distance: np.ndarray, softness: float) -> np.ndarray:
    """A smooth step from 0 (distance << 0) to 1 (distance >> 0), `softness` px to each side."""
    t = np.clip(distance / (2 * softness) + 0.5, 0, 1)
    return np.asarray(t * t * (3 - 2 * t))


def draw_eye(image: np.ndarray, eye: Eye, look: Look) -> None:
    """Draw into `image`, (H, W, 3) uint8 RGB, in place."""
    left, right = eye.top[0, 0] - 8, eye.top[-1, 0] + 8
    upper = min(eye.top[:, 1].min(), eye.bottom[:, 1].min()) - 16
    lower = max(eye.bottom[:, 1].max(), eye.top[:, 1].max()) + 8
    x0, x1 = max(int(left), 0), min(int(right) + 1, image.shape[1])
    y0, y1 = max(int(upper), 0), min(int(lower) + 1, image.shape[0])
    if x1 - x0 < 4 or y1 - y0 < 4:
        return
    xs = np.arange(x0, x1, dtype=np.float32)
    ys = np.arange(y0, y1, dtype=np.float32)[:, None]
    region = image[y0:y1, x0:x1].astype(np.float32) / 255

    top = np.interp(xs, eye.top[:, 0], eye.top[:, 1]).astype(np.float32)
    bottom = np.interp(xs, eye.bottom[:, 0], eye.bottom[:, 1]).astype(np.float32)
    start, end = float(eye.top[0, 0]), float(eye.top[-1, 0])
    ends = _step(np.minimum(xs - start, end - xs), 1.0)
    below_top = (ys - top) / np.sqrt(1 + np.gradient(top) ** 2)
    above_bottom = (bottom - ys) / np.sqrt(1 + np.gradient(bottom) ** 2)
    opening = _step(below_top, look.softness) * _step(above_bottom, look.softness) * ends

    colour = _ball(eye, look, xs, ys)
    shadow = 1 - look.shadow * np.exp(-np.clip(below_top, 0, None) / look.shadow_depth)
    colour = colour * shadow[..., None]

    # Skin: the crease of the lid above, then the eye, then the lash lines over both.
    crease = look.crease * np.exp(-np.square((below_top + look.crease_height) / (1.2 + look.softness))) * ends
    region *= (1 - crease)[..., None]
    region += opening[..., None] * (colour - region)
    width = look.lash_width + 0.5 * look.softness
    lash = look.lash * np.exp(-np.square((below_top + 0.4 * width) / width))
    lower_lash = look.lower_lash * np.exp(-np.square(above_bottom / width))
    region *= 1 - (np.maximum(lash, lower_lash) * ends)[..., None]
    image[y0:y1, x0:x1] = np.clip(region * 255 + 0.5, 0, 255)


def _ball(eye: Eye, look: Look, xs: np.ndarray, ys: np.ndarray) -> np.ndarray:
    """The eyeball as if there were no lids: (h, w, 3) at columns `xs` (w,) and rows `ys` (h, 1), patch px."""
    start, end = float(eye.top[0, 0]), float(eye.top[-1, 0])
    # Sclera: darker towards the edge of the ball, pink at the inner corner, in the upper lid's shadow.
    ball_x, ball_y = eye.ball.tolist()
    away = (np.square(xs - ball_x) + np.square(ys - ball_y)) / eye.ball_radius**2
    shade = 1 - look.falloff * np.minimum(away, 1.6) / 1.6
    pink = 0.6 * np.exp(-np.square((xs - (end if eye.inner_is_right else start)) / (0.1 * (end - start))))
    white = look.sclera.astype(np.float32) * (1 - pink[:, None] * np.array([0.15, 0.5, 0.5], np.float32))
    colour = white * shade[..., None]

    # Iris: a disc on the ball, seen at an angle. (s, t) are iris radii along two directions in its plane.
    gx, _, gz = eye.gaze.tolist()
    centre = eye.ball + eye.gaze[:2] * np.sqrt(eye.ball_radius**2 - eye.iris_radius**2)
    horizontal = np.array([-gz, 0.0, gx]) / np.hypot(gx, gz)
    vertical = np.cross(eye.gaze, horizontal)
    basis = eye.iris_radius * np.stack([horizontal[:2], vertical[:2]], axis=1)
    (a, b), (c, d) = np.linalg.inv(basis).tolist()
    narrow = float(np.sqrt(abs(np.linalg.det(basis))))
    centre_x, centre_y = centre.tolist()
    dx, dy = xs - centre_x, ys - centre_y
    radius = np.sqrt(np.square(a * dx + b * dy) + np.square(c * dx + d * dy))
    disc = _step((1 - radius) * narrow, look.softness)[..., None]
    pupil = _step((eye.pupil - radius) * narrow, look.softness)
    texture = (1 - look.rim * np.square(np.square(np.minimum(radius, 1)))) * (1 - pupil)
    iris = look.iris.astype(np.float32) * texture[..., None] + 0.02 * pupil[..., None]
    colour = colour + disc * (iris - colour)
    spot_x, spot_y = (centre + look.highlight_at * eye.iris_radius).tolist()
    size = look.highlight_size * eye.iris_radius
    spot = look.highlight * np.exp(-(np.square(xs - spot_x) + np.square(ys - spot_y)) / size**2)
    return np.asarray(colour + spot[..., None] * (1 - colour))
