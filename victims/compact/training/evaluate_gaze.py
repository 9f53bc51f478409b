"""Measure `gaze-compact`: ``python -m victims.compact.training.evaluate_gaze SHARED``.

Three things are measured:

- the angle between read and drawn gaze on composites of the 36 people of faces68 kept out of training;
- mirrored faces: how far the answer is from the mirrored answer;
- a real clip, talking_720p.mp4, against MPIIGaze's real weights, which took no part in training: correlations of
  yaw and pitch, of the gaze itself and of the gaze less the head's direction, all in the normalised face view.

Boxes of the clip are `mtcnn`'s and landmarks `fan-compact`'s; the person followed is the one whose box is nearest
to the one before, beginning with the first frame's largest. Frames without a face count under "missed" only.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import av
import cv2
import numpy as np
import torch
from torch import Tensor, nn

from victims.base import Image
from victims.camera import (
    NORMALIZATIONS,
    Camera,
    angle_between_degrees,
    angles_to_vector,
    normalize_view,
    solve_head_pose,
    vector_to_angles,
)
from victims.compact.training.train_gaze import WEIGHTS, composite_errors, load, read, validation_set
from victims.face import Array
from victims.gaze import load_gaze
from victims.registry import load_aligner_named, load_detector

SPEC = NORMALIZATIONS["eth-xgaze"]


@dataclass(frozen=True)
class Clip:
    """One person in a clip; rows are frames in which the person was found."""

    landmarks: Array
    """(N, 68, 2) px."""
    patches: Tensor
    """(N, 3, 224, 224) uint8, the normalised face view."""
    rotations: Array
    """(N, 3, 3) camera -> normalised frame."""
    head: Array
    """(N, 2) radians: (pitch, yaw) of where the nose points, in the normalised frame, with the gaze's signs."""
    judge: Array
    """(N, 2) radians: MPIIGaze's gaze in the normalised frame."""
    missed: int


def flip_errors(network: nn.Module, patches: Tensor) -> np.ndarray:
    """(N,) degrees between the answer for a mirrored patch and the mirrored answer."""
    mirrored = read(network, patches.flip(3)) * np.array([1.0, -1.0])
    return angle_between_degrees(angles_to_vector(read(network, patches)), angles_to_vector(mirrored))


def read_frames(path: Path) -> list[Image]:
    """All frames of a clip, uint8 (H, W, 3) RGB."""
    with av.open(str(path)) as container:
        return [frame.to_ndarray(format="rgb24").astype(np.uint8) for frame in container.decode(video=0)]


def follow(frames: Sequence[Image], every: int) -> tuple[list[int], Array]:
    """The person followed, in every `every`-th frame: frame numbers (N) and landmarks (N, 68, 2) px."""
    detector, aligner = load_detector("mtcnn"), load_aligner_named("fan-compact", allow_unknown=True)
    rows, landmarks = [], []
    last: Array | None = None
    for row, frame in islice(enumerate(frames), 0, None, every):
        (found,) = detector.detect([frame])
        if not len(found):
            continue
        if last is None:
            chosen = found.boxes[np.prod(found.boxes[:, 2:] - found.boxes[:, :2], axis=1).argmax()]
        else:
            chosen = found.boxes[np.abs(found.boxes - last).sum(axis=1).argmin()]
            if np.abs(chosen - last).max() > chosen[3] - chosen[1]:
                continue
        last = chosen
        rows.append(row)
        landmarks.append(aligner.align([frame], [chosen[None]])[0][0])
    return rows, np.stack(landmarks)


