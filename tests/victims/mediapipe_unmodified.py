"""An unmodified MediaPipe in an environment of its own, since it needs other versions of numpy and protobuf than ours,
and how its readings of two clips agree."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from victims.face import Array

VERSION = "0.10.21"
VIDEO_READER = Path(__file__).with_name("mediapipe_video.py")


class EnvironmentMissingError(Exception):
    """It cannot be made here; the message says why."""


def client_python(folder: Path) -> Path:
    """Python of the environment in `folder`, which is made where it is not there yet. Raises EnvironmentMissingError
    where packages cannot be had."""
    python, ready = folder / "bin" / "python", folder / "ready"
    if not ready.is_file():
        steps = (
            [sys.executable, "-m", "venv", "--clear", str(folder)],
            [str(python), "-m", "pip", "install", "--quiet", f"mediapipe=={VERSION}"],
            [str(python), "-c", "import mediapipe"],
        )
        for step in steps:
            done = subprocess.run(step, capture_output=True, text=True, check=False)
            if done.returncode:
                last = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
                raise EnvironmentMissingError(f"mediapipe {VERSION} cannot be installed here ({last})")
        ready.touch()
    return python


def read_video(python: Path, clip: Path, answers: Path, seconds: float | None = None) -> dict[str, Array]:
    """What the client reads of a clip: `static` and `video`, see mediapipe_video.py. `answers` is the file that it
    writes."""
    command = [str(python), str(VIDEO_READER), str(clip), str(answers), *([] if seconds is None else [str(seconds)])]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"the client failed on {clip}: {done.stderr[-2000:]}")
    with np.load(answers) as read:
        return {name: read[name] for name in read.files}


RIGHT_EYE, LEFT_EYE = (33, 160, 158, 133, 153, 144), (362, 385, 387, 263, 373, 380)
MOUTH = (13, 14, 78, 308)
IRISES = (slice(468, 473), slice(473, 478))
SHUT, AROUND = 0.65, 1.0
"""An eye is shut under this share of the median of so many seconds on either side."""


def openness(meshes: Array) -> tuple[Array, Array]:
    """Eye aspect ratio, the mean of both eyes, and mouth aspect ratio (n,) of meshes (n, 478, 3)."""

    def apart(one: int, other: int) -> Array:
        return np.asarray(np.linalg.norm(meshes[:, one, :2] - meshes[:, other, :2], axis=1))

    eyes = [(apart(p[1], p[5]) + apart(p[2], p[4])) / (2 * apart(p[0], p[3])) for p in (RIGHT_EYE, LEFT_EYE)]
    return np.mean(eyes, axis=0), apart(*MOUTH[:2]) / apart(*MOUTH[2:])


def closures(eyes: Array, rate: float) -> list[tuple[int, int]]:
    """First and last frame of each time that eyes (n,) of a clip with `rate` frames a second are shut."""
    reach = round(AROUND * rate)
    usual = np.array([np.nanmedian(eyes[max(0, k - reach) : k + reach + 1]) for k in range(len(eyes))])
    shut = np.flatnonzero(eyes < SHUT * usual)
    runs = np.split(shut, np.flatnonzero(np.diff(shut) > 1) + 1)
    return [(int(run[0]), int(run[-1])) for run in runs if len(run)]


@dataclass(frozen=True)
class ClientFigures:
    """How a reading of a clip agrees with that of the original."""

    found_before: int
    """Frames with a face in the original ..."""
    found: int
    """... and in the other."""
    nme: Array
    """(k,) of the frames in which both have one: mean distance of the 478 points over sqrt(w·h) of their own box, %."""
    irises: Array
    """(k,) mean distance of the iris points, px."""
    eyes: float
    """Correlation of the eye aspect ratio."""
    eyes_off: float
    """Its mean absolute difference."""
    mouth: float
    """Correlation of the mouth aspect ratio."""
    mouth_off: float


def compare(original: Array, other: Array) -> ClientFigures:
    """Meshes (n, 478, 3) of two clips, NaN where no face was found."""
    seen, seen_now = np.isfinite(original[:, 0, 0]), np.isfinite(other[:, 0, 0])
    both = seen & seen_now
    one, two = original[both], other[both]
    away = np.linalg.norm((one - two)[..., :2], axis=2)
    size = np.sqrt(np.prod(np.ptp(one[..., :2], axis=1), axis=1)) if both.any() else np.ones(0)
    irises = np.mean([away[:, iris].mean(axis=1) for iris in IRISES], axis=0)
    (eyes, mouth), (eyes_now, mouth_now) = openness(one), openness(two)
    correlated = [
        float(np.corrcoef(a, b)[0, 1]) if both.sum() > 2 else float("nan")
        for a, b in ((eyes, eyes_now), (mouth, mouth_now))
    ]
    off = [
        float(np.abs(a - b).mean()) if both.any() else float("nan") for a, b in ((eyes, eyes_now), (mouth, mouth_now))
    ]
    return ClientFigures(
        int(seen.sum()),
        int(seen_now.sum()),
        100.0 * away.mean(axis=1) / size,
        irises,
        correlated[0],
        off[0],
        correlated[1],
        off[1],
    )
