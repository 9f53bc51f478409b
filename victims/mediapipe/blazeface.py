"""BlazeFace (Bazarevsky et al. 2019, arXiv 1907.05047) as MediaPipe's client runs it: short range and full range.

The frame is letterboxed into a square (`victims.mediapipe.regions`), anchors are decoded, and overlapping candidates
are averaged by their scores. Coordinates are px of the frame in index coordinates, as the client's normalised values
times width and height.

Neither is for covering: short range finds none of the faces of a street, full range a fifth.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from typing_extensions import override

from victims.base import Detector, ExportSpec, Image, Network, Objective, Window
from victims.boxes import iou
from victims.face import Array, Detections
from victims.mediapipe.graph import load_network
from victims.mediapipe.regions import letterbox, read_exact
from weights import store

OVERLAP = 0.3
"""Candidates whose IoU with the best one is larger are averaged with it."""
NETWORK = "blazeface"
_LOGIT_LIMIT = 100.0
_BATCH = 16


@dataclass(frozen=True)
class BlazeFaceModel:
    """What tells the two detectors apart."""

    file: str
    """Name in the catalogue of weights."""
    size: int
    """Side of the network's input, px."""
    grids: tuple[tuple[int, int], ...]
    """(cells a side, anchors a cell) in the network's order."""
    threshold: float
    """Score from which the client reports a face; it also decides which candidates are averaged."""

    def anchors(self) -> Array:
        """(A, 2) x, y of the anchors' centres, 0..1 of the square."""
        levels = []
        for cells, count in self.grids:
            centres = (np.arange(cells) + 0.5) / cells
            grid = np.stack(np.meshgrid(centres, centres), axis=-1)  # x inner
            levels.append(np.repeat(grid.reshape(-1, 2), count, axis=0))
        return np.concatenate(levels)


MODELS: dict[str, BlazeFaceModel] = {
    "blazeface": BlazeFaceModel("face_detection_short_range.tflite", 128, ((16, 2), (8, 6)), 0.5),
    "blazeface-full": BlazeFaceModel("face_detection_full_range_sparse.tflite", 192, ((48, 1),), 0.6),
}


class Candidates(NamedTuple):
    """Every anchor of n frames."""

    boxes: Tensor
    """(n, A, 4) px of the frame."""
    points: Tensor
    """(n, A, 6, 2) px: the person's right eye, left eye, nose tip, mouth, right ear, left ear."""
    logits: Tensor
    """(n, A)"""


