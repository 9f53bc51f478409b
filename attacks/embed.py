"""Embedding along a clip: what the loop in attacks/perturb.py is fed with, frame after frame.

Frames come in short runs. Each starts from the last perturbation found, carried along with the face by the similarity
that maps its landmarks there onto its landmarks here, so that most frames need few steps or none. The frames of a run
are optimised together, in one window that holds their heads, and are seen through the delivery codec as the short
clip they are, preceded by the frame that went before them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from attacks.budget import Budget
from attacks.codec import DeliveryCodec
from attacks.perturb import AttackSettings, Channel, Outcome, Stage, perturb
from victims.base import Image, Role, Window
from victims.camera import Camera
from victims.face import Array, Face
from victims.observe import Observer

GRID = 32
"""Windows start and end on multiples of this, or at the frame's border: the coarsest stride of a detector, and twice
the codec's macroblock."""

TOLERANCES: dict[Role, float] = {"detector": 0.012, "aligner": 0.007, "gaze": 1.0}
"""Errors that are good enough: 1 - IoU, landmark distance over sqrt(w·h), degrees."""


@dataclass(frozen=True, eq=False)
class Target:
    """One frame to embed in."""

    index: int
    covered: Image
    """(H, W, 3) uint8 RGB, every head obscured."""
    mask: NDArray[np.bool_]
    """(H, W): where the perturbation may be."""
    original: Image
    """(H, W, 3) uint8 RGB, untouched; for targets that are inner outputs of a victim. Never written."""
    face: Face
    """What is to be read again."""


@dataclass(frozen=True, eq=False)
class Embedded:
    """What became of one frame."""

    index: int
    window: Window
    change: NDArray[np.int8]
    """(h, w, 3) what is added to the covered frame in the window, grey levels."""
    errors: Mapping[str, float]
    """Role -> error as the loop last measured it."""
    steps: int
    passes: int
    """Victim passes: how often one victim was run forward and backward over this frame."""
    checks: int
    """Forward runs without a gradient."""

    def without_pixels(self) -> Embedded:
        """The same with an empty change, to be kept for a whole clip."""
        return replace(self, change=np.zeros((0, 0, 3), np.int8))

    def with_pixels(self, change: NDArray[np.int8]) -> Embedded:
        return replace(self, change=change)

    def adding(self, earlier: Embedded) -> Embedded:
        """The same with the cost of `earlier` work on this frame added."""
        return replace(
            self,
            steps=self.steps + earlier.steps,
            passes=self.passes + earlier.passes,
            checks=self.checks + earlier.checks,
        )

    def apply(self, covered: Image) -> Image:
        """A new image: the covered frame with the perturbation."""
        image = covered.copy()
        part = self.window.cut(image)
        part[...] = np.clip(part.astype(np.int16) + self.change, 0, 255).astype(np.uint8)
        return image


@dataclass
class _Last:
    """Where the next run starts from."""

    delta: Tensor  # (3, h, w)
    window: Window
    landmarks: Array
    image: Image


