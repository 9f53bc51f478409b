"""MTCNN (Zhang et al. 2016, arXiv 1604.02878) with facenet-pytorch's networks and weights.

Reading equals `facenet_pytorch.MTCNN.detect` (2.5.3): the same pyramid, candidates, crops and suppression. The
networks return logits instead of probabilities, so that a loss keeps its gradient where a softmax saturates.

Attacking goes through the cascade as it really runs: each `read` follows the candidates that the three networks
propose *now* (their integer crops, NMS and thresholds included), and asks each stage that saw them to keep them and to
regress to the target. The perturbation enters each crop linearly, so a crop is the crop of the covered frame plus
A_y · δ · A_xᵀ: exact, whatever part of the frame the window is, at the cost of the window alone.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from victims.area import AreaSampler, area_matrix
from victims.base import Detector, ExportSpec, Image, Network, Objective, Reading, Window, load_strict
from victims.boxes import box_distance, iou, iou_tensor, suppress
from victims.face import Array, Detections
from victims.mtcnn_networks import ONet, PNet, RNet
from weights import store
from weights.errors import UsageError
from weights.loading import load_state_dict

MIN_FACE = 20
"""Smallest face sought, px."""
FACTOR = 0.709
"""Between levels of the pyramid."""
THRESHOLDS = (0.6, 0.7, 0.7)
"""Of P-, R- and O-Net's probability."""
CELL, STRIDE = 12, 2
"""P-Net's receptive field and step, px of the level."""
SIZES = {"rnet": 24, "onet": 48}
PIXELS_AT_ONCE = 400_000
"""What is given to a network in one call when reading."""
WEIGHT_FILES = {"pnet": "pnet.pt", "rnet": "rnet.pt", "onet": "onet.pt"}


def normalize(values: Tensor) -> Tensor:
    """RGB 0..255 to what the networks were trained on, about -1..1."""
    return (values - 127.5) * 0.0078125


def pyramid_scales(height: int, width: int) -> list[float]:
    scale = CELL / MIN_FACE
    scales = []
    while min(height, width) * scale >= CELL:
        scales.append(scale)
        scale *= FACTOR
    return scales


def level_size(height: int, width: int, scale: float) -> tuple[int, int]:
    return int(height * scale + 1), int(width * scale + 1)


def cell_boxes(rows: NDArray, columns: NDArray, scale: float) -> Array:
    """The boxes (k, 4) in frame px that P-Net's cells at (rows, columns) of a level look at."""
    corner = np.stack([columns, rows], axis=-1).astype(np.float32) * STRIDE
    # float32 as upstream: a float64 quotient would floor to another pixel now and then
    low = np.floor((corner + 1) / np.float32(scale))
    high = np.floor((corner + CELL) / np.float32(scale))
    return np.concatenate([low, high], axis=-1).astype(np.float64)


def regress(boxes: Array, shifts: Array, extra: float) -> Array:
    """Corners moved by `shifts` (k, 4) in units of width and height; `extra` is upstream's +1 of the later stages. In
    float32 as upstream: crops are cut at whole pixels, and another rounding cuts a pixel beside now and then."""
    boxes, shifts = boxes.astype(np.float32), shifts.astype(np.float32)
    sides = boxes[:, 2:] - boxes[:, :2] + np.float32(extra)
    return (boxes + shifts * np.concatenate([sides, sides], axis=1)).astype(np.float64)


def squared(boxes: Array) -> Array:
    """The square around each box's centre with its longer side; in float32, see `regress`."""
    boxes = boxes.astype(np.float32)
    sides = boxes[:, 2:] - boxes[:, :2]
    longest = sides.max(axis=1, keepdims=True)
    low = boxes[:, :2] + sides * np.float32(0.5) - longest * np.float32(0.5)
    return np.concatenate([low, low + longest], axis=1).astype(np.float64)


