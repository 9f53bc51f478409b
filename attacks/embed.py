"""Embedding along a clip: what the loop in attacks/perturb.py is fed with, frame after frame.

Frames come in short runs. Each starts from the last perturbation found, carried along with the face by the similarity
that maps its landmarks there onto its landmarks here, so that most frames need few steps or none. The frames of a run
are optimised together, in one window that holds their heads, and are seen through the delivery codec as the next
frames of the file that is being written.
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
from attacks.codec import DeliveryCodec, Rect
from attacks.live import LiveCodec, Sent
from attacks.perturb import AttackSettings, Channel, Outcome, Stage, perturb
from victims.base import Image, Role, Window
from victims.camera import Camera
from victims.face import Array, Face
from victims.observe import Observer

GRID = 32
"""Windows start and end on multiples of this, or at the frame's border: the coarsest stride of a detector, and twice
the codec's macroblock."""

TOLERANCES: dict[Role, float] = {"detector": 0.015, "aligner": 0.001, "gaze": 0.8}
"""Errors that are good enough: 1 - IoU, landmark distance over sqrt(w·h), degrees. They are of the order of what H.264
at CRF 23 costs on an untouched face, half of it for box and landmarks, which the others' steps disturb most."""
BEHIND, BEHIND_SPARING = 0.25, 0.4
"""In a frame that starts warm, a victim with less than this share of the worst one's error does not push; the second
where the passes that this saves are steps of the others."""
LEAST = 2
"""Steps that such a frame takes even where victim passes are owed, and ..."""
MOST = 3
"""... how many times the usual number where they are left over."""
OWED = 1 / 3
"""Share of a frame's passes that goes, at most, into what frames before it owe: the steps of a cold start are paid over
some fifteen frames. Sooner, and those are as poor as the clip gets."""
TRIES = 4
"""Points at and near the mean of its iterates that are tried for a frame."""


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
    landmarks: Array  # (n, 2) where they are drawn, so that carrying corrects what is off
    image: Image
    focus: Rect


@dataclass
class Allowance:
    """Victim passes that frames may take, whoever embeds in them: more in one where others took fewer."""

    mean: float
    """Of all frames."""
    saved: float = 0.0
    """How many fewer were taken so far; below zero, how many more."""

    def each(self, frames: int) -> float:
        """How many each of the next `frames` may take."""
        return max(self.mean + self.saved / frames, (1.0 - OWED) * self.mean)

    def taken(self, passes: Tensor) -> None:
        """Book the passes (n,) of n frames."""
        self.saved += float((self.mean - passes).sum())


@dataclass
class Embedder:
    """Embeds runs of frames of one clip, in order. `chain` runs on torch, on the device of its victims."""

    chain: Observer
    settings: AttackSettings
    codec: LiveCodec | None = None
    """What the result is delivered through, in the state in which the next run begins; None when that is lossless."""
    warm_steps: int = 3
    """Steps of a frame that starts from its neighbour's perturbation; one that is poor then gets as many again,
    or MOST times as many in all where there is an `allowance`."""
    allowance: Allowance | None = None
    """What is kept to, with the first frame included: frames that start warm take up to MOST times their steps where it
    allows. Where it does not, and they are not poor, they take LEAST, or their steps if what is embedded is to be
    `robust`."""
    extra_stages: Callable[[Sequence[Target], Window], list[Stage]] | None = None
    """Further objectives for a batch, such as models to repel."""
    robust: bool = False
    """Draw more boldly, take every second gradient through another delivery (`DETOURS`), and twice the warm steps: what
    is embedded then outlives a transcoding better."""
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
        warm = self.warm_steps * (2 if self.robust else 1)
        for begin in range(0, len(targets), size):
            done += self._run(targets[begin : begin + size], min(warm, self.settings.steps), None)
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
        others: list[Channel] = []
        if written is None:
            start = torch.stack([self._carried(target, window) for target in targets]).to(self.device)
            focus = [target.focus for target in targets]
            channel = None if self.codec is None else partial(_live, self.codec, targets, window)
            others = self._detours(focus, window)
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
        begun = written is not None or self._last is not None
        settings = replace(self.settings, steps=steps, tries=TRIES)
        if begun:
            settings = replace(settings, behind=BEHIND if self.allowance is None else BEHIND_SPARING)
        if written is None and begun:
            settings = replace(settings, extra=steps)
            if self.allowance is not None:
                least, allowed = steps if self.robust else min(LEAST, steps), self.allowance.each(len(targets))
                settings = replace(settings, steps=least, extra=MOST * steps - least, passes=allowed)
        outcome = perturb(budget, start, self.stages(targets, window), settings, channel, others)
        results = _results(targets, window, budget, outcome)
        if written is None:
            if self.allowance is not None:
                self.allowance.taken(outcome.passes)
            last, image = targets[-1], results[-1].apply(targets[-1].covered)
            self._last = _Last(outcome.going_on[-1].cpu(), window, _drawn_at(outcome, last.face), image, last.focus)
        return results

    def stages(self, targets: Sequence[Target], window: Window) -> list[Stage]:
        """The chain's objectives for a batch."""
        covered = [target.covered for target in targets]
        windows = [window] * len(targets)
        boxes = np.stack([target.face.box for target in targets])
        stages = [Stage("detector", self.chain.detector.objective(covered, windows, boxes), TOLERANCES["detector"])]
        if self.chain.aligner is not None:
            landmarks = np.stack([_landmarks(target.face) for target in targets])
            objective = self.chain.aligner.objective(covered, windows, boxes, landmarks)
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
        """The last perturbation as it lies on this frame's face; drawn more boldly where a codec's noise is to drown
        in it."""
        last = self._last
        if last is None:
            return torch.zeros(3, window.height, window.width)
        delta = carried(last.delta, last.window, window, last.landmarks, _landmarks(target.face))
        if self.codec is None:
            return delta
        strength = ROBUST_STRENGTH if self.robust else STRENGTH
        return bolder(delta, window, target.face, strength * self.settings.eps)

    def _detours(self, focus: Sequence[Rect], window: Window) -> list[Channel]:
        """Other ways in which frames may reach a reader."""
        if not self.robust:
            return []
        channels: list[Channel] = [partial(each_frame, change=change) for change in DETOURS]
        if self.codec is not None:
            own = self.codec.settings
            for offset in (5, -5):
                codec = DeliveryCodec(replace(own, crf=min(max(own.crf + offset, 0), 51)))
                channels.insert(0, self._other_codec(codec, focus, window))
        return channels

    def _other_codec(self, codec: DeliveryCodec, focus: Sequence[Rect], window: Window) -> Channel:
        last = self._last
        rects = [[_within(rect, window)] for rect in ([] if last is None else [last.focus]) + list(focus)]

        def through(pixels: Tensor) -> Tensor:
            frames = (pixels.detach() * 255.0).round().to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()
            before = [] if last is None else [window.cut(last.image)]
            decoded = codec.roundtrip(np.stack([*before, *frames]), focus=rects)
            return _stack(list(decoded[len(before) :]), pixels.device)

        return through