class BlazeFace(Detector):
    """`blazeface` or `blazeface-full`."""

    covers = False

    def __init__(self, name: str, network: Network, weights: dict[str, str]) -> None:
        super().__init__({NETWORK: network}, weights)
        self.name = name
        self.model = MODELS[name]
        self.cover_threshold = self.model.threshold
        self._anchors = torch.from_numpy(self.model.anchors()).float()

    def detect(self, images: Sequence[Image], threshold: float | None = None) -> list[Detections]:
        """Faces of each image (all of one size), best score first."""
        return [found for found, _ in self.detect_with_points(images, threshold)]

    def detect_with_points(
        self, images: Sequence[Image], threshold: float | None = None
    ) -> list[tuple[Detections, Array]]:
        """The same, with the six points (k, 6, 2) of each face, px; see `Candidates`."""
        limit = self.model.threshold if threshold is None else threshold
        found: list[tuple[Detections, Array]] = []
        for start in range(0, len(images), _BATCH):
            some = images[start : start + _BATCH]
            seen = self.see(some, letterbox(*some[0].shape[:2]))
            found += [weighted_suppression(*one, limit) for one in seen]
        return found

    @override
    def in_order(self, found: Detections, height: int, width: int) -> Detections:
        """See Detector: best score first, as the client takes them.

        Scores of 0.65 are common where faces are fine, so that nearly none is sure, and by size a large false alarm
        would come first.
        """
        return found

    def see(self, images: Sequence[Image], square: Array) -> list[tuple[Array, Array, Array]]:
        """Boxes (A, 4), points (A, 6, 2) and scores (A,) of every anchor in `square` (5,) of each image."""
        seen = [read_exact(image, square[None], self.model.size, repeat_border=False)[0] for image in images]
        pixels = torch.from_numpy(np.stack(seen)).to(self.device).permute(0, 3, 1, 2).float() / 255.0
        with torch.no_grad():
            candidates = self.candidates(pixels, square)
        boxes, points = (values.double().cpu().numpy() for values in candidates[:2])
        scores = torch.sigmoid(candidates.logits.double()).cpu().numpy()
        return list(zip(boxes, points, scores, strict=True))

    def candidates(self, pixels: Tensor, square: Array) -> Candidates:
        """What the network says of (n, 3, size, size), RGB in [0, 1], read from `square` (5,); differentiable."""
        raw, logits = self.networks[NETWORK](pixels * 2.0 - 1.0)
        side = float(square[2])
        corner = raw.new_tensor(square[:2] - square[2:4] / 2)
        scaled = raw / self.model.size  # (n, A, 16)
        anchors = self._anchors.to(raw)
        centre, half = scaled[..., :2] + anchors, scaled[..., 2:4] / 2
        corners = torch.stack((centre - half, centre + half), dim=-2)
        points = scaled[..., 4:].unflatten(-1, (6, 2)) + anchors[:, None]
        return Candidates(
            (corners * side + corner).flatten(-2),
            points * side + corner,
            logits[..., 0].clamp(-_LOGIT_LIMIT, _LOGIT_LIMIT),
        )

    @override
    def objective(self, frames: Sequence[Image], windows: Sequence[Window], boxes: Array) -> Objective:
        from victims.mediapipe.blazeface_objective import BlazeFaceObjective  # which needs this module

        return BlazeFaceObjective(self, frames, windows, boxes)

    def repel_objective(self, frames: Sequence[Image], windows: Sequence[Window], boxes: Array) -> Objective:
        """See Detector. Every anchor of a window is asked."""
        from victims.mediapipe.blazeface_objective import BlazeFaceRepelObjective

        return BlazeFaceRepelObjective(self, frames, windows)

    @override
    def export_specs(self) -> dict[str, ExportSpec]:
        size = self.model.size
        return {
            NETWORK: ExportSpec(
                (torch.zeros(2, 3, size, size),),
                ("pixels",),
                ("regressors", "logits"),
                {name: {0: "batch"} for name in ("pixels", "regressors", "logits")},
                f"RGB in [-1, 1], the frame letterboxed with black to a square, sampled at {size}x{size} whole pixels; "
                "anchors are decoded outside",
            )
        }


def weighted_suppression(boxes: Array, points: Array, scores: Array, threshold: float) -> tuple[Detections, Array]:
    """Faces of one frame from candidates (A, 4), (A, 6, 2), (A,), with their points (k, 6, 2); best score first.

    The best candidate and all that remain with an IoU of more than `OVERLAP` with it become their mean, weighted by
    score; its score is the best one's. Then the rest likewise.
    """
    usable = (scores >= threshold) & (boxes[:, 2] >= boxes[:, 0]) & (boxes[:, 3] >= boxes[:, 1])
    left = np.flatnonzero(usable)
    left = left[np.argsort(-scores[left], kind="stable")]
    found: tuple[list[Array], list[float], list[Array]] = [], [], []
    while len(left):
        same = iou(boxes[left], boxes[left[0]]) > OVERLAP
        same[0] = True
        group, weights = left[same], scores[left[same]]
        found[0].append(np.average(boxes[group], axis=0, weights=weights))
        found[1].append(float(scores[left[0]]))
        found[2].append(np.average(points[group], axis=0, weights=weights))
        left = left[~same]
    own_boxes, own_scores, own_points = map(np.array, found)
    return Detections(own_boxes.reshape(-1, 4), own_scores.astype(float)), own_points.reshape(-1, 6, 2)


def load_blazeface(name: str, override: Path | None = None, allow_unknown: bool = False) -> BlazeFace:
    """`blazeface` or `blazeface-full` with the file of mediapipe's wheel, or with `override`. Raises WeightsError."""
    model = MODELS[name]
    resolved = store.resolve([model.file], override, allow_unknown)
    count = len(model.anchors())
    network = load_network(resolved.path, {0: (count, 16), 1: (count, 1)})
    return BlazeFace(name, network, {resolved.path.name: resolved.sha256})
