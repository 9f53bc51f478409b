"""Train `gaze-compact` on composites: ``python -m victims.compact.training.train_gaze SHARED --minutes 60``.

Every sample is drawn anew (face, gaze, eyes, light), on one core. The learning rate falls over the minutes
given, so a run ends well whatever the machine's speed. The moving average of the weights is written after each
round, whole or not at all.
"""

from __future__ import annotations

import argparse
import copy
import math
import os
import time
from pathlib import Path

import cv2
import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from victims.camera import angle_between_degrees, angles_to_vector
from victims.compact.gaze_net import GazeNet
from victims.compact.training.composite import FaceBank, compose, load_faces
from victims.compact.training.delivery import views

WEIGHTS = Path(__file__).resolve().parents[3] / "weights" / "bundled" / "gaze_compact.safetensors"
PEAK_RATE = 2e-3
AVERAGE = 0.998
BLOCKS = (2.5, 6.0)
"""Mosaic blocks across a patch: five across a head are about four across its patch."""
AGREEMENT = 1.0
"""Weight of the two views' difference beside their error."""
VALIDATION_SEED = 1


def draw_batch(bank: FaceBank, indices: np.ndarray, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    """Composites of the given faces: (N, 3, 224, 224) uint8 and (N, 2) radians."""
    drawn = [compose(bank, int(index), rng) for index in indices]
    patches = torch.from_numpy(np.stack([patch for patch, _ in drawn])).permute(0, 3, 1, 2)
    return patches, torch.from_numpy(np.stack([angles for _, angles in drawn])).float()


def read(network: nn.Module, patches: Tensor, batch: int = 64) -> np.ndarray:
    """(N, 3, 224, 224) uint8 -> (N, 2) radians."""
    network.eval()
    with torch.inference_mode():
        return np.concatenate([network(part.float() / 255).numpy() for part in patches.split(batch)])


def validation_set(folder: Path) -> tuple[Tensor, Tensor]:
    """One composite of every usable photograph of the 36 people kept apart, always the same."""
    bank = load_faces(folder, validation=True)
    return draw_batch(bank, np.arange(len(bank)), np.random.default_rng(VALIDATION_SEED))


def composite_errors(network: nn.Module, patches: Tensor, angles: Tensor) -> np.ndarray:
    """(N,) degrees between read and drawn gaze."""
    truth = angles_to_vector(angles.numpy())
    return angle_between_degrees(angles_to_vector(read(network, patches)), truth)


def save(network: nn.Module, path: Path) -> None:
    """Write the weights to `path`, whole or not at all."""
    temporary = path.with_suffix(".part")
    state = {key: value.contiguous() for key, value in network.state_dict().items()}
    save_file({key: value for key, value in state.items() if "num_batches" not in key}, temporary)
    os.replace(temporary, path)


def load(path: Path = WEIGHTS) -> GazeNet:
    """The network with weights from `path`, ready to read."""
    network = GazeNet()
    missing = network.load_state_dict(load_file(path), strict=False)
    if missing.unexpected_keys or any("num_batches" not in key for key in missing.missing_keys):
        raise ValueError(f"{path} does not hold weights of this network")
    return network.eval()


def gaze_loss(angles: Tensor, truth: Tensor) -> Tensor:
    """Of (N, 2) radians: linear, and quadratic below 6 degrees."""
    return nn.functional.smooth_l1_loss(angles, truth, beta=0.1)


def train(folder: Path, minutes: float, output: Path, batch: int, start: Path | None, rate: float) -> None:
    """Train for `minutes` and leave the averaged weights in `output`."""
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    bank = load_faces(folder / "data", validation=False)
    patches, angles = validation_set(folder / "data")
    guess = angle_between_degrees(
        angles_to_vector(angles.numpy().mean(axis=0)), angles_to_vector(angles.numpy())
    ).mean()
    network = load(start) if start else GazeNet()
    network.to(memory_format=torch.channels_last)
    averaged = copy.deepcopy(network).eval()
    print(
        f"{len(bank)} faces to train on, {len(patches)} to judge by; a constant guess errs by {guess:.1f} deg; "
        f"{sum(p.numel() for p in network.parameters())} parameters",
        flush=True,
    )
    optimizer = torch.optim.AdamW(network.parameters(), lr=rate, weight_decay=0.01)
    begin, step, order = time.monotonic(), 0, np.empty(0, np.int64)
    losses: list[float] = []
    next_report = 2.0
    random = torch.Generator().manual_seed(0)
    while (done := (time.monotonic() - begin) / 60 / minutes) < 1:
        if len(order) < batch // 2:
            order = np.concatenate([order, rng.permutation(len(bank))])
        indices, order = order[: batch // 2], order[batch // 2 :]
        images, truth = draw_batch(bank, indices, rng)
        for group in optimizer.param_groups:
            group["lr"] = rate * min((step + 1) / 100, 0.5 * (1 + math.cos(math.pi * done)) + 0.005)
        network.train()
        seen = views(images.float() / 255, BLOCKS, random).contiguous(memory_format=torch.channels_last)
        plain, faint = network(seen).chunk(2)
        loss = gaze_loss(plain, truth) + gaze_loss(faint, truth) + AGREEMENT * gaze_loss(faint, plain)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        step += 1
        losses.append(loss.item())
        with torch.no_grad():
            keep = min(AVERAGE, (1 + step) / (10 + step))
            for mine, theirs in zip(averaged.state_dict().values(), network.state_dict().values(), strict=True):
                if mine.dtype.is_floating_point:
                    mine.lerp_(theirs, 1 - keep)
        if done * minutes >= next_report:
            next_report += 4.0
            errors = composite_errors(averaged, patches, angles)
            save(averaged, output)
            print(
                f"{done * minutes:5.1f} min  {step * (batch // 2):7d} samples  loss {np.mean(losses[-200:]):.4f}  "
                f"composites {errors.mean():.2f} deg (median {np.median(errors):.2f})",
                flush=True,
            )
    save(averaged, output)
    errors = composite_errors(averaged, patches, angles)
    print(f"{step * (batch // 2)} samples; composites {errors.mean():.2f} deg (median {np.median(errors):.2f})")


def main() -> None:
    """Run the command that the module describes."""
    parser = argparse.ArgumentParser(description="Train gaze-compact on composited eyes.")
    parser.add_argument("shared", type=Path, help="the shared folder, with data/faces68.tar")
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--rate", type=float, default=PEAK_RATE)
    parser.add_argument("--start", type=Path, help="weights to go on from")
    parser.add_argument("--output", type=Path, default=WEIGHTS)
    arguments = parser.parse_args()
    train(
        arguments.shared,
        arguments.minutes,
        arguments.output,
        arguments.batch,
        arguments.start,
        arguments.rate,
    )


if __name__ == "__main__":
    main()