def _live(codec: LiveCodec, targets: Sequence[Target], window: Window, pixels: Tensor) -> Tensor:
    """A channel (see attacks/perturb.py): what comes back of windows (B, 3, h, w) if their frames are next."""
    frames = (pixels.detach() * 255.0).round().to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()
    sent = []
    for target, frame in zip(targets, frames, strict=True):
        image = target.covered.copy()
        window.cut(image)[...] = frame
        sent.append(Sent(image, target.pts_ticks, (*target.beside, target.focus)))
    rect = window.x, window.y, window.x + window.width, window.y + window.height
    return _stack(list(codec.trial(sent, rect)), pixels.device)


def each_frame(pixels: Tensor, change: Callable[[Image], Image]) -> Tensor:
    """A channel (see attacks/perturb.py) that changes frames one by one."""
    frames = (pixels.detach() * 255.0).round().to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()
    return _stack([change(np.ascontiguousarray(frame)) for frame in frames], pixels.device)


def as_jpeg(image: Image, quality: int) -> Image:
    """(H, W, 3) RGB through JPEG, as MJPEG video has it."""
    _, data = cv2.imencode(".jpg", image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])
    return np.ascontiguousarray(np.asarray(cv2.imdecode(data, cv2.IMREAD_COLOR))[..., ::-1]).astype(np.uint8)


def rescaled(image: Image, scale: float) -> Image:
    """(H, W, 3) resized by `scale` and back."""
    height, width = image.shape[:2]
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    there = cv2.resize(image, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC)
    back = cv2.INTER_CUBIC if scale < 1 else cv2.INTER_AREA
    return cv2.resize(there, (width, height), interpolation=back).astype(np.uint8)


DETOURS: tuple[Callable[[Image], Image], ...] = (
    partial(as_jpeg, quality=60),
    partial(rescaled, scale=0.75),
    partial(rescaled, scale=1.25),
)


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


def moved(delta: Tensor, source: Window, target: Window) -> Tensor:
    """A perturbation (3, h, w) of window `source` as it lies in window `target` of the same frame."""
    if source == target:
        return delta
    picture = np.ascontiguousarray(delta.permute(1, 2, 0).cpu().numpy())
    shift = np.array([[1.0, 0.0, source.x - target.x], [0.0, 1.0, source.y - target.y]])
    warped = cv2.warpAffine(picture, shift, (target.width, target.height), flags=cv2.INTER_NEAREST)
    return torch.from_numpy(warped).permute(2, 0, 1).contiguous()


FEEDBACK = 0.8
"""Share of the landmarks' error that carrying takes back; the rest of what is read is the codec's noise."""
REACH = 0.06
"""How far around a landmark its own movement is felt, in sizes of the face: about a third of an eye's distance from
the other."""


