"""Attacking and repelling MTCNN.

It goes through the cascade as it really runs: each `read` follows the candidates that the three networks propose *now*
(their integer crops, NMS and thresholds included), and asks each stage that saw them to keep them and to regress to the
target. The perturbation enters each crop linearly, so a crop is the crop of the covered frame plus A_y · δ · A_xᵀ:
exact, whatever part of the frame the window is, at the cost of the window alone.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from victims.area import AreaSampler, area_matrix
from victims.base import Detector, Image, Objective, Reading, Window, to_pixels
from victims.boxes import box_distance, iou, iou_tensor
from victims.face import Array
from victims.mtcnn_cascade import (
    CELL,
    SIZES,
    STRIDE,
    THRESHOLDS,
    LevelOutput,
    Proposals,
    cell_boxes,
    finish,
    level_size,
    normalize,
    probability,
    propose,
    pyramid_scales,
    rectangles,
    refine,
    squared,
)


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
    NEAR = 0.3
    """R-Net should pass on a candidate that overlaps the target this much."""
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

    def __init__(self, victim: Detector, frames: Sequence[Image], windows: Sequence[Window], boxes: Array) -> None:
        self.victim = victim
        self.windows = list(windows)
        self.targets = np.asarray(boxes, dtype=np.float64)
        self.squares = squared(self.targets)
        self.height, self.width = frames[0].shape[:2]
        self.samplers = [AreaSampler(frame) for frame in frames]
        self.base = to_pixels([window.cut(frame) for window, frame in zip(windows, frames, strict=True)], victim.device)
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
        loss_r, proposals = self._later_stage("rnet", change, items, targets, proposals)
        loss_o, proposals = self._later_stage("onet", change, items, targets, proposals)

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

    def _first_stage(self, change: Tensor, index: Tensor, targets: Tensor) -> tuple[Tensor, list[Proposals]]:
        count = len(index)
        margins, errors = [], []
        levels: list[list[LevelOutput]] = [[] for _ in range(count)]
        for level in self.levels:
            rows, columns = level.rows[index].unsqueeze(1), level.columns[index].mT.unsqueeze(1)
            patch = level.constant[index] + rows @ change @ columns
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
                top, left = level.top[int(index[row])] // STRIDE, level.left[int(index[row])] // STRIDE
                levels[row].append(LevelOutput(level.scale, int(top), int(left), probabilities[row], numeric[row]))
        margin, distance = torch.cat(margins, dim=1), torch.cat(errors, dim=1)
        # a few cells that fire are enough: ask those that are nearest to firing
        weight = torch.softmax(margin.detach(), dim=1).nan_to_num(0.0)
        short = torch.relu(self.MARGINS["pnet"] - margin.masked_fill(margin == -torch.inf, self.MARGINS["pnet"]))
        loss = (weight * (self.HINGE["pnet"] * short + self.DISTANCE["pnet"] * distance)).sum(dim=1)
        return loss, [propose(own, THRESHOLDS[0]) for own in levels]

    def _later_stage(
        self, network: str, change: Tensor, items: Sequence[int], targets: Tensor, proposals: Sequence[Proposals]
    ) -> tuple[Tensor, list[Proposals]]:
        """Loss (B,) of a stage over the candidates it sees, and what it passes on."""
        boxes, counts, shifts, logits = self._look(network, change, items, proposals)
        margin = logits[:, 1] - logits[:, 0]
        probabilities = probability(logits)
        numeric = shifts.detach().cpu().numpy().astype(np.float64)

        losses, passed, start = [], [], 0
        decode, threshold = (refine, THRESHOLDS[1]) if network == "rnet" else (finish, THRESHOLDS[2])
        for row, (total, real) in enumerate(counts):
            part, own = slice(start, start + total), boxes[row]
            losses.append(self._stage_loss(network, own, real, shifts[part], margin[part], targets[row]))
            followed = slice(start, start + real)
            passed.append(decode(own[:real], probabilities[followed], numeric[followed], threshold))
            start += total
        return torch.stack(losses), passed

    def _stage_loss(
        self, network: str, boxes: Array, real: int, shifts: Tensor, margin: Tensor, target: Tensor
    ) -> Tensor:
        """Loss of one frame's candidates `boxes` (k, 4), from their shifts (k, 4) and differences of logits (k,).

        The cascade proposes the first `real` of them.
        """
        tensor = torch.from_numpy(boxes).float().to(margin.device)
        wanted = target.expand_as(tensor)
        sides = tensor[:, 2:] - tensor[:, :2] + 1.0
        predicted = tensor + shifts * torch.cat([sides, sides], dim=1)
        if network == "onet":
            ours = iou_tensor(predicted.detach(), wanted) >= self.SAME
        else:
            ours = iou_tensor(tensor, wanted) >= self.NEAR
        ours[real:] = True
        # the best candidate is the answer; the others may be it in the next frame
        own_margin = margin.masked_fill(~ours, -torch.inf).detach()
        weight = 0.5 * torch.softmax(own_margin, dim=0) + 0.5 * ours / ours.sum()
        short = self.HINGE[network] * torch.relu(self.MARGINS[network] - margin)
        distance = self.DISTANCE[network] * box_distance(predicted, target)
        rivals = torch.relu(margin + 1.0) * ~ours
        return (weight * (short + distance)).sum() + self.HINGE[network] * rivals.sum()

    def _look(
        self, network: str, change: Tensor, items: Sequence[int], proposals: Sequence[Proposals]
    ) -> tuple[list[Array], list[tuple[int, int]], Tensor, Tensor]:
        """What a later stage says of the candidates it sees, those added last.

        Returns the boxes (k, 4) of each frame; k and how many of them the cascade proposes; shifts and logits of all
        frames together.
        """
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
    """Make the cascade return nothing.

    R- and O-Net are to reject the candidates around the hidden face, those that P-Net proposes now and those it may
    propose in the next frame. A cascade is blind once one stage rejects, and the later ones look at few crops, so P-Net
    is left alone.

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
        self, network: str, change: Tensor, items: Sequence[int], proposals: Sequence[Proposals]
    ) -> tuple[Tensor, list[Proposals], Array]:
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
            passed.append(refine(own[:real], probabilities[followed], numeric[followed], THRESHOLDS[1]))
            if real:
                top = int(np.argmax(probabilities[followed]))
                best[row] = [*own[top], probabilities[followed][top]]
            start += total
        return torch.stack(losses), passed, best
