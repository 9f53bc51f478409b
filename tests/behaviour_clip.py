"""A clip whose blinks and glances are known: the demo's portrait with eyes drawn into it.

The photographed eyes are filled with skin and new ones drawn as `victims.compact.training.eyes` draws them: the lids
close at known times, and the irises turn to known directions in the camera frame. The head moves a little, as in the
demo.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from skimage import data

from drsf_cli.measure.agreement import cohens_kappa, match_glances, match_times, ratio
from drsf_cli.measure.behaviour import WITHIN
from drsf_cli.measure.glances import Glance as KnownGlance
from drsf_cli.measure.signals import Signals
from drsf_cli.media.demo_clip import demo_frames, portrait_to_clip, write_frames
from victims.camera import angles_to_vector
from victims.compact.training.eyes import Eye, Look, draw_eye

DETAIL = 3
"""Px of the drawn portrait to one of the photograph."""
CORNERS = (((192.9, 100.4), (213.3, 104.0)), ((237.3, 105.1), (258.7, 104.0)))
"""Image-left and image-right corner of the person's right and left eye, px of the photograph, marked by hand."""
MM = DETAIL * 21.0 / 28.0
"""Px of the drawn portrait to 1 mm: a palpebral fissure is about 28 mm wide."""
FACE_CENTER = (225.0, 125.0)
"""Px of the photograph: the ray to this point is the axis that the eyes are drawn along."""
CLOSING, SHUT, OPENING = 0.08, 0.08, 0.12
"""Seconds of a blink."""
SACCADE = 0.04
"""Seconds that the eyes take from one direction to the next."""
ROAD = (0.0, 18.0)
ZONES = {
    "left": (-34.0, 8.0),
    "right": (34.0, -8.0),
    "mirror": (33.0, 20.0),
    "cluster": (0.0, -6.0),
    "lap": (4.0, -27.0),
}
"""Yaw and pitch in the camera frame, degrees, well within the zones of a dashboard camera, left-hand drive."""


@dataclass(frozen=True)
class Glance:
    """Away from the road: from the start of the saccade there to the start of the saccade back, s."""

    start: float
    end: float
    zone: str


@dataclass(frozen=True)
class Behaviour:
    """What the person in the clip does."""

    seconds: float
    blinks: tuple[float, ...]
    """Middle of each blink's closed phase, s."""
    glances: tuple[Glance, ...]

    def until(self, seconds: float) -> Behaviour:
        """The first seconds of it; a blink or a glance that they cut is left out."""
        blinks = tuple(middle for middle in self.blinks if middle + SHUT / 2 + OPENING <= seconds)
        return Behaviour(seconds, blinks, tuple(glance for glance in self.glances if glance.end + SACCADE <= seconds))

    def closing(self, time: float) -> float:
        """0 open to 1 shut."""
        share = 0.0
        for middle in self.blinks:
            start = middle - SHUT / 2 - CLOSING
            share = max(
                share, np.interp(time - start, [0, CLOSING, CLOSING + SHUT, CLOSING + SHUT + OPENING], [0, 1, 1, 0])
            )
        return float(share)

    def gaze(self, time: float) -> tuple[float, float]:
        """Yaw and pitch in the camera frame, degrees."""
        for glance in self.glances:
            there = min((time - glance.start) / SACCADE, 1 - (time - glance.end) / SACCADE, 1.0)
            if there > 0:
                road, target = np.array(ROAD), np.array(ZONES[glance.zone])
                yaw, pitch = road + there * (target - road)
                return float(yaw), float(pitch)
        return ROAD

    def zone(self, time: float) -> str:
        return next((glance.zone for glance in self.glances if glance.start < time <= glance.end), "road")


TWENTY_SECONDS = Behaviour(
    20.0,
    (0.6, 2.1, 3.4, 4.9, 6.9, 8.3, 10.7, 12.3, 13.6, 15.9, 17.7, 19.4),
    (
        Glance(1.0, 1.8, "mirror"),
        Glance(2.5, 3.1, "left"),
        Glance(3.8, 4.6, "cluster"),
        Glance(5.4, 6.5, "right"),
        Glance(8.8, 11.2, "lap"),
        Glance(12.8, 13.3, "cluster"),
        Glance(14.2, 15.5, "left"),
        Glance(16.3, 17.4, "right"),
    ),
)
"""12 blinks, one of them within a glance, and 8 glances, one of them over 2 s."""

_LOOK = Look(
    sclera=np.array([0.80, 0.74, 0.70]),
    iris=np.array([0.22, 0.14, 0.09]),
    rim=0.4,
    shadow=0.35,
    shadow_depth=3.0,
    falloff=0.25,
    highlight=0.6,
    highlight_at=np.array([0.2, -0.3]),
    highlight_size=0.2,
    lash=0.6,
    lash_width=1.6,
    lower_lash=0.2,
    crease=0.2,
    crease_height=5.0,
    softness=1.5,
)
_PROFILE = np.linspace(-1, 1, 33)