def carried(delta: Tensor, source: Window, target: Window, before: Array, after: Array) -> Tensor:
    """A perturbation (3, h, w) of window `source`, drawn where landmarks `before` (n, 2) lie, as it is to be drawn in
    window `target` where they lie at `after`: moved by the similarity that fits them best, and near each landmark by
    what is left of its own movement (Shepard's interpolation with Gaussian weights, fading outside the face)."""
    back = similarity(after, before)
    left = before - (after @ back[:, :2].T + back[:, 2])  # (n, 2) of the landmarks, px of the source
    coarse = 4  # the field is smooth: a quarter of the pixels will do
    xs = np.arange(0, target.width + coarse, coarse, dtype=np.float64) + target.x  # (w',)
    ys = np.arange(0, target.height + coarse, coarse, dtype=np.float64) + target.y  # (h',)
    reach = REACH * max(float(np.sqrt(np.ptp(after, axis=0).prod())), 1.0)
    # a Gaussian of both is the product of one of each
    across, down = (
        np.exp(-0.5 * np.square((at[:, None] - centre) / reach))  # (w', n), (h', n)
        for at, centre in ((xs, after[:, 0]), (ys, after[:, 1]))
    )
    total = down @ across.T  # (h', w')
    pulled = np.stack([(down * left[:, axis]) @ across.T for axis in (0, 1)], axis=-1)  # (h', w', 2)
    points = np.stack(np.broadcast_arrays(xs, ys[:, None]), axis=-1)  # (h', w', 2)
    field = points @ back[:, :2].T + back[:, 2] + pulled / (total[..., None] + 0.1)
    size = (field.shape[1] * coarse, field.shape[0] * coarse)
    # cv2.resize puts samples at pixel centres; the grid's lie at pixel corners of the coarse grid
    grid = cv2.warpAffine(
        field.astype(np.float32), np.array([[coarse, 0.0, 0.0], [0.0, coarse, 0.0]]), size, flags=cv2.INTER_LINEAR
    )[: target.height, : target.width]
    picture = np.ascontiguousarray(delta.permute(1, 2, 0).cpu().numpy())
    warped = cv2.remap(
        picture, grid[..., 0] - source.x, grid[..., 1] - source.y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT
    )
    return torch.from_numpy(warped).permute(2, 0, 1).contiguous()


STRENGTH, ROBUST_STRENGTH = 0.5, 0.8
"""Root mean square in a face's box, in units of eps, that what is carried is brought up to, the second where it is to
outlive a transcoding, ..."""
BOLDER = 1.4
"""... by this factor a frame at most."""


def bolder(delta: Tensor, window: Window, face: Face, strength: float) -> Tensor:
    """A perturbation (3, h, w) of `window`, scaled up where its root mean square in the face's box is below `strength`.

    Many a reader takes no notice of contrast (MPIIGaze equalises the histogram of an eye), so that no gradient asks for
    it; but a codec's noise stays as it is, and the stronger the drawing, the less of what is read is noise.
    """
    x1, y1, x2, y2 = np.round(face.box - [window.x, window.y] * 2).astype(int).clip(0)
    part = delta[:, y1:y2, x1:x2]
    size = float(part.square().mean().sqrt()) if part.numel() else 0.0
    return delta if size == 0.0 else delta * min(max(strength / size, 1.0), BOLDER)


def _within(rect: Rect, window: Window) -> Rect:
    """A rectangle of the frame in px of the window, clipped to it."""
    x1, x2 = (min(max(x - window.x, 0), window.width) for x in (rect[0], rect[2]))
    y1, y2 = (min(max(y - window.y, 0), window.height) for y in (rect[1], rect[3]))
    return x1, y1, x2, y2


def _with_residual(pixels: Tensor, residual: Tensor) -> Tensor:
    return (pixels + residual).clamp(0.0, 1.0)


def _landmarks(face: Face) -> Array:
    """The face's landmarks, or where there is no aligner the corners of its box."""
    if face.landmarks is not None:
        return face.landmarks
    x1, y1, x2, y2 = face.box
    return np.array([[x1, y1], [x2, y1], [x2, y2], [x1, y2]])


def _drawn_at(outcome: Outcome, face: Face) -> Array:
    """Where the landmarks of the last frame of a batch are read, or as in `_landmarks`."""
    read = outcome.outputs.get("aligner")
    if read is None or not bool(torch.isfinite(read[-1]).all()):
        return _landmarks(face)
    return (1 - FEEDBACK) * _landmarks(face) + FEEDBACK * read[-1].double().numpy()


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
            target.focus,
            change[row],
            {name: float(errors[row]) for name, errors in outcome.errors.items()},
            int(outcome.steps[row]),
            int(outcome.passes[row]),
            int(outcome.checks[row]),
        )
        for row, target in enumerate(targets)
    ]
