"""RetinaFace (Deng et al. 2019, arXiv 1905.00641) in biubug6/Pytorch_Retinaface's form: mobilenet0.25 and ResNet-50.

Reading follows upstream's test code: BGR 0..255 minus (104, 117, 123) at the image's own size, priors on strides 8, 16
and 32, NMS 0.4 on boxes whose sides count one pixel more. Coordinates stay floating point.

Attacking runs the network on the changed window and some of the frame around it, whose corner lies on the coarsest
grid, so that its priors are the whole frame's own. Near the rim of that region the network sees zeros where it would
see the frame; the pixels around the window keep this off the face.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional
from typing_extensions import override

from victims import boxes as box_arithmetic
from victims.base import Detector, ExportSpec, Image, Objective, Reading, Window, load_strict
from victims.boxes import box_distance, iou_tensor
from victims.face import Array, Detections
from victims.retinaface_networks import RetinaFaceNetwork, mobilenet_network, resnet50_network
from weights import store
from weights.loading import load_state_dict

STEPS = (8, 16, 32)
MIN_SIZES = ((16, 32), (64, 128), (256, 512))
VARIANCES = (0.1, 0.2)
BGR_MEAN = (104.0, 117.0, 123.0)
THRESHOLD = 0.5
"""Upstream shows boxes from 0.5 (test_widerface.py) or 0.6 (detect.py)."""
OVERLAP = 0.4
"""NMS."""
TOUCHES = 0.1
"""IoU with the target from which a face lies over it."""
CANDIDATES, KEPT = 5000, 750
"""Upstream's top_k before and after NMS."""

_PIXELS_AT_ONCE = 1 << 22
_GRID = STEPS[-1]


def preprocess(rgb: Tensor) -> Tensor:
    """RGB in [0, 1], (N, 3, H, W), to the network's input; differentiable."""
    return rgb.flip(1) * 255.0 - rgb.new_tensor(BGR_MEAN).view(1, 3, 1, 1)


def priors(height: int, width: int, x: int = 0, y: int = 0) -> Tensor:
    """Centre x, centre y and side (P, 3), px of the frame, of a region's priors.

    The region is (height, width) with its corner at (x, y), a multiple of 32. The order is the network's: level, row,
    column, size.
    """
    levels = []
    for step, sizes in zip(STEPS, MIN_SIZES, strict=True):
        rows = (torch.arange(math.ceil(height / step)) + 0.5) * step + y
        columns = (torch.arange(math.ceil(width / step)) + 0.5) * step + x
        grid = torch.cartesian_prod(rows, columns, torch.tensor(sizes, dtype=torch.float32))
        levels.append(grid[:, [1, 0, 2]])
    return torch.cat(levels)


def decode_boxes(loc: Tensor, grid: Tensor) -> Tensor:
    """(..., P, 4) corners in px from the network's loc and `priors`."""
    side = grid[:, 2:]
    centre = grid[:, :2] + loc[..., :2] * VARIANCES[0] * side
    half = side * torch.exp(loc[..., 2:] * VARIANCES[1]) / 2
    return torch.cat([centre - half, centre + half], dim=-1)


def decode_points(points: Tensor, grid: Tensor) -> Tensor:
    """(..., P, 5, 2) x, y px: eye, eye, nose, mouth corner, mouth corner; the image's left first."""
    moves: Tensor = points.unflatten(-1, (5, 2))
    return grid[:, None, :2] + moves * VARIANCES[0] * grid[:, None, 2:]


def suppress(boxes: Tensor, scores: Tensor) -> Tensor:
    """Indices that upstream's greedy NMS keeps, best first; its areas count one pixel more to each side."""
    larger = boxes.detach().cpu().numpy() + np.array([0.0, 0.0, 1.0, 1.0])
    kept = box_arithmetic.suppress(larger, scores.detach().cpu().numpy(), OVERLAP)
    return torch.from_numpy(kept).to(boxes.device)


