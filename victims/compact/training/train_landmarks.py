"""Train `fan-compact` on faces68, on CPU or GPU.

    python -m victims.compact.training.train_landmarks --data DIR --output FILE.safetensors

DIR holds faces68.tar and faces68_landmarks.npz. After every epoch the moving average of the weights, which is what
is used, is written to FILE; after every third its error on the people kept out of training is logged. One epoch
takes about 80 s on one free core.
"""

from __future__ import annotations

import argparse
import logging
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional

from victims.compact.averaging import MovingAverage
from victims.compact.landmark_net import (
    CROP_SIZE,
    HEATMAP_SIZE,
    SOFTMAX_GAIN,
    LandmarkNet,
    decode_heatmaps,
    windows_of_boxes,
)
from victims.compact.training.delivery import views
from victims.compact.training.evaluate_landmarks import ValidationSet, normalised_errors
from victims.compact.training.faces68 import Faces68, boxes_of_landmarks, detector_boxes, load_faces68
from victims.face import Array
from victims.face_model import FLIP
from victims.warp import crop_squares

log = logging.getLogger(__name__)

CACHE_SIZE = 192  # px side of the cached neighbourhood of a face ...
BLOCKS = (2.5, 7.0)  # mosaic blocks across a crop: five across a head are about four across its crop
CACHE_MARGIN = 1.5  # ... which is this many times as wide as the crop window: a cached pixel is a crop's pixel


@dataclass(frozen=True)
class Settings:
    """What a training run may be told; the defaults trained the bundled weights."""

    epochs: int = 45
    minutes: float = math.inf
    """The schedule is shortened to end by then; training stops after the epoch in which that happens."""
    batch: int = 32
    rate: float = 2e-3
    weight_decay: float = 0.02
    final_strength: float = 0.3
    """Of the augmentation at the end; it falls linearly from 1, towards pictures as they are."""
    warmup: int = 300
    """Steps."""
    ema: float = 0.995
    heatmap_weight: float = 0.02
    """Weight of the heatmaps' cross-entropy beside the coordinates' smooth L1."""
    heatmap_sigma: float = 1.0
    """Of the target Gaussian, in heatmap cells."""
    beta: float = 0.01
    """Where smooth L1 turns from square to linear, in crop sides."""
    agreement: float = 1.0
    """Weight of the difference between what is read from a photograph and from its obscured, faintly drawn copy."""


@dataclass(frozen=True)
class TrainingSet:
    """All training faces in memory, cut once; the crop of a step is cut from them with its own jitter."""

    pixels: Tensor
    """(N, 3, 192, 192) uint8 RGB: the neighbourhood of each face."""
    landmarks: Tensor
    """(N, 68, 2) in 0..1 of the neighbourhood."""
    centres: Tensor
    """(N, 2 sources, 2) centre of the crop window by the detector's box and by the landmarks' box, likewise."""
    sides: Tensor
    """(N, 2 sources) side of that window, likewise."""


def make_training_set(faces: Faces68, boxes: Array) -> TrainingSet:
    """Cut the neighbourhoods of the training people. `boxes` (M, 4): the detector's, NaN where it found none."""
    rows = np.flatnonzero(~faces.is_validation)
    landmarks = torch.from_numpy(faces.landmarks[rows])
    own = windows_of_boxes(boxes_of_landmarks(landmarks))
    detected = windows_of_boxes(torch.from_numpy(boxes[rows]))
    detected = torch.where(torch.isnan(detected), own, detected)
    centres = (own[:, :2] + own[:, 2:]) / 2
    halves = (own[:, 2:] - own[:, :2]) * (CACHE_MARGIN / 2)
    around = torch.cat((centres - halves, centres + halves), dim=1)
    pixels = torch.empty((len(rows), 3, CACHE_SIZE, CACHE_SIZE), dtype=torch.uint8)
    for place, row in enumerate(rows):
        image = torch.from_numpy(faces.images[row]).permute(2, 0, 1)[None].float()
        crop = crop_squares(image, around[place : place + 1].float(), CACHE_SIZE)
        pixels[place] = crop[0].round().clamp(0, 255).to(torch.uint8)
    origin, side = around[:, None, :2], 2 * halves[:, None, :1]
    windows = torch.stack((detected, own), dim=1)  # (N, 2, 4)
    return TrainingSet(
        pixels,
        ((landmarks + 0.5 - origin) / side).float(),
        (((windows[..., :2] + windows[..., 2:]) / 2 - origin) / side).float(),
        ((windows[..., 2] - windows[..., 0]) / side[..., 0]).float(),
    )


