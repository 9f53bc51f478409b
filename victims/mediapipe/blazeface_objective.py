"""BlazeFace under attack."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from victims.base import Image, Objective, Reading, Window
from victims.boxes import box_distance, iou_tensor
from victims.face import Array
from victims.mediapipe.blazeface import OVERLAP, BlazeFace, Candidates
from victims.mediapipe.regions import RegionPixels, letterbox

_EYES = slice(0, 2)
"""The first of the six points. The angle of their line turns the mesh's region, and the client takes nothing else of
the six."""
SLACK = 3.0
"""Logits of faces that are not to be seen are held this far under the threshold."""
QUIET = 0.35
"""Score under which a face that was followed is well enough hidden."""
LOUD = 0.65
"""Score from which on a face is found for sure: what is lacking counts as much as that part of a box."""
TURNED = 0.5
"""Error of a region that is turned by a radian: 1.7 degrees are as bad as a box's tolerance, 1 - IoU of 0.015."""


class _WindowObjective(Objective):
    """What both objectives share: the candidates of the whole frame while its window changes."""

    def __init__(self, victim: BlazeFace, frames: Sequence[Image], windows: Sequence[Window]) -> None:
        self.victim = victim
        self.windows = torch.tensor(
            [[w.x, w.y, w.x + w.width, w.y + w.height] for w in windows], dtype=torch.float32, device=victim.device
        )
        self.square = letterbox(*frames[0].shape[:2])
        squares = np.tile(self.square, (len(frames), 1))
        self._pixels = RegionPixels(frames, windows, squares, victim.model.size, False, victim.device)

    def inside(self, boxes: Tensor, rows: Tensor) -> Tensor:
        """(n, A) bool: the candidate's centre is in the window."""
        centres = (boxes[..., :2] + boxes[..., 2:]) / 2
        own = self.windows[rows][:, None]
        return ((centres >= own[..., :2]) & (centres <= own[..., 2:])).all(dim=-1)

    def alarm(self, found: Candidates, rows: Tensor) -> Reading:
        """The best score in the window, its box, and a hinge on logits that are not SLACK under the threshold."""
        threshold = self.victim.model.threshold
        limit = math.log(threshold / (1.0 - threshold)) - SLACK
        logits = found.logits.masked_fill(~self.inside(found.boxes.detach(), rows), -torch.inf)
        top = logits.detach().argmax(dim=1)
        score = torch.sigmoid(logits.detach()).gather(1, top[:, None])[:, 0]
        box = found.boxes.detach()[torch.arange(len(rows), device=top.device), top]
        return Reading(_hinge(torch.relu(logits - limit)), score, box)