@dataclass
class Embedder:
    """Embeds runs of frames of one clip, in order. `chain` runs on torch, on the device of its victims."""

    chain: Observer
    settings: AttackSettings
    codec: DeliveryCodec | None = None
    """What the result is delivered through; None when that is lossless."""
    warm_steps: int = 3
    """Limit of steps for a frame that starts from its neighbour's perturbation."""
    extra_stages: Callable[[Sequence[Target], Window], list[Stage]] | None = None
    """Further objectives for a batch, such as models to repel."""
    _last: _Last | None = field(default=None, repr=False)

    @property
    def device(self) -> torch.device:
        return self.chain.detector.device

    def embed(self, targets: Sequence[Target]) -> list[Embedded]:
        """Embed a run of frames, which follow one another in the clip."""
        if not targets:
            return []
        done: list[Embedded] = []
        if self._last is None:
            # from nothing it takes many steps: for one frame, not for all of them
            done += self._run(targets[:1], self.settings.steps, None)
            targets = targets[1:]
        # Only a codec needs to see frames together; without one each starts from the frame just before it.
        size = 1 if self.codec is None else max(1, len(targets))
        for begin in range(0, len(targets), size):
            done += self._run(targets[begin : begin + size], min(self.warm_steps, self.settings.steps), None)
        return done

    def improve(
        self, targets: Sequence[Target], embedded: Sequence[Embedded], decoded: Sequence[Image], steps: int
    ) -> list[Embedded]:
        """More steps for frames that fall short in the written file. What the codec did to each of them there,
        `decoded` minus what was written, is taken to stay as it is."""
        return self._run(targets, steps, (embedded, decoded))

    def _run(
        self,
        targets: Sequence[Target],
        steps: int,
        written: tuple[Sequence[Embedded], Sequence[Image]] | None,
    ) -> list[Embedded]:
        window = common_window([target.mask for target in targets])
        budget = Budget(
            _stack([window.cut(target.covered) for target in targets], self.device),
            torch.stack([torch.from_numpy(window.cut(target.mask).copy()) for target in targets])
            .unsqueeze(1)
            .to(self.device),
            self.settings.eps,
        )
        if written is None:
            start = torch.stack([self._carried(target, window) for target in targets]).to(self.device)
            channel = self._codec_channel(window)
        else:
            embedded, decoded = written
            start = torch.stack([moved(_change(e), e.window, window) for e in embedded]).to(self.device)
            sent = torch.stack(
                [
                    _stack([window.cut(e.apply(t.covered))], self.device)[0]
                    for e, t in zip(embedded, targets, strict=True)
                ]
            )
            residual = _stack([window.cut(image) for image in decoded], self.device) - sent
            channel = partial(_with_residual, residual=residual)
        settings = replace(self.settings, steps=steps)
        outcome = perturb(budget, start, self.stages(targets, window), settings, channel)
        results = _results(targets, window, budget, outcome)
        if written is None:
            self._last = _Last(
                outcome.delta[-1].cpu(), window, _landmarks(targets[-1].face), results[-1].apply(targets[-1].covered)
            )
        return results

    def stages(self, targets: Sequence[Target], window: Window) -> list[Stage]:
        """The chain's objectives for a batch."""
        covered = [target.covered for target in targets]
        windows = [window] * len(targets)
        boxes = np.stack([target.face.box for target in targets])
        stages = [Stage("detector", self.chain.detector.objective(covered, windows, boxes), TOLERANCES["detector"])]
        if self.chain.aligner is not None:
            landmarks = np.stack([_landmarks(target.face) for target in targets])
            originals = [target.original for target in targets]
            objective = self.chain.aligner.objective(covered, windows, boxes, landmarks, originals)
            stages.append(Stage("aligner", objective, TOLERANCES["aligner"], "detector"))
            if self.chain.gaze is not None:
                gaze = np.stack([target.face.gaze for target in targets if target.face.gaze is not None])
                height, width = covered[0].shape[:2]
                camera = self.chain.camera or Camera.default(width, height)
                look = self.chain.gaze.objective(covered, windows, landmarks, gaze, camera)
                stages.append(Stage("gaze", look, TOLERANCES["gaze"], "aligner"))
        if self.extra_stages is not None:
            stages += self.extra_stages(targets, window)
        return stages

    def _carried(self, target: Target, window: Window) -> Tensor:
        """The last perturbation as it lies on this frame's face."""
        last = self._last
        if last is None:
            return torch.zeros(3, window.height, window.width)
        matrix = similarity(last.landmarks, _landmarks(target.face))
        return moved(last.delta, last.window, window, matrix)

    def _codec_channel(self, window: Window) -> Channel | None:
        codec, last = self.codec, self._last
        if codec is None:
            return None

        def through(pixels: Tensor) -> Tensor:
            frames = (pixels.detach() * 255.0).round().to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()
            before = [] if last is None else [window.cut(last.image)]
            decoded = codec.roundtrip(np.stack([*before, *frames]))
            return _stack(list(decoded[len(before) :]), pixels.device)

        return through