def rectangles(boxes: Array, height: int, width: int) -> NDArray[np.int64]:
    """Whole-pixel crops (k, 4) x0, y0, x1, y1 (0-based, end exclusive) clipped to the frame, by upstream's rule."""
    whole = np.trunc(boxes).astype(np.int64)
    low = np.maximum(whole[:, :2], 1) - 1
    high = np.minimum(whole[:, 2:], np.array([width, height]))
    return np.concatenate([low, high], axis=1)


def suppress_contained(boxes: Array, scores: Array, threshold: float) -> NDArray[np.int64]:
    """Greedy NMS on intersection over the *smaller* area with upstream's +1 px, best first."""
    x1, y1, x2, y2 = boxes.T
    areas = (x2 - x1 + 1) * (y2 - y1 + 1)
    order = np.argsort(scores)[::-1]
    kept = []
    while len(order):
        best, rest = order[0], order[1:]
        kept.append(best)
        width = np.clip(np.minimum(x2[best], x2[rest]) - np.maximum(x1[best], x1[rest]) + 1, 0, None)
        height = np.clip(np.minimum(y2[best], y2[rest]) - np.maximum(y1[best], y1[rest]) + 1, 0, None)
        order = rest[width * height / np.minimum(areas[best], areas[rest]) <= threshold]
    return np.array(kept, dtype=np.int64)


def probability(logits: Tensor) -> Array:
    """Of "face", from two logits on dim 1."""
    return torch.softmax(logits.detach().float(), dim=1)[:, 1].cpu().numpy().astype(np.float64)


@dataclass(frozen=True)
class _Proposals:
    """Candidates of one frame between stages."""

    boxes: Array  # (k, 4)
    scores: Array  # (k,)


def _propose(levels: Sequence[tuple[float, int, int, Array, Array]], threshold: float) -> _Proposals:
    """Stage 1 of one frame. A level is (scale, first row, first column, probabilities (h, w), shifts (4, h, w))."""
    boxes, scores, shifts = [], [], []
    for scale, top, left, probabilities, shift in levels:
        rows, columns = np.nonzero(probabilities >= threshold)
        level_boxes = cell_boxes(rows + top, columns + left, scale)
        level_scores = probabilities[rows, columns]
        kept = suppress(level_boxes, level_scores, 0.5)
        boxes.append(level_boxes[kept])
        scores.append(level_scores[kept])
        shifts.append(shift[:, rows, columns].T[kept])
    found, score, shift = np.concatenate(boxes), np.concatenate(scores), np.concatenate(shifts)
    kept = suppress(found, score, 0.7)
    return _Proposals(squared(regress(found[kept], shift[kept], 0.0)), score[kept])


def _refine(boxes: Array, scores: Array, shifts: Array, threshold: float) -> _Proposals:
    """Stage 2 of one frame, from R-Net's output for `boxes`."""
    passed = scores > threshold
    boxes, scores, shifts = boxes[passed], scores[passed], shifts[passed]
    kept = suppress(boxes, scores, 0.7)
    return _Proposals(squared(regress(boxes[kept], shifts[kept], 1.0)), scores[kept])


def _finish(boxes: Array, scores: Array, shifts: Array, threshold: float) -> _Proposals:
    """Stage 3 of one frame, from O-Net's output for `boxes`."""
    passed = scores > threshold
    boxes, scores = regress(boxes[passed], shifts[passed], 1.0), scores[passed]
    kept = suppress_contained(boxes, scores, 0.7)
    return _Proposals(boxes[kept], scores[kept])