class BlazeFaceObjective(_WindowObjective):
    """Make the detector return one box a frame, and eyes on a line at the angle of those that are given.

    The answer is a mean over candidates, so all that take part must agree, and which ones do is decided by scores.
    Distances d are in sizes of the target (`victims.boxes.box_distance`, and TURN times the sine of the angle between
    the line of the eyes and the target's). Every anchor has a share, softmax(-SHARP d) as it is now: those of other
    sizes and places never come near, and asking them to would drown the rest.

        d                                   of the weighted mean of whoever takes part now
        + 0.25 · hinge(2 - Σ w logit)       with w softmax(logit - SHARP d): some that are near fire
        + l · 0.3 · Σ share d               those that come near are drawn along while l = the larger of that hinge / 2
              and d / NEAR, at most 1 (1 where none takes part), is left
        + 0.25 · hinge against rivals       candidates of the window that overlap the target by less than FRIEND are
              held under logit -1, where they neither become a face of their own nor join the mean

    What is asked of others fades, since in the original they do not all fit (as in
    `victims.retinaface.RetinaFaceObjective`), so that the loss can come near 0. The error is 1 - IoU, or what the turn
    of the eyes' line is worth, or what the score lacks of LOUD, if that is more. In frames that are `unseen` nothing is
    to be found: their error is the best score, or 0 once that is under QUIET.
    """

    MARGIN = 2.0
    """A score of 0.88."""
    NEAR = 0.1
    """Distance of the mean under which what is asked of others fades."""
    SHARP = 10.0
    FRIEND = 0.5
    RIVAL = -1.0
    TURN = 1.0
    """Weight of the sine of the angle by which the line of the eyes is turned, beside the box's distance."""
    SPREAD = True
    """Whether gradients are spread, see `_seen`."""

    def __init__(
        self,
        victim: BlazeFace,
        frames: Sequence[Image],
        windows: Sequence[Window],
        boxes: Array,
        eyes: Array | None = None,
        unseen: Sequence[bool] = (),
    ) -> None:
        """`boxes` (B, 4) px; `eyes` (B, 2, 2) px, the person's right one first, where these are asked for, too.

        `unseen` (B,), or () for none.
        """
        super().__init__(victim, frames, windows)
        self.targets = torch.from_numpy(np.asarray(boxes, dtype=np.float32)).to(victim.device)
        given = np.full((len(frames), 2, 2), np.nan) if eyes is None else np.asarray(eyes)
        self.eyes = torch.from_numpy(given.astype(np.float32)).to(victim.device)
        self.unseen = torch.tensor(list(unseen) or [False] * len(frames), device=victim.device)

    def _seen(self, pixels: Tensor, rows: Tensor) -> Tensor:
        """(n, 3, size, size) what the network sees, with a gradient for all that lies around each sample.

        The client takes one pixel of each 10 x 10 of a 720p frame. Of a gradient in these pixels alone the smoothing
        of steps (attacks/perturb.py) leaves a twentieth; one that is spread over the 10 x 10 is right for every change
        that is smooth.
        """
        seen = self._pixels.read(pixels, rows)
        if not self.SPREAD or not pixels.requires_grad:
            return seen
        return seen.detach() + self._pixels.around(pixels, rows)

    def read(self, pixels: Tensor, items: Sequence[int], geometry: Tensor | None = None) -> Reading:
        """See Objective; detectors take no geometry."""
        return self.read_with_eyes(pixels, items)[0]

    def read_with_eyes(self, pixels: Tensor, items: Sequence[int]) -> tuple[Reading, Tensor]:
        """The same, with the eyes (n, 2, 2) px of each face that is read; NaN where there is none."""
        rows = torch.as_tensor(list(items), device=self.victim.device)
        found = self.victim.candidates(self._seen(pixels, rows), self.square)
        boxes, wanted = self.targets[rows], self.eyes[rows]
        apart = self._distance(found.boxes, found.points[..., _EYES, :], boxes[:, None], wanted[:, None])
        sharp = -self.SHARP * apart
        share, first = torch.softmax(sharp, dim=1), torch.softmax(sharp + found.logits, dim=1)
        box, eyes, some = self._mean_now(found, boxes)
        now = torch.where(some, self._distance(box, eyes, boxes, wanted), 0.0)
        near = (first * found.logits).sum(dim=1)
        short = torch.relu(self.MARGIN - near)
        lack = torch.where(some, torch.maximum(short / self.MARGIN, now / self.NEAR).detach().clamp_max(1.0), 1.0)
        loss = now + 0.25 * short + lack * 0.3 * (share * apart).sum(dim=1) + 0.25 * self._rivals(found, rows)
        error = (1.0 - iou_tensor(box, boxes)).fmax(TURNED * _sine(eyes, wanted).abs())
        error = error.fmax(LOUD - torch.sigmoid(near)).detach()
        error, unseen = error.masked_fill(~some, torch.inf), self.unseen[rows]
        if unseen.any():
            alarm = self.alarm(found, rows)
            loss = torch.where(unseen, alarm.loss, loss)
            error = torch.where(unseen, alarm.error * (alarm.error > QUIET), error)
        box = box.detach().masked_fill((unseen | ~some)[:, None], torch.nan)
        return Reading(loss, error, box), eyes.detach()

    def _distance(self, boxes: Tensor, eyes: Tensor, targets: Tensor, wanted: Tensor) -> Tensor:
        """(...) of boxes (..., 4) and eyes (..., 2, 2); the angle of eyes that are NaN is not asked for."""
        turned = _sine(eyes, torch.nan_to_num(wanted)).square().add(1e-6).sqrt()
        known = torch.isfinite(wanted).all(dim=-1).all(dim=-1)
        return box_distance(boxes, targets.expand_as(boxes)) + self.TURN * torch.where(known, turned, 0.0)

    def _mean_now(self, found: Candidates, boxes: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Box (n, 4) and eyes (n, 2, 2) of the weighted mean that reading takes; whether (n,) anything fires there.

        Without, they are 0.
        """
        with torch.no_grad():
            firing = torch.sigmoid(found.logits) >= self.victim.model.threshold
            near = firing & (iou_tensor(found.boxes, boxes[:, None].expand_as(found.boxes)) > OVERLAP)
            best = found.logits.masked_fill(~near, -torch.inf).argmax(dim=1)
            leader = found.boxes[torch.arange(len(best), device=best.device), best]
            group = firing & (iou_tensor(found.boxes, leader[:, None].expand_as(found.boxes)) > OVERLAP)
            some = near.any(dim=1)
        weights = functional.normalize(torch.sigmoid(found.logits) * group, p=1.0, dim=1)
        eyes = (weights[..., None, None] * found.points[..., _EYES, :]).sum(dim=1)
        return (weights[..., None] * found.boxes).sum(dim=1), eyes, some

    def _rivals(self, found: Candidates, rows: Tensor) -> Tensor:
        boxes = found.boxes.detach()
        overlap = iou_tensor(boxes, self.targets[rows][:, None].expand_as(boxes))
        rival = self.inside(boxes, rows) & (overlap < self.FRIEND)
        return _hinge(torch.relu(found.logits - self.RIVAL) * rival)


class BlazeFaceRepelObjective(_WindowObjective):
    """Make the detector see no face in the window: a hinge on every candidate's logit.

    `error` is the best score in the window, 0..1, to be brought down; `output` is its box.
    """

    def read(self, pixels: Tensor, items: Sequence[int], geometry: Tensor | None = None) -> Reading:
        """See Objective; no geometry is needed."""
        rows = torch.as_tensor(list(items), device=self.victim.device)
        return self.alarm(self.victim.candidates(self._pixels.read(pixels, rows), self.square), rows)


def _sine(one: Tensor, other: Tensor) -> Tensor:
    """(...) of the angle between the lines through two pairs of points (..., 2, 2)."""
    line, target = one[..., 1, :] - one[..., 0, :], other[..., 1, :] - other[..., 0, :]
    cross = line[..., 0] * target[..., 1] - line[..., 1] * target[..., 0]
    sine: Tensor = cross / (line.norm(dim=-1) * target.norm(dim=-1)).clamp_min(1e-6)
    return sine


def _hinge(excess: Tensor) -> Tensor:
    """(n,) the largest plus the mean of what is over, of (n, A)."""
    return excess.amax(dim=1) + excess.sum(dim=1) / (excess > 0).sum(dim=1).clamp_min(1)
