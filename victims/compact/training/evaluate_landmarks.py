"""Measure `fan-compact` on the people of faces68 that no training saw.

    python -m victims.compact.training.evaluate_landmarks --data DIR --weights FILE.safetensors

The error of a face is the mean distance of its 68 points over sqrt(w * h) of the landmarks' bounding box. It is
measured on crops from MTCNN's boxes and on crops from the landmarks' own box.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor

from victims.base import Image
from victims.compact.landmark_net import (
    CROP_SIZE,
    LandmarkNet,
    decode_heatmaps,
    windows_of_boxes,
)
from victims.compact.training.faces68 import Faces68, boxes_of_landmarks, detector_boxes, load_faces68, points_in_image
from victims.face import Array
from victims.warp import crop_squares


@dataclass(frozen=True)
class Crops:
    """The validation faces, cropped from one source of boxes."""

    pixels: Tensor
    """(N, 3, 128, 128) RGB in [0, 1]."""
    windows: Tensor
    """(N, 4) xyxy px."""
    targets: Tensor
    """(N, 68, 2) px."""


@dataclass(frozen=True)
class ValidationSet:
    """Crops of the people kept out of training, in MTCNN's boxes and in those of their landmarks."""

    detector: Crops
    landmarks: Crops
    targets: Tensor

    @classmethod
    def of(cls, faces: Faces68, boxes: Array) -> ValidationSet:
        """Crops of the validation people; a face without a detector box (NaN) counts under `landmarks` only."""
        rows = np.flatnonzero(faces.is_validation)
        targets = torch.from_numpy(faces.landmarks[rows]).float()
        images = [faces.images[row] for row in rows]
        found = ~np.isnan(boxes[rows, 0])
        seen = [image for image, ok in zip(images, found, strict=True) if ok]
        detected = torch.from_numpy(boxes[rows][found]).float()
        return cls(
            crops_of(seen, windows_of_boxes(detected), targets[torch.from_numpy(found)]),
            crops_of(images, windows_of_boxes(boxes_of_landmarks(targets)), targets),
            targets,
        )

    def sources(self) -> Iterator[tuple[str, Crops]]:
        """The crops by where their boxes come from."""
        yield "mtcnn boxes", self.detector
        yield "landmark boxes", self.landmarks


def crops_of(images: list[Image], windows: Tensor, targets: Tensor) -> Crops:
    """Crops (N, 3, 128, 128) of `images` in `windows` (N, 4), with their landmarks (N, 68, 2), px of the image."""
    pixels = [
        crop_squares(torch.from_numpy(image).permute(2, 0, 1)[None] / 255.0, window[None], CROP_SIZE)
        for image, window in zip(images, windows, strict=True)
    ]
    return Crops(torch.cat(pixels), windows, targets)


@torch.no_grad()
def normalised_errors(network: LandmarkNet, crops: Crops) -> Tensor:
    """(N,) mean point distance over sqrt(w * h) of the landmarks' box."""
    network.eval()
    device = next(network.parameters()).device
    decoded = [decode_heatmaps(network(part.to(device))[0]).cpu() for part in crops.pixels.split(32)]
    points = points_in_image(torch.cat(decoded), crops.windows)
    sizes = crops.targets.amax(dim=1) - crops.targets.amin(dim=1)
    errors: Tensor = (points - crops.targets).norm(dim=-1).mean(dim=-1) / sizes.prod(dim=-1).sqrt()
    return errors


def main() -> None:
    """Run the command that the module describes."""
    parser = argparse.ArgumentParser(description="Measure fan-compact on the validation people of faces68.")
    parser.add_argument("--data", type=Path, required=True, help="folder with faces68.tar and its .npz")
    parser.add_argument("--weights", type=Path, required=True, help="safetensors file to measure")
    parser.add_argument("--boxes", type=Path, help=".npy that keeps MTCNN's boxes of the faces between runs")
    options = parser.parse_args()
    faces = load_faces68(options.data)
    network = LandmarkNet()
    network.load_state_dict(load_file(options.weights))
    for source, crops in ValidationSet.of(faces, detector_boxes(faces, options.boxes)).sources():
        errors = 100 * normalised_errors(network, crops)
        print(
            f"{source}: {len(errors)} faces, mean {errors.mean():.2f} %, median {errors.median():.2f} %, "
            f"95th percentile {errors.quantile(0.95):.2f} %, worst {errors.max():.2f} %"
        )


if __name__ == "__main__":
    main()