class Mtcnn(Detector):
    """`facenet_pytorch.MTCNN.detect` with its default settings, and a differentiable loss through all three stages."""

    name = "mtcnn"
    cover_threshold = 0.5

    def detect(self, images: Sequence[Image], threshold: float | None = None) -> list[Detections]:
        """Faces of each image (all of one size), best score first.

        A `threshold` under those of R- and O-Net replaces them: more faces, for covering. P-Net's stays.
        """
        samplers = [AreaSampler(image) for image in images]
        return self._decide(samplers, self._first_stage(samplers, THRESHOLDS[0]), threshold)

    def sweep(self, images: Sequence[Image], threshold: float) -> tuple[list[Detections], list[Detections]]:
        samplers = [AreaSampler(image) for image in images]
        proposals = self._first_stage(samplers, THRESHOLDS[0])
        return self._decide(samplers, proposals, None), self._decide(samplers, proposals, threshold)

    def _decide(
        self, samplers: Sequence[AreaSampler], proposals: list[_Proposals], threshold: float | None
    ) -> list[Detections]:
        """Stages 2 and 3."""
        limits = THRESHOLDS if threshold is None else tuple(min(limit, threshold) for limit in THRESHOLDS)
        for network, limit, decode in (("rnet", limits[1], _refine), ("onet", limits[2], _finish)):
            proposals = self._later_stage(network, samplers, proposals, limit, decode)
        return [Detections(found.boxes, found.scores) for found in proposals]

    def _first_stage(self, samplers: Sequence[AreaSampler], threshold: float) -> list[_Proposals]:
        height, width = samplers[0].height, samplers[0].width
        levels: list[list[tuple[float, int, int, Array, Array]]] = [[] for _ in samplers]
        for scale in pyramid_scales(height, width):
            pixels = np.stack([sampler.level(*level_size(height, width, scale)) for sampler in samplers])
            shifts, logits = self._run("pnet", pixels)
            probabilities = probability(logits)
            for frame, own in enumerate(levels):
                own.append((scale, 0, 0, probabilities[frame], shifts[frame].cpu().numpy().astype(np.float64)))
        empty = _Proposals(np.zeros((0, 4)), np.zeros(0))
        return [_propose(own, threshold) if own else empty for own in levels]

    def _later_stage(self, network, samplers, proposals, threshold, decode) -> list[_Proposals]:  # type: ignore[no-untyped-def]
        boxes, crops = [], []
        for sampler, found in zip(samplers, proposals, strict=True):
            whole = rectangles(found.boxes, sampler.height, sampler.width)
            usable = (whole[:, 2] > whole[:, 0]) & (whole[:, 3] > whole[:, 1])
            boxes.append(found.boxes[usable])
            crops.append(sampler.crops(whole[usable], SIZES[network]))
        outputs = self._run(network, np.concatenate(crops))
        shifts = outputs[0].cpu().numpy().astype(np.float64)
        scores = probability(outputs[-1])
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
                parts.append(self.networks[network](normalize(batch.to(self.device))))
        return tuple(torch.cat(outputs) for outputs in zip(*parts, strict=True))

    def objective(self, frames: Sequence[Image], windows: Sequence[Window], boxes: Array) -> MtcnnObjective:
        return MtcnnObjective(self, frames, windows, boxes)

    def repel_objective(self, frames: Sequence[Image], windows: Sequence[Window], boxes: Array) -> MtcnnRepelObjective:
        return MtcnnRepelObjective(self, frames, windows, boxes)

    def export_specs(self) -> dict[str, ExportSpec]:
        text = "RGB 0..255, (x - 127.5) / 128, area-resampled; outputs are logits, softmax outside"
        batch = {0: "batch"}
        shifts_and_logits = ("shifts", "logits")
        return {
            "pnet": ExportSpec(
                (torch.zeros(2, 3, 40, 60),),
                ("pixels",),
                shifts_and_logits,
                {name: {0: "batch", 2: "height", 3: "width"} for name in ("pixels", *shifts_and_logits)},
                f"pyramid level; {text}",
            ),
            "rnet": ExportSpec(
                (torch.zeros(2, 3, 24, 24),),
                ("pixels",),
                shifts_and_logits,
                dict.fromkeys(("pixels", *shifts_and_logits), batch),
                f"24x24 crop; {text}",
            ),
            "onet": ExportSpec(
                (torch.zeros(2, 3, 48, 48),),
                ("pixels",),
                ("shifts", "points", "logits"),
                dict.fromkeys(("pixels", "shifts", "points", "logits"), batch),
                f"48x48 crop; {text}",
            ),
        }