def watch(path: Path, judge_weights: Path, every: int = 1, cache: Path | None = None) -> Clip:
    """Follow the person of a clip and ask the judge. `cache` keeps the landmarks."""
    frames = read_frames(path)
    if cache is not None and cache.is_file():
        with np.load(cache) as kept:
            rows, landmarks = kept["rows"].tolist(), kept["landmarks"]
    else:
        rows, landmarks = follow(frames, every)
        if cache is not None:
            np.savez(cache, rows=rows, landmarks=landmarks)
    height, width = frames[0].shape[:2]
    camera = Camera.default(width, height)
    judge = load_gaze("mpiigaze", judge_weights)
    patches, rotations, head, judged = [], [], [], []
    for row, points in zip(rows, landmarks, strict=True):
        view = normalize_view(solve_head_pose(points, camera), SPEC, camera)
        patches.append(cv2.warpPerspective(frames[row], view.warp, SPEC.size))
        rotations.append(view.rotation)
        head.append(vector_to_angles(-view.head_rotation[:, 2]))
        vectors, _ = judge.estimate([frames[row]], [points[None]], camera)[0]
        judged.append(vector_to_angles(view.rotation @ vectors[0]))
    stacked = torch.from_numpy(np.stack(patches)).permute(0, 3, 1, 2)
    return Clip(
        landmarks,
        stacked,
        np.stack(rotations),
        np.stack(head),
        np.stack(judged),
        len(range(0, len(frames), every)) - len(rows),
    )


def correlation(a: np.ndarray, b: np.ndarray) -> float:
    """Pearson's."""
    return float(np.corrcoef(a, b)[0, 1])


def main() -> None:
    """Run the command that the module describes."""
    parser = argparse.ArgumentParser(description="Measure gaze-compact on composites and on a real clip.")
    parser.add_argument("shared", type=Path, help="the shared folder, with data/ and weights/")
    parser.add_argument("--weights", type=Path, default=WEIGHTS)
    parser.add_argument("--every", type=int, default=1, help="look at every n-th frame of the clip only")
    parser.add_argument("--cache", type=Path, help="keep the clip's landmarks in this .npz")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    network = load(arguments.weights)

    patches, angles = validation_set(arguments.shared / "data")
    truth = angles_to_vector(angles.numpy())
    guess = angle_between_degrees(angles_to_vector(angles.numpy().mean(axis=0)), truth)
    errors = composite_errors(network, patches, angles)
    print(
        f"composites of {len(patches)} photographs of people not seen: mean {errors.mean():.2f} deg, median "
        f"{np.median(errors):.2f}, 95 % {np.percentile(errors, 95):.2f} (a constant guess: {guess.mean():.2f})"
    )
    print(f"mirrored composites: at most {flip_errors(network, patches).max():.4f} deg apart")

    clip = watch(
        arguments.shared / "data" / "talking_720p.mp4",
        arguments.shared / "weights" / "mpiigaze_resnet_preact.pth",
        arguments.every,
        arguments.cache,
    )
    ours = read(network, clip.patches)
    apart = angle_between_degrees(angles_to_vector(ours), angles_to_vector(clip.judge))
    print(
        f"talking_720p.mp4: {len(ours)} frames, {clip.missed} missed; mirrored at most "
        f"{flip_errors(network, clip.patches).max():.4f} deg apart; {apart.mean():.1f} deg from MPIIGaze on average"
    )
    for name, k in (("yaw", 1), ("pitch", 0)):
        print(
            f"  {name:5s} correlation with MPIIGaze {correlation(ours[:, k], clip.judge[:, k]):.3f}, less the head's "
            f"{correlation(ours[:, k] - clip.head[:, k], clip.judge[:, k] - clip.head[:, k]):.3f}; mean and deviation "
            f"{np.degrees(ours[:, k]).mean():.1f} {np.degrees(ours[:, k]).std():.1f} (MPIIGaze "
            f"{np.degrees(clip.judge[:, k]).mean():.1f} {np.degrees(clip.judge[:, k]).std():.1f}; head "
            f"{np.degrees(clip.head[:, k]).mean():.1f} {np.degrees(clip.head[:, k]).std():.1f})"
        )


if __name__ == "__main__":
    main()
