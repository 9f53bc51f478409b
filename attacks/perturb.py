"""The one loop: perturb windows until every victim reads its target again.

Each frame of a batch is on its own: its losses, its step rule's state, its best iterate, its stop. Victims are read in
a row, as they will be at decode time: the aligner's crop comes from the box the detector returns *now*, the gaze
patch from the landmarks the aligner returns now. Each victim's gradient is normalised before they are combined, so
that none starves another, and weighted by how far that victim still is from its tolerance.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn import functional

from attacks.budget import Budget, rounded
from attacks.effort import Correction
from attacks.steps import METHODS
from attacks.trail import Trail
from victims.base import Objective, Reading
from victims.crew import Each

IDLE = 0.5
"""A victim whose error is under this share of its tolerance does not push."""
FAR = 4.0
"""No victim counts more than this many that are one tolerance off."""
POOR = 20.0
"""A frame whose worst error is over this many tolerances is worth more steps than others."""

Channel = Callable[[Tensor], Tensor]
"""What delivery does to the pixels (B, 3, h, w) of *all* frames of the batch; no gradient is needed."""


@dataclass(frozen=True)
class Stage:
    """One victim's part in an attack."""

    name: str
    objective: Objective
    tolerance: float
    """Error under which the victim is good enough, in the unit of Reading.error."""
    after: str | None = None
    """The stage whose output is this one's geometry."""
    hinge: bool = False
    """Whether there is nothing to be had below the error at which it no longer pushes: it then counts as none."""


@dataclass(frozen=True)
class AttackSettings:
    """How perturbations are made."""

    method: str
    eps: float
    steps: int
    options: Mapping[str, float] = field(default_factory=dict)
    """The step rule's own parameters; what is missing keeps the method's default."""
    correction: Correction = field(default_factory=Correction)

    @property
    def most(self) -> int:
        """Steps that a frame takes at most."""
        return self.steps + self.correction.extra

    @property
    def reads(self) -> bool:
        """Whether drawings are read at all, to be corrected."""
        return self.most > 0

    def goes_on(self, taken: int, score: float) -> bool:
        """Whether a frame with `score` so far takes another step after `taken`."""
        return taken < self.steps or (taken < self.most and score > POOR)


@dataclass
class Outcome:
    """What an attack on a batch came to."""

    delta: Tensor
    """(B, 3, h, w) the best perturbations that were tried."""
    errors: dict[str, Tensor]
    """Stage -> (B,) error of `delta`."""
    steps: Tensor
    """(B,) steps taken."""
    passes: Tensor
    """(B,) victim passes: how often one victim was run forward and backward over the frame."""
    checks: Tensor
    """(B,) forward runs without a gradient."""


def perturb(
    budget: Budget,
    start: Tensor,
    stages: Sequence[Stage],
    settings: AttackSettings,
    channel: Channel | None = None,
    each: Each = map,
) -> Outcome:
    """Lower every stage's loss, from `start` (B, 3, h, w), until its error is within tolerance or steps run out.

    `each` shares the stages among cores.
    """
    search = _Search(budget, start, stages, settings, channel, each)
    active = list(range(len(start)))
    if settings.steps == 0:  # most are good enough as they are
        search.look(active)
        active = [item for item in active if settings.goes_on(0, float(search.score[item]))]
    for taken in range(settings.most + 1):
        going = [item for item in active if settings.goes_on(taken, float(search.score[item]))]
        search.look([item for item in active if item not in going])
        if not going:
            break
        active = search.step(going)
    search.look_near_means()
    return search.outcome


