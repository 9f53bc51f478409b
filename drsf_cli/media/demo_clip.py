"""A few seconds of "driver-facing" video made from one public-domain portrait.

The portrait is `skimage.data.astronaut()`: Eileen Collins, photographed by NASA, in the public domain, and part of
scikit-image's wheel, so that nothing is downloaded. The head moves and turns in front of its surroundings, as in a car.
This is a backward warp: inside an ellipse around the head, the displacement is that of a rigid head, including the
parallax of an ellipsoid's depth; outside, it fades with distance, so that the frame's borders do not move. The light
changes as on a road with trees, and sensor noise is added. The same arguments give the same frames.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from math import pi
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from skimage import data

from drsf_cli.media.probe import VideoInfo
from drsf_cli.media.writer import VideoWriter, encoder_settings
from weights.errors import UsageError

_PORTRAIT_SIDE = 512
# Measured in the portrait, px: the head from hair to chin, and how far the nose lies in front of the ears.
_HEAD_CENTER = (224.0, 108.0)
_HEAD_RADII = (62.0, 86.0)
_HEAD_DEPTH = 60.0
_REACH = 2.1
"""Radius, in head radii, at which nothing moves any more."""
_VIEW_CENTER_X = 232.0
_VIEW_HEIGHT = 300.0
"""What a 4:3 frame shows of the portrait; the face (87 px wide) then has 0.29 of the frame's height."""
_VIEW_WIDTHS = (225.0, 430.0)
"""A narrow frame shows at least the head with room to move; a wide one no more than the portrait has."""
_NOISE = 1.5
"""Standard deviation of the sensor's noise, of 255."""


@dataclass(frozen=True)
class _Pose:
    """Where the head is at one moment."""

    shift: tuple[float, float]
    """x, y; px of the portrait."""
    yaw: float
    """rad; > 0 turns the nose to the right of the image."""
    pitch: float
    """rad; > 0 turns the nose down."""
    roll: float
    """rad; > 0 is clockwise in the image."""
    zoom: float


def _pose(phase: float, motion: float) -> _Pose:
    """The head at `phase` cycles (1.0 is two seconds) of slowly nodding and looking around; `motion` scales it."""
    angle = 2 * pi * phase
    return _Pose(
        shift=(motion * 7.0 * np.sin(angle), motion * 4.0 * np.sin(1.7 * angle + 0.4)),
        yaw=motion * np.radians(9.0) * np.sin(0.8 * angle + 0.2),
        pitch=motion * np.radians(4.0) * np.sin(1.3 * angle + 1.0),
        roll=motion * np.radians(2.5) * np.sin(0.6 * angle),
        zoom=1.0 + motion * 0.03 * np.sin(0.5 * angle),
    )


