"""MTCNN (Zhang et al. 2016, arXiv 1604.02878) with facenet-pytorch's networks and weights.

Reading equals `facenet_pytorch.MTCNN.detect` (2.5.3): the same pyramid, candidates, crops and suppression. The
networks return logits instead of probabilities, so that a loss keeps its gradient where a softmax saturates.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from typing_extensions import override

from victims import mtcnn_cascade as cascade
from victims.area import AreaSampler
from victims.base import Detector, ExportSpec, Image, Network, Window, load_strict
from victims.face import Array, Detections
from victims.mtcnn_networks import ONet, PNet, RNet
from victims.mtcnn_objective import MtcnnObjective, MtcnnRepelObjective
from weights import store
from weights.errors import UsageError
from weights.loading import load_state_dict

PIXELS_AT_ONCE = 400_000
"""What is given to a network in one call when reading."""
WEIGHT_FILES = {"pnet": "pnet.pt", "rnet": "rnet.pt", "onet": "onet.pt"}


class Mtcnn(Detector):
    """`facenet_pytorch.MTCNN.detect` with its default settings, and a differentiable loss through all three stages."""

    name = "mtcnn"
    cover_threshold = 0.5

    def detect(self, images: Sequence[Image], threshold: float | None = None) -> list[Detections]:
        """Faces of each image (all of one size), best score first.

        A `threshold` under those of R- and O-Net replaces them: more faces, for covering. P-Net's stays.
        """
        samplers = [AreaSampler(image) for image in images]
        return self._decide(samplers, self._first_stage(samplers, cascade.THRESHOLDS[0]), threshold)

    @override
    def sweep(self, images: Sequence[Image], threshold: float) -> tuple[list[Detections], list[Detections]]:
        samplers = [AreaSampler(image) for image in images]
        proposals = self._first_stage(samplers, cascade.THRESHOLDS[0])
        return self._decide(samplers, proposals, None), self._decide(samplers, proposals, threshold)

    def _decide(
        self, samplers: Sequence[AreaSampler], proposals: list[cascade.Proposals], threshold: float | None
    ) -> list[Detections]:
        """Stages 2 and 3."""
        limits = (
            cascade.THRESHOLDS if threshold is None else tuple(min(limit, threshold) for limit in cascade.THRESHOLDS)
        )
        for network, limit, decode in (("rnet", limits[1], cascade.refine), ("onet", limits[2], cascade.finish)):
            proposals = self._later_stage(network, samplers, proposals, limit, decode)
        return [Detections(found.boxes, found.scores) for found in proposals]

    def _first_stage(self, samplers: Sequence[AreaSampler], threshold: float) -> list[cascade.Proposals]:
        height, width = samplers[0].height, samplers[0].width
        levels: list[list[cascade.LevelOutput]] = [[] for _ in samplers]
        for scale in cascade.pyramid_scales(height, width):
            pixels = np.stack([sampler.level(*cascade.level_size(height, width, scale)) for sampler in samplers])
            shifts, logits = self._run("pnet", pixels)
            probabilities = cascade.probability(logits)
            for frame, own in enumerate(levels):
                numeric = shifts[frame].cpu().numpy().astype(np.float64)
                own.append(cascade.LevelOutput(scale, 0, 0, probabilities[frame], numeric))
        empty = cascade.Proposals(np.zeros((0, 4)), np.zeros(0))
        return [cascade.propose(own, threshold) if own else empty for own in levels]

    def _later_stage(
        self,
        network: str,
        samplers: Sequence[AreaSampler],
        proposals: Sequence[cascade.Proposals],
        threshold: float,
        decode: cascade.LaterStage,
    ) -> list[cascade.Proposals]:
        boxes, crops = [], []
        for sampler, found in zip(samplers, proposals, strict=True):
            whole = cascade.rectangles(found.boxes, sampler.height, sampler.width)
            usable = (whole[:, 2] > whole[:, 0]) & (whole[:, 3] > whole[:, 1])
            boxes.append(found.boxes[usable])
            crops.append(sampler.crops(whole[usable], cascade.SIZES[network]))
        outputs = self._run(network, np.concatenate(crops))
        shifts = outputs[0].cpu().numpy().astype(np.float64)
        scores = cascade.probability(outputs[-1])
        ends = np.cumsum([len(own) for own in boxes])[:-1]
        return [
            decode(own, score, shift, threshold)
            for own, score, shift in zip(boxes, np.split(scores, ends), np.split(shifts, ends), strict=True)
        ]

    def _run(self, network: str, pixels: NDArray[np.float32]) -> tuple[Tensor, ...]:
        """Network outputs for (n, h, w, 3) RGB 0..255. O-Net: shifts, points, logits; the others: shifts, logits."""
        if not len(pixels):  # a network may not take an empty batch
            filler = np.zeros((1, *pixels.shape[1:]), np.float32)
            return tuple(output[:0] for output in self._run(network, filler))
        # large levels one by one: their activations are what takes memory
        step = max(1, PIXELS_AT_ONCE // (pixels.shape[1] * pixels.shape[2]))
        parts = []
        with torch.no_grad():
            for start in range(0, len(pixels), step):
                batch = torch.from_numpy(pixels[start : start + step]).permute(0, 3, 1, 2).contiguous()
                parts.append(self.networks[network](cascade.normalize(batch.to(self.device))))
        return tuple(torch.cat(outputs) for outputs in zip(*parts, strict=True))

    @override
    def objective(self, frames: Sequence[Image], windows: Sequence[Window], boxes: Array) -> MtcnnObjective:
        return MtcnnObjective(self, frames, windows, boxes)

    @override
    def repel_objective(self, frames: Sequence[Image], windows: Sequence[Window], boxes: Array) -> MtcnnRepelObjective:
        return MtcnnRepelObjective(self, frames, windows, boxes)

    @override
    def export_specs(self) -> dict[str, ExportSpec]:
        text = "RGB 0..255, (x - 127.5) / 128, area-resampled; outputs are logits, softmax outside"
        specs = {}
        for name, (height, width), what in (
            ("pnet", (40, 60), "pyramid level"),
            ("rnet", (24, 24), "24x24 crop"),
            ("onet", (48, 48), "48x48 crop"),
        ):
            outputs = ("shifts", "points", "logits") if name == "onet" else ("shifts", "logits")
            free = {0: "batch", 2: "height", 3: "width"} if name == "pnet" else {0: "batch"}
            axes = dict.fromkeys(("pixels", *outputs), free)
            example = (torch.zeros(2, 3, height, width),)
            specs[name] = ExportSpec(example, ("pixels",), outputs, axes, f"{what}; {text}")
        return specs


def load_mtcnn(name: str = "mtcnn", override: Path | None = None, allow_unknown: bool = False) -> Mtcnn:
    """MTCNN with the weights inside the facenet-pytorch package.

    Raises WeightsError when they are damaged, UsageError for an `override`: three networks do not come in one file.
    """
    if override is not None:
        raise UsageError(
            f"{name}@{override} cannot be read: {name} takes the weights inside facenet-pytorch; leave @ out."
        )
    networks: dict[str, Network] = {}
    hashes = {}
    for key, kind in {"pnet": PNet, "rnet": RNet, "onet": ONet}.items():
        file = store.resolve([WEIGHT_FILES[key]])
        networks[key] = load_strict(kind(), load_state_dict(file.path), file.path.name)
        hashes[file.path.name] = file.sha256
    return Mtcnn(networks, hashes)