class _Search:
    """The best perturbations so far of a batch of frames, and what it took to find them."""

    def __init__(
        self,
        budget: Budget,
        start: Tensor,
        stages: Sequence[Stage],
        settings: AttackSettings,
        channel: Channel | None,
        each: Each,
    ) -> None:
        count, eps = len(start), budget.eps
        method = METHODS[settings.method]
        self.rule = method.rule(
            count,
            settings.most,
            lambda u, items: budget.project(u * eps, items) / eps,
            {**method.options, **settings.options},
        )
        self.budget, self.stages, self.settings, self.channel, self.each = budget, stages, settings, channel, each
        self.delta = budget.project(start, list(range(count)))
        self.total, self.score = (torch.full((count,), torch.inf) for _ in range(2))
        self.trail = Trail(count)
        zeros = [torch.zeros(count, dtype=torch.long) for _ in range(3)]
        errors = {stage.name: torch.full((count,), torch.inf) for stage in stages}
        self.outcome = Outcome(self.delta.clone(), errors, *zeros)

    def look(self, items: list[int]) -> None:
        """Read frames `items` as they are, and keep what is better than before."""
        if items:
            reading = self._read(items, self.delta[items], with_gradient=False)
            self.trail.add(items, reading.score, self.delta[items])
            self._keep(items, self.delta[items], reading)

    def step(self, items: list[int]) -> list[int]:
        """Read frames `items`, and move those that are not good enough, which are returned."""
        eps = self.budget.eps
        probe = self.rule.look_ahead(self.delta[items] / eps, items) * eps
        reading = self._read(items, probe, with_gradient=True)
        self.trail.add(items, reading.score, probe)
        self._keep(items, probe, reading)
        short = [row for row in range(len(items)) if reading.score[row] > 1.0]
        if not short or not reading.pulls:
            return []
        items, pulls = [items[row] for row in short], [pull.of(short) for pull in reading.pulls]
        gradient = unit(smoothed(direction(pulls), self.settings.correction.smoothing) * self.budget.mask[items])
        before = self.delta[items]
        loss = torch.stack([pull.loss for pull in pulls]).sum(dim=0)
        move = self.rule.step(before / eps, gradient, loss, items) * eps - before
        self.delta[items] = before + move * step_length(move, pulls, self.settings.correction.cap)
        self.outcome.steps[items] += 1
        return items

    def look_near_means(self) -> None:
        """Try points at and near the mean of each frame's iterates, where it is not good enough yet."""
        tries = self.settings.correction.tries
        short = [item for item in range(len(self.score)) if self.score[item] > 1.0] if tries else []
        means = {item: mean for item in short if (mean := self.trail.mean(item)) is not None}
        for number in range(tries):
            items = [item for item in means if self.score[item] > 1.0]
            if not items:
                break
            probe = torch.stack([self.trail.near(item, means[item], number) for item in items])
            self._keep(items, probe, self._read(items, probe, with_gradient=False))

    def _read(self, items: list[int], probe: Tensor, with_gradient: bool) -> Combined:
        pixels = delivered(self.budget, self.delta, probe, items, self.channel)
        reading = read_stages(pixels, items, self.stages, with_gradient, self.settings.correction.behind, self.each)
        self.outcome.passes[items] += len(reading.pulls)
        self.outcome.checks[items] += len(self.stages) - len(reading.pulls)
        return reading

    def _keep(self, items: Sequence[int], probe: Tensor, reading: Combined) -> None:
        """Take each frame's probe that is better than all before it."""
        for row, item in enumerate(items):
            if reading.total[row] < self.total[item]:
                self.total[item], self.score[item] = reading.total[row], reading.score[row]
                self.outcome.delta[item] = probe[row]
                for name, error in reading.errors.items():
                    self.outcome.errors[name][item] = error[row]


@dataclass
class Pull:
    """One victim's wish for a batch: where it is not zero, a loss and its gradient."""

    loss: Tensor
    """(n,)"""
    gradient: Tensor
    """(n, 3, h, w)"""
    excess: Tensor
    """(n,) how far the victim is from being good enough: 0 where it is IDLE, 1 at its tolerance, FAR at most."""

    def of(self, rows: Sequence[int]) -> Pull:
        """The pull of some rows of the batch."""
        return Pull(self.loss[list(rows)], self.gradient[list(rows)], self.excess[list(rows)])

    @property
    def size(self) -> Tensor:
        """(n, 1, 1, 1) Euclidean length of the gradient."""
        return self.gradient.square().sum(dim=(1, 2, 3), keepdim=True).sqrt().clamp_min(1e-20)


def direction(pulls: Sequence[Pull]) -> Tensor:
    """The victims' gradients at unit length, each counted by how far its victim is from good enough.

    So the scale of a loss does not matter, and a victim that is far out cannot drown the rest.
    """
    return torch.stack([p.gradient / p.size * p.excess.view(-1, 1, 1, 1) for p in pulls]).sum(dim=0)


def step_length(move: Tensor, pulls: Sequence[Pull], cap: float) -> Tensor:
    """(n, 1, 1, 1) the share of a rule's move to take, at most 1.

    It is what lowers the linearised sum of losses, weighted as in `direction`, by `cap` of itself. This is Polyak's
    step length, for any rule: targets are attainable, so losses can reach 0, and much longer steps overshoot. A `cap`
    of 0 takes every move whole.
    """
    loss = torch.stack([p.excess * p.loss / p.size.view(-1) for p in pulls]).sum(dim=0)
    fall = -(direction(pulls) * move).sum(dim=(1, 2, 3))
    shorter = (cap > 0) & (fall > cap * loss)
    share = torch.where(shorter, cap * loss / fall.clamp_min(1e-30), torch.ones_like(fall))
    return share.view(-1, 1, 1, 1)


def delivered(budget: Budget, delta: Tensor, probe: Tensor, items: list[int], channel: Channel | None) -> Tensor:
    """Pixels of `items` as a reader of the file sees them, as a leaf for gradients."""
    pixels = rounded(budget.base[items] + probe)
    if channel is not None:
        whole = rounded(budget.base + delta)
        whole[items] = pixels
        pixels = channel(whole)[items]
    return pixels.detach().requires_grad_()


@dataclass
class Combined:
    """What all victims of a batch read."""

    score: Tensor  # (n,) the worst of error / tolerance
    total: Tensor  # (n,) their sum
    pulls: list[Pull]
    errors: dict[str, Tensor]