def common_window(masks: Sequence[NDArray[np.bool_]]) -> Window:
    """The least window on the grid that holds every mask (H, W); ends at the frame's border where that is nearer."""
    merged = np.logical_or.reduce(masks)
    height, width = merged.shape
    rows, columns = np.flatnonzero(merged.any(axis=1)), np.flatnonzero(merged.any(axis=0))
    y, x = int(rows[0]) // GRID * GRID, int(columns[0]) // GRID * GRID
    bottom = min(height, -(-(int(rows[-1]) + 1) // GRID) * GRID)
    right = min(width, -(-(int(columns[-1]) + 1) // GRID) * GRID)
    return Window(x, y, right - x, bottom - y)


def similarity(source: Array, target: Array) -> Array:
    """The least-squares similarity (2, 3), rotation, scale and shift, that maps points (n, 2) onto others."""
    middle, goal = source.mean(axis=0), target.mean(axis=0)
    a, b = source - middle, target - goal
    square = max(float((a * a).sum()), 1e-9)
    cosine = float((a * b).sum()) / square
    sine = float((a[:, 0] * b[:, 1] - a[:, 1] * b[:, 0]).sum()) / square
    linear = np.array([[cosine, -sine], [sine, cosine]])
    return np.concatenate([linear, (goal - linear @ middle)[:, None]], axis=1)


def moved(delta: Tensor, source: Window, target: Window, matrix: Array | None = None) -> Tensor:
    """A perturbation (3, h, w) of window `source` as it lies in window `target`, the frame moved by `matrix`."""
    if matrix is None:
        matrix = np.eye(2, 3)
        if source == target:
            return delta
    local = matrix.copy()
    local[:, 2] += matrix[:, :2] @ [source.x, source.y] - [target.x, target.y]
    picture = np.ascontiguousarray(delta.permute(1, 2, 0).cpu().numpy())
    warped = cv2.warpAffine(picture, local, (target.width, target.height), flags=cv2.INTER_LINEAR)
    return torch.from_numpy(warped).permute(2, 0, 1).contiguous()


def _with_residual(pixels: Tensor, residual: Tensor) -> Tensor:
    return (pixels + residual).clamp(0.0, 1.0)


def _landmarks(face: Face) -> Array:
    """The face's landmarks, or where there is no aligner the corners of its box."""
    if face.landmarks is not None:
        return face.landmarks
    x1, y1, x2, y2 = face.box
    return np.array([[x1, y1], [x2, y1], [x2, y2], [x1, y2]])


def _stack(images: Sequence[Image], device: torch.device) -> Tensor:
    stacked = torch.from_numpy(np.ascontiguousarray(np.stack(images))).to(device)
    return stacked.permute(0, 3, 1, 2).float() / 255.0


def _change(embedded: Embedded) -> Tensor:
    return torch.from_numpy(embedded.change.astype(np.float32)).permute(2, 0, 1) / 255.0


def _results(targets: Sequence[Target], window: Window, budget: Budget, outcome: Outcome) -> list[Embedded]:
    base = (budget.base * 255.0).round()
    whole = ((budget.base + outcome.delta).clamp(0.0, 1.0) * 255.0).round()
    # Rounding may overstep eps by half a level; the budget is kept in whole levels too.
    limit = int(budget.eps * 255.0 + 1e-6)
    change = (whole - base).clamp(-limit, limit).to(torch.int8).permute(0, 2, 3, 1).cpu().numpy()
    return [
        Embedded(
            target.index,
            window,
            change[row],
            {name: float(errors[row]) for name, errors in outcome.errors.items()},
            int(outcome.steps[row]),
            int(outcome.passes[row]),
            int(outcome.checks[row]),
        )
        for row, target in enumerate(targets)
    ]