def _blank() -> NDArray[np.uint8]:
    """The portrait, DETAIL times as large, with skin where the eyes were."""
    portrait = data.astronaut()
    big = cv2.resize(portrait, None, fx=DETAIL, fy=DETAIL, interpolation=cv2.INTER_CUBIC)
    hole = np.zeros(big.shape[:2], np.float32)
    for left, right in CORNERS:
        middle = (np.array(left) + right) / 2 * DETAIL + (DETAIL - 1) / 2
        width = (right[0] - left[0]) * DETAIL
        cv2.ellipse(hole, (middle.tolist(), (1.25 * width, 0.75 * width), 0.0), 1.0, -1)
    around = slice(60 * DETAIL, 160 * DETAIL)
    part, own = big[around].astype(np.float32), hole[around]
    rest = 1 - cv2.dilate(own, np.ones((9, 9)))
    weight = cv2.GaussianBlur(rest, (0, 0), 16.0)[..., None] + 1e-4
    fill = cv2.GaussianBlur(part * rest[..., None], (0, 0), 16.0) / weight
    blend = cv2.GaussianBlur(own, (0, 0), 4.0)[..., None]
    big[around] = np.clip(part * (1 - blend) + fill * blend + 0.5, 0, 255)
    return np.asarray(big, np.uint8)


def _view(size: tuple[int, int]) -> NDArray[np.float64]:
    """(3, 3) rotation, camera frame -> the frame whose z axis is the ray to the face, of the field's default camera."""
    scale, *center = portrait_to_clip(size)
    offset = (np.array(FACE_CENTER) - center) / scale
    z = np.array([*(offset / size[0]), 1.0])
    z /= np.linalg.norm(z)
    y = np.cross(z, [1.0, 0.0, 0.0])
    y /= np.linalg.norm(y)
    return np.stack([np.cross(y, z), y, z])


def draw_eyes(blank: NDArray[np.uint8], gaze: NDArray[np.float64], closing: float) -> NDArray[np.uint8]:
    """`blank` with eyes that look along `gaze`, a unit vector in the frame of `_view`; `closing` is 0 to 1."""
    image = blank.copy()
    rise = 10.5 * -gaze[1]  # of the pupil, mm; the lids follow it in part
    upper, lower = 5.6 + 0.55 * rise, 3.8 - 0.25 * rise  # mm from the line of the corners
    upper -= closing * (upper + lower)
    profile = (1 - _PROFILE**2) ** 0.75
    for side, corners in enumerate(CORNERS):
        left, right = (np.array(corner) * DETAIL + (DETAIL - 1) / 2 for corner in corners)
        line = (left + right) / 2 + _PROFILE[:, None] * (right - left) / 2
        top, bottom = (line - np.stack([np.zeros(33), height * MM * profile], axis=1) for height in (upper, -lower))
        ball = (left + right) / 2 + np.array([0.0, -1.0]) * MM
        draw_eye(image, Eye(ball, gaze, 12.0 * MM, 5.9 * MM, 0.4, top, bottom, side == 0), _LOOK)
    return image


def behaviour_frames(behaviour: Behaviour, fps: float = 25.0, size: tuple[int, int] = (640, 480), motion: float = 0.3):
    """Frames (height, width, 3) uint8 RGB of the clip."""
    blank, view = _blank(), _view(size)

    def portrait(time: float) -> NDArray[np.uint8]:
        yaw, pitch = behaviour.gaze(time)
        return draw_eyes(blank, view @ angles_to_vector(np.radians([pitch, yaw])), behaviour.closing(time))

    return demo_frames(behaviour.seconds, fps, size, portrait=portrait, motion=motion)


def make_behaviour_clip(
    path: Path, behaviour: Behaviour = TWENTY_SECONDS, fps: float = 25.0, size: tuple[int, int] = (640, 480)
) -> Path:
    """Write the clip, H.264 as the demo's; returns its path."""
    frames = behaviour_frames(behaviour, fps, size)
    return write_frames(path, frames, behaviour.seconds, fps, size, codec="h264", crf=18, overwrite=False)


def against_truth(table: Signals, truth: Behaviour) -> dict[str, float]:
    """How well signals of the clip's reading tell what the person does.

    F1 of blinks (middles within 100 ms) and of glances (same zone, overlapping), the median difference of the glances'
    durations in s, and kappa of the frames' zones; NaN where there is nothing to compare.
    """
    blinks = match_times(truth.blinks, [blink.middle for blink in table.blinks], WITHIN)
    wanted = [KnownGlance(0, 0, one.start, one.end, one.zone) for one in truth.glances]
    glances = match_glances(wanted, table.glances)
    names = table.zones.names
    confusion = np.zeros((len(names), len(names)))
    for time, zone in zip(table.time_s, table.zone, strict=True):
        if zone is not None:
            confusion[names.index(truth.zone(time)), names.index(zone)] += 1
    return {
        "blinks_f1": float(ratio(2 * len(blinks), len(truth.blinks) + len(table.blinks))),
        "glances_f1": float(ratio(2 * len(glances), len(wanted) + len(table.glances))),
        "glance_difference_s": float(np.median([abs(a.duration - b.duration) for a, b in glances] or [np.nan])),
        "zones_kappa": float(cohens_kappa(confusion)),
    }