class RetinaFace(Detector):
    """`retinaface` or `retinaface-resnet50`."""

    cover_threshold = 0.4

    def __init__(self, name: str, network: RetinaFaceNetwork, weights: dict[str, str]) -> None:
        super().__init__({"retinaface": network}, weights)
        self.name = name

    def detect(self, images: Sequence[Image], threshold: float | None = None) -> list[Detections]:
        """Faces of each image (all of one size), best score first; score over `threshold` (0.5)."""
        return [found for found, _ in self.detect_with_points(images, threshold)]

    def detect_with_points(
        self, images: Sequence[Image], threshold: float | None = None
    ) -> list[tuple[Detections, Array]]:
        """The same, with the network's own five points (k, 5, 2) of each face, px."""
        limit = THRESHOLD if threshold is None else threshold
        found: list[tuple[Detections, Array]] = []
        if not images:
            return found
        height, width = images[0].shape[:2]
        grid = priors(height, width).to(self.device)
        mean = torch.tensor(BGR_MEAN, device=self.device).view(1, 3, 1, 1)
        step = max(1, _PIXELS_AT_ONCE // (height * width))
        for start in range(0, len(images), step):
            stacked = np.stack([image[..., ::-1] for image in images[start : start + step]])
            values = torch.from_numpy(stacked).to(self.device).permute(0, 3, 1, 2).float() - mean
            with torch.no_grad():
                loc, logits, points = self.networks["retinaface"](values)
            scores = functional.softmax(logits, dim=-1)[..., 1]
            for own_loc, own_scores, own_points in zip(loc, scores, points, strict=True):
                found.append(self._faces(own_loc, own_scores, own_points, grid, limit))
        return found

    @staticmethod
    def _faces(loc: Tensor, scores: Tensor, points: Tensor, grid: Tensor, limit: float) -> tuple[Detections, Array]:
        """One frame's outputs to faces."""
        passed = torch.nonzero(scores > limit)[:, 0]
        passed = passed[torch.argsort(scores[passed], descending=True, stable=True)[:CANDIDATES]]
        boxes = decode_boxes(loc[passed], grid[passed])
        kept = suppress(boxes, scores[passed])[:KEPT]
        own = boxes[kept], scores[passed][kept], decode_points(points[passed], grid[passed])[kept]
        found, sure, places = (values.cpu().numpy().astype(np.float64) for values in own)
        return Detections(found, sure), places

    def objective(
        self, frames: Sequence[Image], windows: Sequence[Window], boxes: Array, points: Array | None = None
    ) -> RetinaFaceObjective:
        """See Detector. `points` (B, 5, 2), from `detect_with_points` of the originals, adds the five-points term."""
        return RetinaFaceObjective(self, frames, windows, boxes, points)

    def repel_objective(self, frames: Sequence[Image], windows: Sequence[Window], boxes: Array) -> RepelObjective:
        """See Detector. Every prior of a window is asked, wherever the face is."""
        return RepelObjective(self, frames, windows)

    @override
    def export_specs(self) -> dict[str, ExportSpec]:
        axes = {"pixels": {0: "batch", 2: "height", 3: "width"}}
        axes |= {name: {0: "batch", 1: "priors"} for name in ("loc", "logits", "points")}
        return {
            "retinaface": ExportSpec(
                (torch.zeros(2, 3, 96, 128),),
                ("pixels",),
                ("loc", "logits", "points"),
                axes,
                "BGR 0..255 minus (104, 117, 123), any size; outputs are undecoded, softmax of the logits outside",
                # Its first activations are of the pixels' size; rounding them shows in every output.
                full_precision=("/body/stage1/",),
            )
        }


@dataclass(frozen=True)
class _Region(Window):
    """Where the network looks for one frame: the window and some of the frame around it."""

    window: Window

    @classmethod
    def around(cls, window: Window, context: int, height: int, width: int) -> _Region:
        """The window widened by `context` px within the (height, width) frame, its corner on the coarsest grid."""
        x, y = (max(0, start - context) // _GRID * _GRID for start in (window.x, window.y))
        right, bottom = (
            min(extent, math.ceil((end + context) / _GRID) * _GRID)
            for end, extent in ((window.x + window.width, width), (window.y + window.height, height))
        )
        return cls(x, y, right - x, bottom - y, window)


class _Output(NamedTuple):
    grid: Tensor  # (P, 3)
    boxes: Tensor  # (P, 4) px of the frame
    margins: Tensor  # (P,) logit of face minus logit of background
    points: Tensor  # (P, 5, 2) px of the frame
    inside: Tensor  # (P,) bool: the prior's centre is in the window


class _WindowObjective(Objective):
    """What both objectives share: the network's decoded output on the regions of some frames."""

    CONTEXT = 64
    """Pixels of the frame seen around the window."""

    def __init__(self, victim: RetinaFace, frames: Sequence[Image], windows: Sequence[Window]) -> None:
        self.victim = victim
        height, width = frames[0].shape[:2]
        self.regions = [_Region.around(window, self.CONTEXT, height, width) for window in windows]
        self.surroundings = [
            torch.from_numpy(np.ascontiguousarray(region.cut(frame).transpose(2, 0, 1))).to(victim.device)
            for frame, region in zip(frames, self.regions, strict=True)
        ]
        self.grids = [priors(r.height, r.width, r.x, r.y).to(victim.device) for r in self.regions]

    def _outputs(self, pixels: Tensor, items: Sequence[int]) -> list[_Output]:
        """One for each of `items`; regions of one size go through the network together."""
        outputs: dict[int, _Output] = {}
        sizes = [(self.regions[item].height, self.regions[item].width) for item in items]
        for size in sorted(set(sizes)):
            rows = [row for row, own in enumerate(sizes) if own == size]
            values = preprocess(torch.stack([self._paste(pixels[row], items[row]) for row in rows]))
            loc, logits, points = self.victim.networks["retinaface"](values)
            for position, row in enumerate(rows):
                grid, window = self.grids[items[row]], self.regions[items[row]].window
                low = grid.new_tensor([window.x, window.y])
                high = low + low.new_tensor([window.width, window.height])
                outputs[row] = _Output(
                    grid,
                    decode_boxes(loc[position], grid),
                    logits[position, :, 1] - logits[position, :, 0],
                    decode_points(points[position], grid),
                    ((grid[:, :2] >= low) & (grid[:, :2] <= high)).all(dim=1),
                )
        return [outputs[row] for row in range(len(items))]

    def _paste(self, pixels: Tensor, item: int) -> Tensor:
        """The window's pixels (3, h, w) in what surrounds them."""
        region = self.regions[item]
        canvas = self.surroundings[item].to(pixels.dtype) / 255.0
        top, left = region.window.y - region.y, region.window.x - region.x
        canvas[:, top : top + region.window.height, left : left + region.window.width] = pixels
        return canvas


class RetinaFaceObjective(_WindowObjective):
    """Make the detector return one box a frame.

    Of the priors that match the target (IoU of at least 0.35, as in training), NMS lets the one with the largest
    margin (logit of face minus logit of background) win; so the loss is about that one. With w the softmax of twice
    the margins m over the matching priors, and d the distance (`victims.boxes.box_distance`) of each one's box:

        Σ w d                               whichever of those likely to win does win has the box
        + 0.25 · hinge(6 - Σ w m)           it fires
        + l · (0.3 · mean d + 0.08 · mean hinge(6 - m))    all of them are drawn along while
              l = the larger of hinge(6 - Σ w m) / 6 and Σ w d / 0.2, at most 1, is left
        + 0.05 · hinge against rivals       nothing else does
        + 0.5 · Σ w · relative distance of the five points    where their targets are given

    What is asked of all matching priors fades, since in the original they neither all fire nor all fit: asked of them
    to the end it keeps the loss from falling near 0, as step lengths that count on its value need. Distances are
    averaged and not boxes: those off in opposite directions have the right mean and none of them fits. After 40 steps
    of tests/benchmarks/retinaface_objective.py the mean IoU is 0.995, the smallest of six 0.992; without fading and
    with the mean box, with an earlier distance, 0.980 and 0.952.

    Rivals are priors in the window that do not predict the target, and would survive the threshold as a larger box
    or would beat the winner in NMS.
    """

    MATCH = 0.35
    MARGIN = 6.0
    """A probability of 0.998."""
    NEAR = 0.2
    """Distance d under which what is asked of all matching priors fades."""
    FRIEND = 0.7
    """A prior whose box overlaps the target this much is no rival."""
    SLACK = 2.0
    """Rivals are held this far under the threshold, or under the winner."""

    def __init__(
        self,
        victim: RetinaFace,
        frames: Sequence[Image],
        windows: Sequence[Window],
        boxes: Array,
        points: Array | None = None,
    ) -> None:
        super().__init__(victim, frames, windows)
        self.targets = torch.from_numpy(np.asarray(boxes, dtype=np.float32)).to(victim.device)
        self.points = None
        if points is not None:
            self.points = torch.from_numpy(np.asarray(points, dtype=np.float32)).to(victim.device)
        self.matching = [self._match(grid, target) for grid, target in zip(self.grids, self.targets, strict=True)]

    def _match(self, grid: Tensor, target: Tensor) -> Tensor:
        """(P,) bool. A box no prior matches well takes those that match it nearly best."""
        half = grid[:, 2:] / 2
        overlap = iou_tensor(torch.cat([grid[:, :2] - half, grid[:, :2] + half], dim=1), target)
        return overlap >= min(self.MATCH, 0.8 * float(overlap.max()))

    def read(self, pixels: Tensor, items: Sequence[int], geometry: Tensor | None = None) -> Reading:
        """See Objective; detectors take no geometry."""
        losses, errors, found = [], [], []
        for item, output in zip(items, self._outputs(pixels, items), strict=True):
            losses.append(self._loss(output, item))
            error, box = self._decoded(output, self.targets[item])
            errors.append(error)
            found.append(box)
        return Reading(torch.stack(losses), torch.stack(errors), torch.stack(found))

    def _loss(self, output: _Output, item: int) -> Tensor:
        target, matching = self.targets[item], self.matching[item]
        sides = (target[2:] - target[:2]).sum()
        boxes, margins = output.boxes[matching], output.margins[matching]
        weight = torch.softmax(2.0 * margins, dim=0)  # (M,)
        apart = box_distance(boxes, target)
        best = (weight * margins).sum()
        loss = (weight * apart).sum()
        lack = torch.maximum(torch.relu(self.MARGIN - best) / self.MARGIN, loss / self.NEAR).detach().clamp_max(1.0)
        loss = loss + lack * 0.3 * apart.mean()
        loss = loss + 0.25 * torch.relu(self.MARGIN - best) + lack * 0.08 * torch.relu(self.MARGIN - margins).mean()
        if self.points is not None:
            strayed = (output.points[matching] - self.points[item]).norm(dim=-1).mean(dim=-1) / sides
            loss = loss + 0.5 * (weight * strayed).sum()
        return loss + 0.05 * self._rivals(output, matching, target, best.detach())

    def _rivals(self, output: _Output, matching: Tensor, target: Tensor, best: Tensor) -> Tensor:
        boxes = output.boxes.detach()
        overlap = iou_tensor(boxes, target)
        area = (boxes[:, 2:] - boxes[:, :2]).prod(dim=1)
        larger = area >= (target[2:] - target[:2]).prod()
        other = output.inside & ~matching & (overlap < self.FRIEND)
        limit = torch.full_like(area, torch.inf)
        limit[overlap > OVERLAP] = float(best) - self.SLACK
        limit[larger] = math.log(THRESHOLD / (1 - THRESHOLD)) - self.SLACK
        excess = torch.relu(output.margins - limit)[other]
        active = excess > 0
        return excess.max() + excess[active].mean() if bool(active.any()) else output.margins.sum() * 0.0

    @staticmethod
    def _decoded(output: _Output, target: Tensor) -> tuple[Tensor, Tensor]:
        """1 - IoU and the box (4,) of the largest face that reading would give over the target; inf, NaN for none."""
        margins, boxes = output.margins.detach(), output.boxes.detach()
        passed = torch.sigmoid(margins) > THRESHOLD
        boxes, margins = boxes[passed], margins[passed]
        boxes = boxes[suppress(boxes, margins)]
        overlap = iou_tensor(boxes, target)
        boxes, overlap = boxes[overlap > TOUCHES], overlap[overlap > TOUCHES]
        if not len(boxes):
            return torch.full_like(target[0], torch.inf), torch.full_like(target, torch.nan)
        largest = (boxes[:, 2:] - boxes[:, :2]).prod(dim=1).argmax()
        return 1.0 - overlap[largest], boxes[largest]


class RepelObjective(_WindowObjective):
    """Make the detector see no face in the window: a hinge on every prior's margin (TOG-vanishing, arXiv 2004.04320).

    `error` is the top probability in the window, 0..1, to be brought down; `output` is its box.
    """

    SLACK = 3.0
    """The margins are held this far under the threshold."""

    def __init__(self, victim: RetinaFace, frames: Sequence[Image], windows: Sequence[Window]) -> None:
        super().__init__(victim, frames, windows)
        self.limit = math.log(THRESHOLD / (1 - THRESHOLD)) - self.SLACK

    def read(self, pixels: Tensor, items: Sequence[int], geometry: Tensor | None = None) -> Reading:
        """See Objective; no geometry is needed."""
        losses, errors, found = [], [], []
        for output in self._outputs(pixels, items):
            margins = output.margins.masked_fill(~output.inside, -torch.inf)
            excess = torch.relu(margins - self.limit)
            losses.append(excess.max() + excess.sum() / (excess > 0).sum().clamp_min(1))
            top = margins.detach().argmax()
            errors.append(torch.sigmoid(margins.detach()[top]))
            found.append(output.boxes.detach()[top])
        return Reading(torch.stack(losses), torch.stack(errors), torch.stack(found))


_VARIANTS: dict[str, tuple[Callable[[], RetinaFaceNetwork], str]] = {
    "retinaface": (mobilenet_network, "retinaface_mobilenet0.25.pth"),
    "retinaface-resnet50": (resnet50_network, "retinaface_resnet50.pth"),
}


def load_retinaface(name: str, override: Path | None = None, allow_unknown: bool = False) -> RetinaFace:
    """`retinaface` or `retinaface-resnet50` with its published weights, or with `override` (see `store.resolve`)."""
    build, file_name = _VARIANTS[name]
    resolved = store.resolve([file_name], override, allow_unknown)
    network = build()
    load_strict(network, load_state_dict(resolved.path), str(resolved.path))
    return RetinaFace(name, network, {resolved.path.name: resolved.sha256})