def _displacement(
    x: NDArray[np.float32], y: NDArray[np.float32], pose: _Pose
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """How far the head's pixels at (x, y) of the portrait have moved, px; (h, w) each."""
    dx, dy = x - _HEAD_CENTER[0], y - _HEAD_CENTER[1]
    radius = np.sqrt((dx / _HEAD_RADII[0]) ** 2 + (dy / _HEAD_RADII[1]) ** 2)
    fade = np.clip((_REACH - radius) / (_REACH - 1.0), 0.0, 1.0)
    rigid = fade * fade * (3 - 2 * fade)
    # cos² instead of an ellipsoid's square root: it has no edge at the head's outline, where pixels would tear.
    depth = _HEAD_DEPTH * np.cos(np.clip(radius / 1.25, 0.0, 1.0) * (pi / 2)) ** 2
    cos, sin = pose.zoom * np.cos(pose.roll), pose.zoom * np.sin(pose.roll)
    turned_x = cos * np.cos(pose.yaw) * dx - sin * dy - dx
    turned_y = sin * dx + cos * np.cos(pose.pitch) * dy - dy
    return (
        rigid * (turned_x + pose.shift[0]) + depth * np.sin(pose.yaw),
        rigid * (turned_y + pose.shift[1]) + depth * np.sin(pose.pitch),
    )


def _light(phase: float, width: int, height: int) -> NDArray[np.float32]:
    """(height, width, 1) factor: the scene's gain times a soft gradient that wanders around the frame."""
    angle = 2 * pi * phase
    gain = 1.0 + 0.10 * np.sin(0.9 * angle + 0.5)
    across = np.linspace(-1, 1, width, dtype=np.float32)[None, :]
    down = np.linspace(-1, 1, height, dtype=np.float32)[:, None]
    slope = 0.12 * np.sin(0.7 * angle)
    return np.asarray(gain * (1 + slope * (np.cos(angle / 3) * across + np.sin(angle / 3) * down)), np.float32)[
        ..., None
    ]


def make_demo_clip(
    path: str | Path,
    seconds: float = 3.0,
    fps: float = 25.0,
    size: tuple[int, int] = (640, 480),
    seed: int = 0,
    *,
    codec: str = "h264",
    crf: int = 18,
    overwrite: bool = False,
) -> Path:
    """Write the clip of `demo_frames` to `path` (.mp4; .mkv for the lossless codecs); returns the path.

    The codec is set a little finer than the default for results, as a camera's own would be. Raises UsageError and
    OutputError as `drsf_cli.media.writer.VideoWriter`.
    """
    frames = demo_frames(seconds, fps, size, seed)
    return write_frames(path, frames, seconds, fps, size, codec=codec, crf=crf, overwrite=overwrite)


def write_frames(
    path: str | Path,
    frames: Iterable[NDArray[np.uint8]],
    seconds: float,
    fps: float,
    size: tuple[int, int],
    *,
    codec: str,
    crf: int,
    overwrite: bool,
) -> Path:
    """Write drawn frames, (height, width, 3) uint8 RGB of `size` (width, height), as `make_demo_clip` does."""
    rate = Fraction(fps).limit_denominator(1001)
    info = VideoInfo(
        path=Path("skimage.data.astronaut"),
        kind="video",
        width=size[0],
        height=size[1],
        time_base=1 / rate,
        average_rate=rate,
        frame_count=round(seconds * fps),
        duration=seconds,
    )
    with VideoWriter(path, info, encoder_settings(info, codec, crf), overwrite=overwrite) as writer:
        for index, frame in enumerate(frames):
            writer.write(frame, index, 1)
        return writer.publish()


def demo_frames(
    seconds: float = 3.0,
    fps: float = 25.0,
    size: tuple[int, int] = (640, 480),
    seed: int = 0,
    portrait: Callable[[float], NDArray[np.uint8]] | None = None,
    motion: float = 1.0,
) -> Iterator[NDArray[np.uint8]]:
    """The clip's frames, uint8 RGB (height, width, 3), one at a time.

    `size` is (width, height) px; the face is 140 px wide in 640x480. `seed` fixes the noise. `portrait` gives the
    picture at a time in seconds, the astronaut at any whole multiple of its size; `motion` scales how far the head
    moves. Raises UsageError for a clip without frames or smaller than 64 px.
    """
    width, height = size
    count = round(seconds * fps)
    if count < 1 or fps <= 0:
        raise UsageError(f"A demo clip of {seconds:g} s at {fps:g} frames/s has no frame; ask for more.")
    if min(width, height) < 64:
        raise UsageError(f"A demo clip of {width}x{height} px is too small for a face; 64x64 is the least.")
    still = data.astronaut()
    scale, center_x, center_y = portrait_to_clip(size)
    across = center_x + (np.arange(width) - (width - 1) / 2) * scale
    down = center_y + (np.arange(height) - (height - 1) / 2) * scale
    x, y = np.meshgrid(across.astype(np.float32), down.astype(np.float32))

    def drawn(index: int) -> NDArray[np.uint8]:
        phase = index / fps / 2.0
        dx, dy = _displacement(x, y, _pose(phase, motion))
        picture = still if portrait is None else portrait(index / fps)
        detail = picture.shape[0] / _PORTRAIT_SIDE
        # Backward: what is seen here came from there. Beyond the portrait's border it is mirrored, never black.
        frame = cv2.remap(
            picture,
            (detail * (x - dx) + (detail - 1) / 2).astype(np.float32),
            (detail * (y - dy) + (detail - 1) / 2).astype(np.float32),
            cv2.INTER_CUBIC,
            borderMode=cv2.BORDER_REFLECT_101,
        )
        noise = np.random.default_rng((seed, index)).standard_normal(frame.shape, dtype=np.float32) * _NOISE
        lit: NDArray[np.float32] = frame.astype(np.float32) * _light(phase, width, height) + noise
        return np.clip(np.rint(lit), 0, 255).astype(np.uint8)

    return map(drawn, range(count))


def portrait_to_clip(size: tuple[int, int]) -> tuple[float, float, float]:
    """Portrait px to one px of a clip of `size` (width, height), and the x and y of the portrait at its centre."""
    width, height = size
    scale = min(max(_VIEW_HEIGHT / height, _VIEW_WIDTHS[0] / width), _VIEW_WIDTHS[1] / width)
    return scale, _VIEW_CENTER_X, 58.0 + 0.28 * scale * height  # the hair stays in frames of any shape
