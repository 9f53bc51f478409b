"""Which gradient through histogram equalisation recovers MPIIGaze's reading best?

    python -m tests.benchmarks.gaze_equalize SHARED [--steps 40] [--step 0.5]

Real weights, five frames of talking_720p.mp4 whose head (200 x 220 px) is pixelated to 5 x 5 blocks, to 15 px blocks,
or made solid; Adam within 8/255 of that, pixels rounded to 8 bit in the loop. Prints the mean over frames of the best
angle so far, degrees, for the rank gradient that `victims.equalize` has and for the straight-through one.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any
from unittest import mock

import av
import cv2
import numpy as np
import torch
from torch import Tensor

from victims import equalize
from victims.base import Image, Window, to_pixels
from victims.camera import Camera, HeadPose
from victims.face_model import FACE_MODEL_68
from victims.gaze import NormalizedGaze, load_gaze

# RetinaFace's five points (eyes, nose, mouth corners) by frame.
FIVE_POINTS = {
    40: [(380.8, 176.4), (446.1, 177.8), (410.4, 214.2), (380.5, 235.3), (446.3, 236.4)],
    120: [(421.6, 179.4), (489.3, 189.2), (454.2, 224.7), (415.9, 244.2), (476.2, 252.6)],
    200: [(363.6, 242.1), (428.3, 249.4), (392.5, 280.7), (361.6, 307.0), (415.7, 313.3)],
    280: [(391.0, 202.1), (456.1, 200.6), (426.1, 238.9), (397.8, 268.7), (451.4, 267.3)],
    360: [(421.8, 179.6), (490.7, 187.6), (452.1, 220.8), (415.6, 236.7), (484.8, 243.4)],
}
CAMERA = Camera.default(1280, 720)
WIDTH, HEIGHT = 200, 220


class _StraightThrough(equalize._Equalize):
    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return gradient


def landmarks_on(points: list[tuple[float, float]]) -> np.ndarray:
    """The template laid on five points, (68, 2) px."""
    eyes = [FACE_MODEL_68[[36, 39]].mean(axis=0), FACE_MODEL_68[[42, 45]].mean(axis=0)]
    model = np.stack([*eyes, FACE_MODEL_68[30], FACE_MODEL_68[48], FACE_MODEL_68[54]])
    start: Any = {"rvec": np.zeros(3), "tvec": np.array([0.0, 0.0, 1.0]), "useExtrinsicGuess": True}
    _, turn, shift = cv2.solvePnP(model, np.array(points), CAMERA.matrix, None, **start)
    pose = HeadPose(cv2.Rodrigues(turn)[0], shift.ravel())
    projected = pose.points(tuple(range(68))) @ CAMERA.matrix.T
    return projected[:, :2] / projected[:, 2:]


def obscured(part: Image, kind: str) -> np.ndarray:
    if kind == "solid":
        return np.broadcast_to(part.mean(axis=(0, 1)).astype(np.uint8), part.shape)
    blocks = (5, 5) if kind == "pixelate 5x5" else (WIDTH // 15, HEIGHT // 15)
    return cv2.resize(cv2.resize(part, blocks, interpolation=cv2.INTER_AREA), (WIDTH, HEIGHT), interpolation=0)


def best_so_far(victim: NormalizedGaze, frames: list[Image], kind: str, steps: int, step: float) -> np.ndarray:
    """(steps + 1,) degrees, mean over the frames."""
    landmarks = np.stack([landmarks_on(points) for points in FIVE_POINTS.values()])
    read = victim.estimate(frames, [face[None] for face in landmarks], CAMERA)
    windows = [Window(int(f[27, 0]) - WIDTH // 2, int(f[27, 1]) - HEIGHT // 2, WIDTH, HEIGHT) for f in landmarks]
    objective = victim.objective(frames, windows, landmarks, np.concatenate([gaze for gaze, _ in read]), CAMERA)
    pixels = to_pixels([obscured(w.cut(f), kind).astype(np.uint8) for w, f in zip(windows, frames, strict=True)])
    delta = torch.zeros_like(pixels, requires_grad=True)
    optimiser = torch.optim.Adam([delta], lr=step / 255)
    errors = []
    for _ in range(steps + 1):
        seen = (pixels + delta).clamp(0, 1)
        seen = seen + ((seen * 255).round() / 255 - seen).detach()
        reading = objective.read(seen, range(len(frames)))
        errors.append(reading.error.numpy())
        (gradient,) = torch.autograd.grad(reading.loss.sum(), delta)
        delta.grad = gradient / gradient.abs().mean(dim=(1, 2, 3), keepdim=True).clamp(min=1e-20)
        optimiser.step()
        with torch.no_grad():
            delta.clamp_(-8 / 255, 8 / 255)
    return np.minimum.accumulate(errors, axis=0).mean(axis=1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("shared", type=Path)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--step", type=float, default=0.5, help="Adam's learning rate, 1/255")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    frames: list[Image] = []
    with av.open(str(arguments.shared / "data" / "talking_720p.mp4")) as container:
        for index, frame in enumerate(container.decode(video=0)):
            if index in FIVE_POINTS:
                frames.append(frame.to_ndarray(format="rgb24").astype(np.uint8))
            if len(frames) == len(FIVE_POINTS):
                break
    victim = load_gaze("mpiigaze", arguments.shared / "weights" / "mpiigaze_resnet_preact.pth")
    marks = [mark for mark in (0, 5, 10, 20, 30, 40, 80) if mark <= arguments.steps]
    print("steps:", *marks)
    for kind in ("pixelate 5x5", "pixelate 15 px", "solid"):
        for name, function in (("rank", equalize._Equalize), ("straight-through", _StraightThrough)):
            with mock.patch.object(equalize, "_Equalize", function):
                errors = best_so_far(victim, frames, kind, arguments.steps, arguments.step)
            print(f"{kind:15} {name:17}", *(f"{errors[mark]:6.2f}" for mark in marks), flush=True)


if __name__ == "__main__":
    main()
