"""Embedding: each frame of a clip from its drawing.

The drawer (attacks/drawer.py) gives every frame's perturbation from its attributes, once it is fitted to the segment
(attacks/tuning.py); the loop in attacks/perturb.py corrects it as far as the effort goes. No frame starts from another
one. Those of a batch are worked on together in one window that holds their heads. Whatever is embedded comes from what
is obscured and from the attributes of faces: no type here holds a pixel of the original.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from attacks.budget import Budget
from attacks.codec import DeliveryCodec, Rect
from attacks.drawer import Attributes, Drawer
from attacks.live import LiveCodec, Sent
from attacks.obscure import CoveredImage
from attacks.perturb import AttackSettings, Channel, Outcome, Stage, perturb
from attacks.visibility import Visibility, visibility
from victims.base import FaceTargets, Role, Window, to_pixels
from victims.camera import Camera
from victims.crew import Each
from victims.face import Face
from victims.observe import Observer

GRID = 32
"""Windows start and end on multiples of this, or at the frame's border: the coarsest stride of a detector, and twice
the codec's macroblock."""

TOLERANCES: dict[Role, float] = {"detector": 0.015, "aligner": 0.001, "gaze": 0.8}
"""Errors that are good enough: 1 - IoU, landmark distance over sqrt(w·h), degrees. They are of the order of what H.264
at CRF 23 costs on an untouched face, half of it for box and landmarks, which the others' steps disturb most."""


@dataclass(frozen=True, eq=False)
class Target:
    """One frame to embed in."""

    index: int
    covered: CoveredImage
    mask: NDArray[np.bool_]
    """(H, W): where the perturbation may be."""
    face: Face
    """What is to be read again."""
    pts_ticks: int
    beside: tuple[Rect, ...] = ()
    """What else in the frame is to be coded more finely."""

    @property
    def focus(self) -> Rect:
        """The rectangle around the mask, which the codec is to code more finely."""
        rows, columns = np.flatnonzero(self.mask.any(axis=1)), np.flatnonzero(self.mask.any(axis=0))
        return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


@dataclass(frozen=True, eq=False)
class Embedded:
    """What became of one frame."""

    index: int
    window: Window
    focus: Rect
    """Where the frame is to be coded more finely."""
    change: NDArray[np.int8]
    """(h, w, 3) what is added to the covered frame in the window, grey levels."""
    errors: Mapping[str, float]
    """Role -> error as the loop last measured it."""
    steps: int
    passes: int
    """Victim passes: how often one victim was run forward and backward over this frame, in the fit and in steps."""
    checks: int
    """Forward runs without a gradient."""
    visibility: Visibility | None = None
    """How much of the change a person sees."""

    def without_pixels(self) -> Embedded:
        """The same with an empty change, to be kept for a whole clip."""
        return replace(self, change=np.zeros((0, 0, 3), np.int8))

    def apply(self, covered: CoveredImage) -> CoveredImage:
        """A new image: the covered frame with the perturbation."""
        image = CoveredImage(covered.copy())
        part = self.window.cut(image)
        part[...] = np.clip(part.astype(np.int16) + self.change, 0, 255).astype(np.uint8)
        return image