def augmented_batch(
    data: TrainingSet, rows: Tensor, random: torch.Generator, strength: float = 1.0
) -> tuple[Tensor, Tensor]:
    """Crops (n, 3, 128, 128) in [0, 1] and their landmarks (n, 68, 2) in 0..1, for faces `rows`, jittered anew.

    `strength` 1..0 scales the changes of light and angle and the share of faces that are blurred, covered, and so on;
    the crop's jitter in place and size, which is the detector's, stays.
    """
    count = len(rows)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=random).clamp(-2.5, 2.5)

    def some(share: float) -> Tensor:
        return torch.rand(count, generator=random) < share * strength

    def uniform(low: float, high: float, *shape: int) -> Tensor:
        return low + (high - low) * torch.rand(shape, generator=random)

    source = torch.randint(0, 2, (count,), generator=random)
    centre = data.centres[rows, source]
    side = data.sides[rows, source][:, None]
    centre = centre + 0.03 * side * normal(count, 2)
    angle = 0.15 * strength * normal(count)
    stretch = torch.exp(0.05 * normal(count, 1) + 0.02 * normal(count, 1) * torch.tensor((1.0, -1.0)))
    mirror = torch.where(torch.rand(count, generator=random) < 0.5, -1.0, 1.0)
    cos, sin = torch.cos(angle), torch.sin(angle)
    # A crop point u in -1..1 shows the cached point centre + frame @ u.
    rotation = torch.stack((torch.stack((cos, -sin), 1), torch.stack((sin, cos), 1)), 1)  # (n, 2, 2)
    axes = (side / 2) * stretch * torch.stack((mirror, torch.ones(count)), 1)
    frame = rotation * axes[:, None, :]
    # grid_sample's -1..1 spans a cached side of 1
    theta = torch.cat((2 * frame, (2 * centre - 1)[:, :, None]), dim=2)
    grid = functional.affine_grid(theta, [count, 3, CROP_SIZE, CROP_SIZE], align_corners=False)
    crops = functional.grid_sample(data.pixels[rows].float() / 255, grid, align_corners=False)
    points = torch.linalg.solve(frame[:, None], (data.landmarks[rows] - centre[:, None])[..., None])[..., 0]
    points = torch.where(mirror[:, None, None] < 0, points[:, torch.from_numpy(FLIP)], points)
    points = (points + 1) / 2

    # Light: gamma, contrast, brightness, colour cast, saturation.
    crops = crops.clamp(1e-4, 1) ** torch.exp(0.2 * strength * normal(count, 1, 1, 1))
    grey = crops.mean(dim=1, keepdim=True)
    crops = grey + (crops - grey) * uniform(1 - 0.8 * strength, 1 + 0.4 * strength, count, 1, 1, 1)
    gain = torch.exp(strength * (0.2 * normal(count, 1, 1, 1) + 0.06 * normal(count, 3, 1, 1)))
    crops = (crops * gain + 0.08 * strength * normal(count, 1, 1, 1)).clamp(0, 1)
    # Sharpness: some softer than the data (by way of fewer pixels), some sharper.
    soft = some(0.3)
    if soft.any():
        pixels = int(torch.randint(28, 97, (1,), generator=random))
        small = functional.interpolate(crops[soft], size=pixels, mode="bilinear", antialias=True)
        crops[soft] = functional.interpolate(small, size=CROP_SIZE, mode="bilinear")
    sharp = ~soft & some(0.4)
    if sharp.any():
        chosen = crops[sharp]
        blurred = functional.avg_pool2d(chosen, 3, 1, 1, count_include_pad=False)
        crops[sharp] = chosen + uniform(0.2, 1.5, len(chosen), 1, 1, 1) * (chosen - blurred)
    # Occlusion: a rectangle of another face of the batch, or of one colour.
    for item in torch.nonzero(some(0.35))[:, 0].tolist():
        width, height = (int(value) for value in uniform(0.1, 0.45, 2) * CROP_SIZE)
        left, top = (int(v * (CROP_SIZE - n)) for v, n in zip(uniform(0, 1, 2), (width, height), strict=True))
        other = int(torch.randint(0, count, (1,), generator=random))
        cover = crops[other, :, :height, :width].clone()
        if torch.rand(1, generator=random) < 0.5:
            cover = uniform(0, 1, 3, 1, 1).expand(3, height, width)
        crops[item, :, top : top + height, left : left + width] = cover
    noise = torch.where(some(0.3), uniform(0, 0.04, count), 0.0)
    crops = (crops + noise[:, None, None, None] * normal(*crops.shape)).clamp(0, 1)
    for item in torch.nonzero(some(0.2))[:, 0].tolist():
        image = (crops[item].permute(1, 2, 0).numpy() * 255).round().astype(np.uint8)
        quality = int(torch.randint(20, 81, (1,), generator=random))
        _, encoded = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, quality])
        crops[item] = torch.from_numpy(cv2.imdecode(encoded, cv2.IMREAD_COLOR)).permute(2, 0, 1) / 255.0
    return crops, points