@dataclass(frozen=True)
class _Level:
    """One level of the pyramid around the target, for every frame of a batch."""

    scale: float
    top: NDArray[np.int64]  # (B,) first row of the patch, px of the level, even
    left: NDArray[np.int64]
    constant: Tensor  # (B, 3, h, w) the covered frame, 0..255
    rows: Tensor  # (B, h, window height)
    columns: Tensor  # (B, w, window width)
    cells: Tensor  # (B, cell rows, cell columns, 4) the cells' boxes
    matching: Tensor  # (B, cell rows, cell columns) bool: should propose the target


class MtcnnObjective(Objective):
    """Make the cascade return one box a frame."""

    MATCH = 0.4
    """A P-Net cell whose box overlaps the target's square this much should propose it."""
    SAME = 0.5
    """A final box that overlaps the target less than this is a rival: another face, where there should be none."""
    FOLLOWED = 10
    """Proposals followed through the cascade, best score first."""
    JITTER = ((0.0, 0.0, 1.0), (0.04, -0.03, 1.06), (-0.04, 0.04, 0.95))
    """Candidates added to those that the cascade proposes: shift in sides, scale."""
    MARGINS: ClassVar[dict[str, float]] = {"pnet": 2.0, "rnet": 3.0, "onet": 4.0}
    """Difference of logits asked for; 0.85 is a probability of 0.7."""
    DISTANCE: ClassVar[dict[str, float]] = {"pnet": 0.1, "rnet": 0.6, "onet": 6.0}
    """What the distance of a stage's boxes counts. Only O-Net's are the answer; those before are looked at again."""
    HINGE: ClassVar[dict[str, float]] = {"pnet": 0.3, "rnet": 0.3, "onet": 0.4}
    """What a margin that is short counts."""

    def __init__(self, victim: Mtcnn, frames: Sequence[Image], windows: Sequence[Window], boxes: Array) -> None:
        self.victim = victim
        self.windows = list(windows)
        self.targets = np.asarray(boxes, dtype=np.float64)
        self.squares = squared(self.targets)
        self.height, self.width = frames[0].shape[:2]
        self.samplers = [AreaSampler(frame) for frame in frames]
        device = victim.device
        self.base = torch.stack(
            [
                torch.from_numpy(np.ascontiguousarray(window.cut(frame))).permute(2, 0, 1).to(device) / 255.0
                for window, frame in zip(windows, frames, strict=True)
            ]
        )
        self.levels = [self._level(scale) for scale in self._relevant_scales()]

    def _relevant_scales(self) -> list[float]:
        sides = self.squares[:, 2] - self.squares[:, 0]
        scales = pyramid_scales(self.height, self.width)
        # from cells half the face's size to all larger ones: a rival that is larger would be the frame's face
        near = [s for s in scales if np.any((CELL / s / sides > 0.5) & (CELL / s / sides < 4.0))]
        # a face smaller or larger than any cell still has a nearest one
        return near or [min(scales, key=lambda s: abs(math.log(CELL / s / sides.mean())))]

    def _level(self, scale: float) -> _Level:
        height, width = level_size(self.height, self.width, scale)
        window = self.windows[0]
        starts, extents = [], []
        for axis, (span, frame_span, side) in enumerate(
            ((height, self.height, window.height), (width, self.width, window.width))
        ):
            extent = min(span, (math.ceil(side * span / frame_span) + 2 * CELL) // 2 * 2)
            begin = np.array([(w.y, w.x)[axis] for w in self.windows]) * span // frame_span - CELL
            starts.append(np.clip(begin, 0, span - extent) // 2 * 2)
            extents.append(extent)
        (top, left), (patch_height, patch_width) = starts, extents
        constant = np.stack(
            [
                sampler.level(height, width)[t : t + patch_height, x : x + patch_width]
                for sampler, t, x in zip(self.samplers, top, left, strict=True)
            ]
        )
        count = len(self.windows)
        zeros = np.zeros(count, np.int64)
        offset_y = np.array([w.y for w in self.windows])
        offset_x = np.array([w.x for w in self.windows])
        rows = area_matrix(zeros, zeros + self.height, height, offset_y, window.height)
        columns = area_matrix(zeros, zeros + self.width, width, offset_x, window.width)
        cell_rows, cell_columns = (((extent - 1) // 2) - 4 for extent in extents)
        grid_y, grid_x = np.mgrid[:cell_rows, :cell_columns]
        cells = np.stack(
            [cell_boxes(grid_y + t // STRIDE, grid_x + x // STRIDE, scale) for t, x in zip(top, left, strict=True)]
        )
        matching = iou(cells, self.squares[:, None, None, :]) >= self.MATCH
        device = self.victim.device
        return _Level(
            scale,
            top,
            left,
            torch.from_numpy(constant).permute(0, 3, 1, 2).contiguous().to(device),
            torch.stack([rows[b, t : t + patch_height] for b, t in enumerate(top)]).to(device),
            torch.stack([columns[b, x : x + patch_width] for b, x in enumerate(left)]).to(device),
            torch.from_numpy(cells).float().to(device),
            torch.from_numpy(matching).to(device),
        )

    def read(self, pixels: Tensor, items: Sequence[int], geometry: Tensor | None = None) -> Reading:
        """See Objective; detectors take no geometry."""
        index = torch.as_tensor(list(items), device=self.victim.device)
        change = (pixels - self.base[index]) * 255.0  # (B, 3, h, w)
        targets = torch.from_numpy(self.targets[list(items)]).float().to(self.victim.device)

        loss, proposals = self._first_stage(change, index, targets)
        loss_r, proposals = self._later_stage("rnet", change, items, targets, proposals, _refine)
        loss_o, proposals = self._later_stage("onet", change, items, targets, proposals, _finish)

        found = np.full((len(items), 4), np.nan)
        for row, own in enumerate(proposals):
            if len(own.boxes):
                sides = own.boxes[:, 2:] - own.boxes[:, :2]
                found[row] = own.boxes[np.argmax(sides.prod(axis=1))]
        error = np.where(np.isnan(found[:, 0]), np.inf, 1.0 - iou(np.nan_to_num(found), self.targets[list(items)]))
        return Reading(
            loss + loss_r + loss_o,
            torch.from_numpy(error).float().to(pixels.device),
            torch.from_numpy(found).float().to(pixels.device),
        )

    def _first_stage(self, change: Tensor, index: Tensor, targets: Tensor) -> tuple[Tensor, list[_Proposals]]:
        count = len(index)
        margins, errors, levels = [], [], [[] for _ in range(count)]  # type: ignore[var-annotated]
        for level in self.levels:
            patch = level.constant[index] + level.rows[index].unsqueeze(1) @ change @ level.columns[index].mT.unsqueeze(
                1
            )
            shifts, logits = self.victim.networks["pnet"](normalize(patch))  # (B, 4, h, w), (B, 2, h, w)
            margin = logits[:, 1] - logits[:, 0]
            cells = level.cells[index]
            sides = cells[..., 2:] - cells[..., :2]
            predicted = cells + shifts.permute(0, 2, 3, 1) * torch.cat([sides, sides], dim=-1)
            distance = box_distance(predicted, targets[:, None, None, :])
            matching = level.matching[index]
            margins.append(margin.masked_fill(~matching, -torch.inf).flatten(1))
            errors.append(distance.flatten(1))
            probabilities = probability(logits)
            numeric = shifts.detach().cpu().numpy().astype(np.float64)
            for row in range(count):
                item = int(index[row])
                levels[row].append(
                    (
                        level.scale,
                        level.top[item] // STRIDE,
                        level.left[item] // STRIDE,
                        probabilities[row],
                        numeric[row],
                    )
                )
        margin, distance = torch.cat(margins, dim=1), torch.cat(errors, dim=1)
        # a few cells that fire are enough: ask those that are nearest to firing
        weight = torch.softmax(margin.detach(), dim=1).nan_to_num(0.0)
        short = torch.relu(self.MARGINS["pnet"] - margin.masked_fill(margin == -torch.inf, self.MARGINS["pnet"]))
        loss = (weight * (self.HINGE["pnet"] * short + self.DISTANCE["pnet"] * distance)).sum(dim=1)
        return loss, [_propose(own, THRESHOLDS[0]) for own in levels]

    def _later_stage(self, network, change, items, targets, proposals, decode):  # type: ignore[no-untyped-def]
        """Loss (B,) of a stage over the candidates it sees, and what it passes on."""
        boxes, counts, shifts, logits = self._look(network, change, items, proposals)
        margin = logits[:, 1] - logits[:, 0]
        probabilities = probability(logits)
        numeric = shifts.detach().cpu().numpy().astype(np.float64)

        losses, passed, start = [], [], 0
        threshold = THRESHOLDS[1] if network == "rnet" else THRESHOLDS[2]
        for row, (total, real) in enumerate(counts):
            part, own = slice(start, start + total), boxes[row]
            tensor = torch.from_numpy(own).float().to(change.device)
            sides = tensor[:, 2:] - tensor[:, :2] + 1.0
            predicted = tensor + shifts[part] * torch.cat([sides, sides], dim=1)
            ours = iou_tensor(tensor, targets[row].expand_as(tensor)) >= 0.3
            if network == "onet":
                ours = iou_tensor(predicted.detach(), targets[row].expand_as(tensor)) >= self.SAME
            ours[real:] = True
            # the best candidate is the answer; the others may be it in the next frame
            own_margin = margin[part].masked_fill(~ours, -torch.inf).detach()
            weight = 0.5 * torch.softmax(own_margin, dim=0) + 0.5 * ours / ours.sum()
            short = self.HINGE[network] * torch.relu(self.MARGINS[network] - margin[part])
            distance = self.DISTANCE[network] * box_distance(predicted, targets[row])
            rivals = torch.relu(margin[part] + 1.0) * ~ours
            losses.append((weight * (short + distance)).sum() + self.HINGE[network] * rivals.sum())
            followed = slice(start, start + real)
            passed.append(decode(own[:real], probabilities[followed], numeric[followed], threshold))
            start += total
        return torch.stack(losses), passed

    def _look(
        self, network: str, change: Tensor, items: Sequence[int], proposals: Sequence[_Proposals]
    ) -> tuple[list[Array], list[tuple[int, int]], Tensor, Tensor]:
        """What a later stage says of the candidates it sees, those added last: the boxes (k, 4) of each frame; k and
        how many of them the cascade proposes; shifts and logits of all frames together."""
        crops, boxes, counts = [], [], []
        for row, (item, found) in enumerate(zip(items, proposals, strict=True)):
            followed = found.boxes[: self.FOLLOWED]
            own = np.concatenate([followed, self._added(item)])
            whole = rectangles(own, self.height, self.width)
            usable = (whole[:, 2] > whole[:, 0]) & (whole[:, 3] > whole[:, 1])
            own, whole = own[usable], whole[usable]
            crops.append(self._crops(change[row], item, whole, SIZES[network]))
            boxes.append(own)
            counts.append((len(own), int(usable[: len(followed)].sum())))
        outputs = self.victim.networks[network](normalize(torch.cat(crops)))
        return boxes, counts, outputs[0], outputs[-1]

    def _added(self, item: int) -> Array:
        """Candidates (k, 4) around the target that the cascade may not propose yet."""
        square = self.squares[item]
        side = square[2] - square[0]
        centre = (square[:2] + square[2:]) / 2
        rows = [
            [
                *(centre + side * np.array([dx, dy]) - side * scale / 2),
                *(centre + side * np.array([dx, dy]) + side * scale / 2),
            ]
            for dx, dy, scale in self.JITTER
        ]
        return np.array(rows)

    def _crops(self, change: Tensor, item: int, whole: NDArray[np.int64], size: int) -> Tensor:
        """Crops (k, 3, size, size), 0..255, of the covered frame plus `change` (3, h, w)."""
        window = self.windows[item]
        count = len(whole)
        constant = torch.from_numpy(self.samplers[item].crops(whole, size)).permute(0, 3, 1, 2).to(change.device)
        ones = np.ones(count, np.int64)
        rows = area_matrix(whole[:, 1], whole[:, 3] - whole[:, 1], size, ones * window.y, window.height).to(
            change.device
        )
        columns = area_matrix(whole[:, 0], whole[:, 2] - whole[:, 0], size, ones * window.x, window.width).to(
            change.device
        )
        # (k·size, h) @ (3, h, w), then each crop's own columns
        tall = (rows.reshape(1, count * size, -1) @ change).reshape(3, count, size, -1).permute(1, 0, 2, 3)
        return constant + tall @ columns.mT.unsqueeze(1)


class MtcnnRepelObjective(MtcnnObjective):
    """Make the cascade return nothing: R- and O-Net are to reject the candidates around the hidden face, those that
    P-Net proposes now and those it may propose in the next frame. A cascade is blind once one stage rejects, and the
    later ones look at few crops, so P-Net is left alone.

    `error` is O-Net's probability for the best candidate that R-Net lets through, 0 where there is none.
    """

    LIMITS: ClassVar[dict[str, float]] = {"rnet": -0.5, "onet": -1.0}
    """Differences of logits that candidates are held under; 0.85 is where they pass."""

    def read(self, pixels: Tensor, items: Sequence[int], geometry: Tensor | None = None) -> Reading:
        """See Objective; no geometry is needed."""
        index = torch.as_tensor(list(items), device=self.victim.device)
        change = (pixels - self.base[index]) * 255.0
        targets = torch.from_numpy(self.targets[list(items)]).float().to(self.victim.device)
        with torch.no_grad():
            _, proposals = self._first_stage(change, index, targets)
        loss_r, proposals, _ = self._rejected("rnet", change, items, proposals)
        loss_o, _, best = self._rejected("onet", change, items, proposals)
        return Reading(
            loss_r + loss_o,
            torch.from_numpy(best[:, 4]).float().to(pixels.device),
            torch.from_numpy(best[:, :4]).float().to(pixels.device),
        )

    def _rejected(
        self, network: str, change: Tensor, items: Sequence[int], proposals: Sequence[_Proposals]
    ) -> tuple[Tensor, list[_Proposals], Array]:
        """Hinge loss (B,), what the stage lets through, and the best proposal of each frame: box and score (B, 5)."""
        boxes, counts, shifts, logits = self._look(network, change, items, proposals)
        excess = torch.relu(logits[:, 1] - logits[:, 0] - self.LIMITS[network])
        probabilities, numeric = probability(logits), shifts.detach().cpu().numpy().astype(np.float64)
        losses, passed, start = [], [], 0
        best = np.concatenate([np.full((len(items), 4), np.nan), np.zeros((len(items), 1))], axis=1)
        for row, (own, (total, real)) in enumerate(zip(boxes, counts, strict=True)):
            part = excess[start : start + total]
            losses.append(part.max() + part.sum() / (part > 0).sum().clamp_min(1))
            followed = slice(start, start + real)
            passed.append(_refine(own[:real], probabilities[followed], numeric[followed], THRESHOLDS[1]))
            if real:
                top = int(np.argmax(probabilities[followed]))
                best[row] = [*own[top], probabilities[followed][top]]
            start += total
        return torch.stack(losses), passed, best


def load_mtcnn(name: str = "mtcnn", override: Path | None = None, allow_unknown: bool = False) -> Mtcnn:
    """MTCNN with the weights inside the facenet-pytorch package; raises WeightsError when they are damaged, UsageError
    for an `override`: three networks do not come in one file."""
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
