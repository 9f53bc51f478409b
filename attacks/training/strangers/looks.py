"""The objectives of the zoo's models: what is asked of them in the windows of a batch of frames.

While a gradient is wanted each look is another one: another size, and another place on the network's grid or another
crop (input diversity, Xie et al. 2019, arXiv 1803.06978). Without a gradient a look is plain, and the same each time.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Sequence
from typing import Protocol

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional
from typing_extensions import override

from victims.base import Detector, ExportSpec, Image, Objective, Reading, Window
from victims.face import Array
from weights.errors import UsageError

UNSEEN = -3.0
"""Log odds of a face under which a detector's outputs are let be: a score of 0.05, where detectors report from 0.5."""
NEAR = 1.25
"""Cells whose centres lie in the head's box, widened by this, say whether it is seen."""
GRID = 32
"""px of which a detector's input has a multiple on each side."""
PIXELS = 600_000
"""Of a batch that a detector looks at."""
SIDES = (64, 448)
"""px: least and greatest side of a window as a detector looks at it."""
SMALLEST = 0.55
"""Of that side, at random."""
JITTER = 0.04
"""Standard deviation of an aligner's box, in its sides."""


class Stranger(Detector):
    """A detector that can be repelled, and neither authorised nor exported."""

    @abstractmethod
    def faces_seen(self, pixels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """What it sees in pixels (N, 3, H, W), H and W multiples of 32; differentiable.

        Returns boxes (N, P, 4) px, the log odds (N, P) that each is of a face, and the centres (P, 2) of the cells that
        say so.
        """

    def objective(self, frames: Sequence[Image], windows: Sequence[Window], boxes: Array) -> Objective:
        """Raises UsageError."""
        raise UsageError(f"{self.name} is there to be repelled; authorise another detector.")

    def repel_objective(self, frames: Sequence[Image], windows: Sequence[Window], boxes: Array) -> Objective:
        """See Detector and `UnseenObjective`."""
        return UnseenObjective(self, windows, boxes)

    @override
    def export_specs(self) -> dict[str, ExportSpec]:
        return {}


class ReadsSquares(Protocol):
    """What is needed of an aligner."""

    def squares(self, boxes: Tensor) -> Tensor:
        """The squares (N, 4) that are cut for boxes (N, 4), px."""

    def read_squares(self, pixels: Tensor, squares: Tensor) -> Tensor:
        """See `ZooAligner.read_squares`."""


class UnseenObjective(Objective):
    """Make a detector of the zoo see no face near `boxes` (B, 4).

    This is TOG's vanishing objective (arXiv 2004.04320) on the cells near the box. `error` is the best score there;
    `output` its box. Only the windows are looked at, at a smaller size.
    """

    def __init__(self, victim: Stranger, windows: Sequence[Window], boxes: Array) -> None:
        self.victim = victim
        self.corners = torch.tensor([[window.x, window.y] for window in windows], dtype=torch.float32)
        self.boxes = torch.from_numpy(np.asarray(boxes, dtype=np.float32)) - self.corners.repeat(1, 2)

    def read(self, pixels: Tensor, items: Sequence[int], geometry: Tensor | None = None) -> Reading:
        """See Objective; no geometry is needed."""
        rows = list(items)
        look, scale, shift = _look(pixels)
        boxes, margins, centres = self.victim.faces_seen(look)
        own = self.boxes[rows]
        middle, reach = (own[:, :2] + own[:, 2:]) / 2, NEAR * (own[:, 2:] - own[:, :2]) / 2
        centres = (centres - shift) / scale
        near = ((centres - middle[:, None]).abs() <= reach[:, None]).all(dim=2)
        margins = margins.masked_fill(~near, -torch.inf)
        excess = torch.relu(margins - UNSEEN)
        loss = excess.amax(dim=1) + excess.sum(dim=1) / (excess > 0).sum(dim=1).clamp_min(1)
        best, top = margins.detach().max(dim=1)
        found = (boxes.detach()[torch.arange(len(rows)), top] - shift.repeat(2)) / scale
        return Reading(loss, torch.sigmoid(best), found + self.corners[rows].repeat(1, 2))


def _look(pixels: Tensor) -> tuple[Tensor, float, Tensor]:
    """The picture as a detector gets it, its scale, and where (x, y) its corner lies."""
    count, _, height, width = pixels.shape
    longer = max(height, width)
    side = min(max(min(math.sqrt(PIXELS / count), longer), SIDES[0]), SIDES[1])
    left, top = 0, 0
    if torch.is_grad_enabled():
        side = max(SIDES[0], side * (SMALLEST + (1.0 - SMALLEST) * float(torch.rand(()))))
        left, top = torch.randint(GRID, (2,)).tolist()
    size = (round(height * side / longer), round(width * side / longer))
    small = functional.interpolate(pixels, size, mode="bilinear", antialias=True, align_corners=False)
    return padded(small, left, top), side / longer, torch.tensor([left, top], dtype=torch.float32)


class PointsObjective(Objective):
    """Make an aligner of the zoo read `landmarks` (B, 68, 2) in `boxes` (B, 4).

    The boxes are used whatever box was read before: a stranger may know where the head is. Only the windows are looked
    at. The loss is the error itself.
    """

    def __init__(self, victim: ReadsSquares, windows: Sequence[Window], boxes: Array, landmarks: Array) -> None:
        self.victim = victim
        self.corners = torch.tensor([[window.x, window.y] for window in windows], dtype=torch.float64)
        self.boxes = torch.from_numpy(np.asarray(boxes, dtype=np.float64)) - self.corners.repeat(1, 2)
        self.landmarks = torch.from_numpy(np.asarray(landmarks, dtype=np.float64)) - self.corners[:, None]

    def read(self, pixels: Tensor, items: Sequence[int], geometry: Tensor | None = None) -> Reading:
        """See Objective; `geometry` is not used."""
        rows = list(items)
        own = self.boxes[rows]
        size = own[:, 2:] - own[:, :2]
        told = own + JITTER * torch.randn(len(rows), 4) * size.repeat(1, 2) if torch.is_grad_enabled() else own
        points = self.victim.read_squares(pixels, self.victim.squares(told))
        error = (points - self.landmarks[rows]).norm(dim=2).mean(dim=1) / size.prod(dim=1).sqrt()
        return Reading(error.float(), error.detach().float(), (points.detach() + self.corners[rows][:, None]).float())


def padded(pixels: Tensor, left: int = 0, top: int = 0) -> Tensor:
    """Pixels with black on all sides: `left` and `top` px there, and up to multiples of 32 on the others."""
    height, width = pixels.shape[2] + top, pixels.shape[3] + left
    return functional.pad(pixels, (left, -width % GRID, top, -height % GRID))