def landmark_loss(heatmaps: Tensor, points: Tensor, settings: Settings) -> Tensor:
    """Smooth L1 of the decoded coordinates plus the maps' cross-entropy with a Gaussian at the landmark."""
    distance = functional.smooth_l1_loss(decode_heatmaps(heatmaps), points, beta=settings.beta)
    cells = torch.arange(HEATMAP_SIZE, device=points.device) + 0.5
    offsets = (points[..., None] * HEATMAP_SIZE - cells) / settings.heatmap_sigma  # (n, 68, 2, cells)
    profile = functional.softmax(-(offsets**2) / 2, dim=-1)
    target = profile[:, :, 1, :, None] * profile[:, :, 0, None, :]
    logarithm = functional.log_softmax((SOFTMAX_GAIN * heatmaps).flatten(2), dim=-1)
    entropy = -(target.flatten(2) * logarithm).sum(dim=-1).mean()
    return distance + settings.heatmap_weight * entropy


def save_weights(state: dict[str, Tensor], path: Path) -> None:
    """Write a state dict as safetensors; the file appears whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".part")
    save_file({name: value.cpu().contiguous() for name, value in state.items()}, partial)
    partial.replace(path)


def rate_factor(step: int, progress: float, warmup: int) -> float:
    """Cosine from 1 to 0 over progress 0..1, after a linear warm-up of that many steps."""
    return min((step + 1) / warmup, 0.5 * (1 + math.cos(math.pi * progress)) + 1e-3)


def batches(count: int, size: int, random: torch.Generator) -> Iterator[Tensor]:
    """Rows 0..count - 1 in random order, `size` at a time; those left over are dropped."""
    order = torch.randperm(count, generator=random)
    for start in range(0, count - size + 1, size):
        yield order[start : start + size]


def train(
    faces: Faces68,
    boxes: Array,
    output: Path,
    settings: Settings,
    device: torch.device,
    seed: int,
    start: Path | None = None,
) -> None:
    """Train from scratch, or from the weights in `start`.

    The averaged weights are left in `output` after every epoch.
    """
    torch.manual_seed(seed)
    random = torch.Generator().manual_seed(seed)
    data = make_training_set(faces, boxes)
    validation = ValidationSet.of(faces, boxes)
    log.info("%d faces to train on, %d to validate on", len(data.pixels), len(validation.targets))
    network = LandmarkNet()
    if start is not None:
        network.load_state_dict(load_file(start))
    network = network.to(device).to(memory_format=torch.channels_last)
    average = MovingAverage(network, settings.ema)
    decayed = [p for p in network.parameters() if p.ndim > 1]
    free = [p for p in network.parameters() if p.ndim <= 1]
    optimizer = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": settings.weight_decay}, {"params": free, "weight_decay": 0.0}],
        lr=settings.rate,
        fused=True,
    )
    steps = settings.epochs * (len(data.pixels) // (settings.batch // 2))
    judge = LandmarkNet().to(device).to(memory_format=torch.channels_last).eval()
    step, progress = 0, 0.0
    begun = time.monotonic()
    for epoch in range(1, settings.epochs + 1):
        started = time.monotonic()
        network.train()
        total, seen = 0.0, 0
        for rows in batches(len(data.pixels), settings.batch // 2, random):
            progress = max(step / steps, (time.monotonic() - begun) / 60 / settings.minutes)
            for group in optimizer.param_groups:
                group["lr"] = settings.rate * rate_factor(step, min(progress, 1.0), settings.warmup)
            step += 1
            crops, points = augmented_batch(data, rows, random, 1 - (1 - settings.final_strength) * min(progress, 1.0))
            both = views(crops, BLOCKS, random).to(device, memory_format=torch.channels_last)
            heatmaps = network(both)[0]
            loss = landmark_loss(heatmaps, points.repeat(2, 1, 1).to(device), settings)
            plain, faint = decode_heatmaps(heatmaps).chunk(2)
            loss = loss + settings.agreement * functional.smooth_l1_loss(faint, plain, beta=settings.beta)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            nn.utils.clip_grad_norm_(network.parameters(), 1.0)
            optimizer.step()
            average.update(network)
            total, seen = total + loss.item(), seen + 1
        save_weights(average.state, output)
        last = progress >= 1 or epoch == settings.epochs
        if epoch % 3 and not last:
            log.info("epoch %d: loss %.5f, %.0f s", epoch, total / seen, time.monotonic() - started)
            continue
        judge.load_state_dict(average.state)
        errors = {source: normalised_errors(judge, crops) for source, crops in validation.sources()}
        log.info(
            "epoch %d: loss %.5f, validation %s, %.0f s",
            epoch,
            total / seen,
            ", ".join(f"{100 * error.mean():.2f} % ({source})" for source, error in errors.items()),
            time.monotonic() - started,
        )
        if last:
            break


def main() -> None:
    """Run the command that the module describes."""
    parser = argparse.ArgumentParser(description="Train fan-compact on faces68.")
    parser.add_argument("--data", type=Path, required=True, help="folder with faces68.tar and its .npz")
    parser.add_argument("--output", type=Path, required=True, help="safetensors file to write")
    parser.add_argument("--boxes", type=Path, help=".npy that keeps MTCNN's boxes of the faces between runs")
    parser.add_argument("--epochs", type=int, default=Settings.epochs)
    parser.add_argument("--start", type=Path, help="weights to go on from, with a short warm-up")
    parser.add_argument("--minutes", type=float, default=Settings.minutes, help="shorten the schedule to fit")
    parser.add_argument("--rate", type=float, default=Settings.rate, help="highest learning rate")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    torch.set_num_threads(options.threads)
    faces = load_faces68(options.data)
    boxes = detector_boxes(faces, options.boxes)
    warmup = Settings.warmup if options.start is None else 50
    settings = Settings(epochs=options.epochs, minutes=options.minutes, rate=options.rate, warmup=warmup)
    train(faces, boxes, options.output, settings, torch.device(options.device), options.seed, options.start)


if __name__ == "__main__":
    main()
