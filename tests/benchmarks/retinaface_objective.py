"""How well RetinaFace's own objective brings the box back, by itself, without an engine or a codec.

    python -m tests.benchmarks.retinaface_objective [--steps N] [--eps N]

On frames of both clips and a portrait: the head of one face as 5 x 5 flat blocks, plain Adam on a perturbation of the
head's pixels from zero, the best iterate by the objective's own error, rounded to uint8, and then the whole frame read.
Prints, for each, the faces found when only obscured and the IoU of the recovered box after 10, 20 and N steps.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import av
import cv2
import numpy as np
import torch

from tests.benchmarks.main_job import SHARED
from victims.base import Image, Window
from victims.boxes import iou
from victims.face import Array
from victims.retinaface import RetinaFace, load_retinaface

FRAMES = {"talking_720p.mp4": (30, 150, 300), "street_1080p_audio.mp4": (20, 80)}


def images(data: Path) -> list[tuple[str, Image]]:
    found: list[tuple[str, Image]] = []
    for clip, indices in FRAMES.items():
        with av.open(str(data / clip)) as container:
            for index, frame in zip(range(max(indices) + 1), container.decode(video=0), strict=False):
                if index in indices:
                    found.append((f"{clip} {index}", np.asarray(frame.to_ndarray(format="rgb24"), dtype=np.uint8)))
    portrait = cv2.imread(str(data / "aflw-test.jpg"))
    assert portrait is not None
    return [*found, ("aflw-test.jpg", np.ascontiguousarray(portrait[..., ::-1], dtype=np.uint8))]


def head_of(box: Array, height: int, width: int) -> tuple[int, int, int, int]:
    """x1, y1, x2, y2 of the whole head around a face's box, whole px."""
    w, h = box[2:] - box[:2]
    low = np.maximum(0, box[:2] - np.array([0.25 * w, 0.35 * h]))
    high = np.minimum(np.array([width, height]), box[2:] + np.array([0.25 * w, 0.15 * h]))
    return int(low[0]), int(low[1]), int(high[0]), int(high[1])


def recover(victim: RetinaFace, image: Image, eps: float, steps: list[int]) -> tuple[int, list[float]]:
    """Faces lost by obscuring, and the recovered IoU after each of `steps`."""
    (found,) = victim.detect([image])
    box = found.boxes[0]
    x1, y1, x2, y2 = head_of(box, *image.shape[:2])
    covered = image.copy()
    coarse = cv2.resize(image[y1:y2, x1:x2], (5, 5), interpolation=cv2.INTER_AREA)
    covered[y1:y2, x1:x2] = cv2.resize(coarse, (x2 - x1, y2 - y1), interpolation=cv2.INTER_NEAREST)
    x, y = x1 // 32 * 32, y1 // 32 * 32
    right, bottom = min(image.shape[1], -(-x2 // 32) * 32), min(image.shape[0], -(-y2 // 32) * 32)
    window = Window(x, y, right - x, bottom - y)
    base = torch.from_numpy(window.cut(covered).transpose(2, 0, 1).copy())[None].float() / 255
    mask = torch.zeros_like(base)
    mask[..., y1 - y : y2 - y, x1 - x : x2 - x] = 1
    objective = victim.objective([covered], [window], box[None])
    delta = torch.zeros_like(base, requires_grad=True)
    optimiser = torch.optim.Adam([delta], lr=eps / 6)
    best, error, overlaps = base, np.inf, []
    for step in range(max(steps) + 1):
        if step in steps:
            written = covered.copy()
            window.cut(written)[:] = (best[0].permute(1, 2, 0) * 255).round().byte().numpy()
            (now,) = victim.detect([written])
            near = now.boxes[iou(now.boxes, box) > 0.1]
            largest = near[np.argmax(np.prod(near[:, 2:] - near[:, :2], axis=1))] if len(near) else np.zeros(4)
            overlaps.append(float(iou(largest, box)))
        pixels = (base + delta * mask).clamp(0, 1)
        reading = objective.read(pixels, [0])
        if float(reading.error[0]) < error:
            best, error = pixels.detach(), float(reading.error[0])
        optimiser.zero_grad()
        reading.loss.sum().backward()
        optimiser.step()
        with torch.no_grad():
            delta.clamp_(-eps, eps)
    return len(found) - len(victim.detect([covered])[0]), overlaps


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--eps", type=float, default=24, help="of 255")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    victim = load_retinaface("retinaface", SHARED / "weights" / "retinaface_mobilenet0.25.pth")
    steps = sorted({10, 20, arguments.steps})
    rows = []
    for name, image in images(SHARED / "data"):
        lost, overlaps = recover(victim, image, arguments.eps / 255, steps)
        rows.append(overlaps)
        print(f"{name:26} faces lost {lost}  IoU {'  '.join(f'{value:.3f}' for value in overlaps)}", flush=True)
    print(f"steps {steps}: mean IoU {np.mean(rows, axis=0).round(4)}, smallest {np.min(rows, axis=0).round(3)}")


if __name__ == "__main__":
    main()