@dataclass
class Embedder:
    """Embeds in frames of one clip. `chain` runs on torch, on the device of its victims."""

    chain: Observer
    settings: AttackSettings
    drawer: Drawer
    codec: DeliveryCodec | LiveCodec | None = None
    """What the result is delivered through: seen as coded crops, or, with the encoder of a stream in the state in which
    these frames come next, as it will be in the file. None when that is lossless, or no victim is read."""
    extra_stages: Callable[[Sequence[Target], Window], list[Stage]] | None = None
    """Further objectives for a batch, such as models to repel."""
    each: Each = map
    """What shares the victims among cores."""
    spent: Mapping[tuple[int, int], int] = field(default_factory=dict)
    """(Frame, track) -> victim passes that fitting the drawer took there (attacks/tuning.py)."""

    @property
    def device(self) -> torch.device:
        """Where the victims' tensors are."""
        return self.chain.detector.device

    def embed(self, targets: Sequence[Target], track: int = 0) -> list[Embedded]:
        """Embed in frames, which follow one another in the clip, for one face, that of number `track`."""
        if not targets:
            return []
        window = common_window([target.mask for target in targets])
        budget = self.budget(targets, window)
        attributes = [Attributes.of(target.face) for target in targets]
        drawn = self.drawer.draw([target.covered for target in targets], attributes, window).to(self.device)
        if not self.settings.reads:
            return self._results(targets, track, window, budget, untried(budget, drawn))
        stages, channel = self.stages(targets, window), self.channel(targets, window)
        outcome = perturb(budget, drawn, stages, self.settings, channel, self.each)
        return self._results(targets, track, window, budget, outcome)

    def budget(self, targets: Sequence[Target], window: Window) -> Budget:
        """What may be added to the window of each frame of a batch."""
        masks = [torch.from_numpy(window.cut(target.mask).copy()) for target in targets]
        base = to_pixels([window.cut(target.covered) for target in targets], self.device)
        return Budget(base, torch.stack(masks).unsqueeze(1).to(self.device), self.settings.eps)

    def stages(self, targets: Sequence[Target], window: Window) -> list[Stage]:
        """The chain's objectives for a batch."""
        covered = [target.covered for target in targets]
        windows = [window] * len(targets)
        boxes, detector = np.stack([target.face.box for target in targets]), self.chain.detector
        if self.chain.aligner is None:
            stages = [Stage("detector", detector.objective(covered, windows, boxes), TOLERANCES["detector"])]
        else:
            landmarks = np.stack([target.face.landmarks for target in targets if target.face.landmarks is not None])
            meshes = [target.face.mesh for target in targets if target.face.mesh is not None]
            whole = np.stack(meshes) if len(meshes) == len(targets) else None
            starts, followed = zip(*((target.face.start, target.face.followed) for target in targets), strict=True)
            faces = FaceTargets(boxes, landmarks, whole, starts, followed)
            objective = self.chain.aligner.detector_objective(detector, covered, windows, faces)
            stages = [Stage("detector", objective, TOLERANCES["detector"])]
            objective = self.chain.aligner.objective(covered, windows, faces)
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

    def channel(self, targets: Sequence[Target], window: Window) -> Channel | None:
        """What delivery does to the windows of a batch; None where it does nothing."""
        if self.codec is None:
            return None
        if isinstance(self.codec, LiveCodec):
            return partial(_live, self.codec, targets, window)
        return partial(as_crops, self.codec, [_within(target.focus, window) for target in targets])

    def _results(
        self, targets: Sequence[Target], track: int, window: Window, budget: Budget, outcome: Outcome
    ) -> list[Embedded]:
        base = (budget.base * 255.0).round()
        whole = ((budget.base + outcome.delta).clamp(0.0, 1.0) * 255.0).round()
        # Rounding may overstep eps by half a level; the budget is kept in whole levels too.
        limit = int(budget.eps * 255.0 + 1e-6)
        change = (whole - base).clamp(-limit, limit).to(torch.int8).permute(0, 2, 3, 1).cpu().numpy()
        return [
            Embedded(
                target.index,
                window,
                target.focus,
                change[row],
                {name: float(errors[row]) for name, errors in outcome.errors.items()},
                int(outcome.steps[row]),
                int(outcome.passes[row]) + self.spent.get((target.index, track), 0),
                int(outcome.checks[row]),
                visibility(target.covered, change[row], (window.x, window.y), target.face.box, budget.eps),
            )
            for row, target in enumerate(targets)
        ]


def as_crops(codec: DeliveryCodec, focus: Sequence[Rect], pixels: Tensor) -> Tensor:
    """A channel (see attacks/perturb.py) that codes windows (B, 3, h, w) one after another.

    The first one is coded twice, so that all have the noise of frames that others came before.
    """
    frames = _levels(pixels)
    decoded = codec.roundtrip(np.concatenate([frames[:1], frames]), focus=[[rect] for rect in (focus[0], *focus)])
    return to_pixels(list(decoded[1:]), pixels.device)


def _live(codec: LiveCodec, targets: Sequence[Target], window: Window, pixels: Tensor) -> Tensor:
    """A channel: what comes back of windows (B, 3, h, w) if their frames are next."""
    sent = []
    for target, frame in zip(targets, _levels(pixels), strict=True):
        image = CoveredImage(target.covered.copy())
        window.cut(image)[...] = frame
        sent.append(Sent(image, target.pts_ticks, (*target.beside, target.focus)))
    rect = window.x, window.y, window.x + window.width, window.y + window.height
    return to_pixels(list(codec.trial(sent, rect)), pixels.device)


def _levels(pixels: Tensor) -> NDArray[np.uint8]:
    """(B, 3, h, w) in [0, 1] as (B, h, w, 3) uint8."""
    return (pixels.detach() * 255.0).round().to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()


def untried(budget: Budget, drawn: Tensor) -> Outcome:
    """Drawings (B, 3, h, w) as they are, within the budget, that nobody has read."""
    zeros = torch.zeros(len(drawn), dtype=torch.long)
    return Outcome(budget.project(drawn, list(range(len(drawn)))), {}, zeros, zeros, zeros)


def common_window(masks: Sequence[NDArray[np.bool_]]) -> Window:
    """The least window on the grid that holds every mask (H, W); ends at the frame's border where that is nearer."""
    merged = np.logical_or.reduce(masks)
    height, width = merged.shape
    rows, columns = np.flatnonzero(merged.any(axis=1)), np.flatnonzero(merged.any(axis=0))
    y, x = int(rows[0]) // GRID * GRID, int(columns[0]) // GRID * GRID
    bottom = min(height, -(-(int(rows[-1]) + 1) // GRID) * GRID)
    right = min(width, -(-(int(columns[-1]) + 1) // GRID) * GRID)
    return Window(x, y, right - x, bottom - y)


def _within(rect: Rect, window: Window) -> Rect:
    """A rectangle of the frame in px of the window, clipped to it."""
    x1, x2 = (min(max(x - window.x, 0), window.width) for x in (rect[0], rect[2]))
    y1, y2 = (min(max(y - window.y, 0), window.height) for y in (rect[1], rect[3]))
    return x1, y1, x2, y2
