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
from attacks.steps import METHODS
from victims.base import Objective

IDLE = 0.5
"""A victim whose error is under this share of its tolerance does not push."""

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
    weight: float = 1.0


@dataclass(frozen=True)
class AttackSettings:
    """How perturbations are made."""

    method: str = "mi-fgsm"
    eps: float = 16 / 255
    steps: int = 60
    options: Mapping[str, float] = field(default_factory=dict)
    """The step rule's own parameters; what is missing keeps the method's default."""
    smoothing: float = 3.0
    """Sigma in px of the Gaussian that every gradient is smoothed with: energy goes where codecs keep it."""
    cap: float = 0.7
    """Longest step, in units of the one that would bring the linearised loss to 0."""


@dataclass
class Outcome:
    """What an attack on a batch came to."""

    delta: Tensor
    """(B, 3, h, w) best perturbations."""
    errors: dict[str, Tensor]
    """Stage -> (B,) error of the best iterate."""
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
) -> Outcome:
    """Lower every stage's loss, from `start` (B, 3, h, w), until its error is within tolerance or steps run out."""
    count = len(start)
    method = METHODS[settings.method]
    eps = budget.eps
    rule = method.rule(
        count,
        settings.steps,
        lambda u, items: budget.project(u * eps, items) / eps,
        {**method.options, **settings.options},
    )
    delta = budget.project(start, list(range(count)))
    best = delta.clone()
    best_score = torch.full((count,), torch.inf)
    errors = {stage.name: torch.full((count,), torch.inf) for stage in stages}
    steps, passes, checks = (torch.zeros(count, dtype=torch.long) for _ in range(3))
    active = list(range(count))

    for taken in range(settings.steps + 1):
        probe = rule.look_ahead(delta[active] / eps, active) * eps
        pixels = delivered(budget, delta, probe, active, channel)
        last = taken == settings.steps
        reading = _read(pixels, active, stages, with_gradient=not last)
        passes[active] += reading.passes
        checks[active] += len(stages) - reading.passes

        better = [row for row, item in enumerate(active) if reading.score[row] < best_score[item]]
        for row in better:
            item = active[row]
            best_score[item] = reading.score[row]
            best[item] = probe[row]
            for name, error in reading.errors.items():
                errors[name][item] = error[row]
        short = [row for row in range(len(active)) if reading.score[row] > 1.0]
        if last or not short:
            break
        items = [active[row] for row in short]
        gradient = smoothed(reading.gradient[short], settings.smoothing)
        gradient = unit(gradient * budget.mask[items])
        before = delta[items]
        moved = rule.step(before / eps, gradient, reading.loss[short], items) * eps
        delta[items] = before + _capped(moved - before, reading.gradient[short], reading.loss[short], settings.cap)
        steps[items] += 1
        active = items
    return Outcome(best, errors, steps, passes, checks)


def _capped(move: Tensor, gradient: Tensor, loss: Tensor, cap: float) -> Tensor:
    """A move shortened to where the linearised loss has fallen by `cap` of itself: Polyak's step length, for any
    rule. Targets are attainable, so the least loss is about 0, and a longer step overshoots."""
    if cap <= 0:
        return move
    fall = -(gradient * move).sum(dim=(1, 2, 3))
    scale = torch.where(fall > cap * loss, cap * loss / fall.clamp_min(1e-30), torch.ones_like(fall))
    return move * scale.view(-1, 1, 1, 1)


def delivered(budget: Budget, delta: Tensor, probe: Tensor, items: list[int], channel: Channel | None) -> Tensor:
    """Pixels of `items` as a reader of the file sees them, as a leaf for gradients."""
    pixels = rounded(budget.base[items] + probe)
    if channel is not None:
        whole = rounded(budget.base + delta)
        whole[items] = pixels
        pixels = channel(whole)[items]
    return pixels.detach().requires_grad_()


@dataclass
class _Combined:
    score: Tensor  # (n,) the worst of error / tolerance
    loss: Tensor  # (n,)
    gradient: Tensor  # (n, 3, h, w)
    errors: dict[str, Tensor]
    passes: int  # victims run backward


def _read(pixels: Tensor, items: list[int], stages: Sequence[Stage], with_gradient: bool) -> _Combined:
    outputs: dict[str, Tensor] = {}
    errors: dict[str, Tensor] = {}
    ratios, passes = [], 0
    gradient, loss = torch.zeros_like(pixels), torch.zeros(len(items), device=pixels.device)
    for stage in stages:
        geometry = outputs.get(stage.after) if stage.after else None
        reading = stage.objective.read(pixels, items, geometry)
        ratio = (reading.error / stage.tolerance).cpu()
        if with_gradient and bool((ratio > IDLE).any()):
            passes += 1
            (own,) = torch.autograd.grad(reading.loss.sum(), pixels)
            # a victim that is well inside its tolerance must not push; one that is far out must not drown the rest
            weight = stage.weight * (ratio / IDLE - 1.0).clamp(0.0, 2.0).to(pixels.device)
            size = own.square().mean(dim=(1, 2, 3)).sqrt().clamp_min(1e-12)
            gradient += (weight / size).view(-1, 1, 1, 1) * own
            loss += weight / size * reading.loss.detach()
        outputs[stage.name] = reading.output
        errors[stage.name] = reading.error.cpu()
        ratios.append(ratio)
    return _Combined(torch.stack(ratios).amax(dim=0), loss, gradient.detach(), errors, passes)


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