def read_stages(
    pixels: Tensor,
    items: list[int],
    stages: Sequence[Stage],
    with_gradient: bool,
    behind: float = 0.0,
    each: Each = map,
) -> Combined:
    """Read `pixels` (n, 3, h, w) of frames `items` in turn, as at decode time; pulls `with_gradient` only.

    `behind`: see Correction. `each` shares the stages that do not wait for one another, and the gradients.
    """
    readings: dict[str, Reading] = {}

    def read(stage: Stage) -> Reading:
        before = readings.get(stage.after) if stage.after else None
        with torch.set_grad_enabled(with_gradient):  # each thread has its own mode
            return stage.objective.read(pixels, items, _geometry(stage, before))

    for ready in _in_turn(stages):
        readings |= zip([stage.name for stage in ready], each(read, ready), strict=True)
    errors = {stage.name: readings[stage.name].error.cpu() for stage in stages}
    shares = torch.stack([errors[stage.name] / stage.tolerance for stage in stages])  # (stages, n)
    worst = shares.amax(dim=0)
    # no more than POOR counts: the landmarks of a box that is another's are far off, and the box must not starve for it
    hinges = torch.tensor([[stage.hinge] for stage in stages])
    wanting = (shares > IDLE) & (hinges | (shares >= behind * worst.clamp_max(POOR)))

    def pull(row: int) -> Pull:
        return _pull(readings[stages[row].name], pixels, wanting[row].to(pixels.device), shares[row].to(pixels.device))

    pulls = list(each(pull, [row for row in range(len(stages)) if with_gradient and bool(wanting[row].any())]))
    counted = torch.where(hinges, excess(shares), shares)
    return Combined(counted.amax(dim=0), counted.sum(dim=0), pulls, errors)


def _in_turn(stages: Sequence[Stage]) -> list[list[Stage]]:
    """Stages in groups, each of which waits for no more than those before it."""
    turns: dict[str | None, int] = {}
    for stage in stages:
        turns[stage.name] = turns.get(stage.after, -1) + 1
    return [[stage for stage in stages if turns[stage.name] == turn] for turn in range(len(stages))]


def _geometry(stage: Stage, before: Reading | None) -> Tensor | None:
    """What a stage is given of the reading before it."""
    if before is None:
        return None
    return before.mesh if stage.objective.takes_mesh and before.mesh is not None else before.output


def excess(shares: Tensor) -> Tensor:
    """Of errors in tolerances, how far they are from idle: 0 there, 1 at the tolerance."""
    return ((shares - IDLE) / (1.0 - IDLE)).clamp_min(0.0)


def _pull(reading: Reading, pixels: Tensor, wanting: Tensor, share: Tensor) -> Pull:
    """Of the frames that are `wanting` (n,) bool; `share` (n,): error / tolerance."""
    # kept, since a stage that takes the mesh of the one before shares its graph
    (gradient,) = torch.autograd.grad(reading.loss.sum(), pixels, retain_graph=True)
    gradient = torch.nan_to_num(gradient, nan=0.0, posinf=0.0, neginf=0.0) * wanting.view(-1, 1, 1, 1)
    return Pull(torch.nan_to_num(reading.loss.detach()) * wanting, gradient, excess(share).clamp_max(FAR))


def unit(gradient: Tensor) -> Tensor:
    """Each frame's gradient with root mean square 1; zero, and what is not a number, becomes 0."""
    gradient = torch.nan_to_num(gradient, nan=0.0, posinf=0.0, neginf=0.0)
    peak = gradient.abs().amax(dim=(1, 2, 3), keepdim=True)  # first by the peak, so that squares do not underflow
    gradient = torch.where(peak > 0, gradient / peak.clamp_min(1e-38), torch.zeros_like(gradient))
    size = gradient.square().mean(dim=(1, 2, 3), keepdim=True).sqrt()
    return torch.where(size > 0, gradient / size.clamp_min(1e-12), torch.zeros_like(gradient))


def smoothed(gradient: Tensor, sigma: float) -> Tensor:
    """A Gaussian of `sigma` px over each channel, edges repeated."""
    if sigma <= 0:
        return gradient
    radius = max(1, round(3 * sigma))
    offsets = torch.arange(-radius, radius + 1, dtype=gradient.dtype, device=gradient.device)
    kernel = torch.exp(-0.5 * (offsets / sigma) ** 2)
    kernel = (kernel / kernel.sum()).view(1, 1, 1, -1)
    flat = gradient.flatten(0, 1).unsqueeze(1)  # (B·3, 1, h, w)
    flat = functional.conv2d(functional.pad(flat, (radius, radius, 0, 0), mode="replicate"), kernel)
    flat = functional.conv2d(functional.pad(flat, (0, 0, radius, radius), mode="replicate"), kernel.mT)
    return flat.squeeze(1).view_as(gradient)
