"""Private weights: a compact network of one's own that reads like the released one and is fooled by other patterns.

Weights that everybody holds are no secret, so whoever has them reads what was embedded for them. Training on from them
gives other numbers but nearly the same function: a perturbation made for one is read by the other. Here a copy is
trained, from a secret seed and the user's own faces, on three things at once:

* untouched faces: read as the released weights read them (they give the targets, no labels are needed);
* obscured faces with a perturbation that the *released* weights read (`public` ones): read nothing;
* obscured faces with a perturbation that the copy reads and the released weights do not (`private` ones): read it.

Perturbations are kept for a pool of faces and made anew step by step beside the weights, so both sides keep up with
one another ("free" adversarial training, Shafahi et al. 2019, arXiv 1904.12843). What a holder of one set of weights
recovers from a video embedded for the other is measured, never promised: `tests/benchmarks/fork.py`.

The seed draws everything: noise on the weights to start from, faces of the pool, blocks, augmentation, order. Whoever
knows it, the faces and this code can make the weights again, so it is as secret as they are.
"""

from __future__ import annotations

import copy
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional
from typing_extensions import override

from victims.compact.averaging import MovingAverage
from victims.compact.fork_settings import ForkSettings
from victims.compact.gaze_net import PATCH, GazeNet
from victims.compact.landmark_net import CROP_SIZE, SOFTMAX_GAIN, LandmarkNet, decode_heatmaps

EPS = 24 / 255
"""Of the perturbations trained on: what `drsf deid` embeds with by default."""


class Family(ABC):
    """What the fork of one kind of network needs. Crops are (n, 3, size, size), RGB in [0, 1]."""

    size: int
    cell: int
    """Side of the blocks that obscured crops have, px: a fifth of a head region of `pixelate_5`."""
    unit: str
    """Of `distance`."""
    allowed: float
    """Mean distance from the released weights' reading of untouched held-out faces up to which the accuracy is the
    same within a tenth: √(1.1² - 1) = 0.46 of the released weights' own error, since the two are independent."""
    apart: float
    """Distance from which a reading says nothing any more."""

    @abstractmethod
    def network(self) -> nn.Module:
        """With random weights."""

    @abstractmethod
    def run(self, network: nn.Module, crops: Tensor) -> Tensor:
        """The network's output, (n, ...)."""

    @abstractmethod
    def distance(self, outputs: Tensor, wanted: Tensor) -> Tensor:
        """(n,) how far a reading is from another, in `unit`; differentiable."""

    @abstractmethod
    def follow(self, outputs: Tensor, wanted: Tensor) -> Tensor:
        """(n,) loss: read what is wanted."""

    @abstractmethod
    def refuse(self, outputs: Tensor) -> Tensor:
        """(n,) loss: read nothing."""


class Landmarks(Family):
    """`fan-compact`. Outputs are heatmaps (n, 68, 32, 32)."""

    size, cell, unit = CROP_SIZE, 43, "% of the landmarks' box"
    allowed, apart = 1.37, 12.0  # of 2.98 %; see weights/bundled/fan_compact.md

    @override
    def network(self) -> nn.Module:
        return LandmarkNet()

    @override
    def run(self, network: nn.Module, crops: Tensor) -> Tensor:
        maps: Tensor = network(crops)[0]
        return maps

    @override
    def distance(self, outputs: Tensor, wanted: Tensor) -> Tensor:
        read, truth = decode_heatmaps(outputs), decode_heatmaps(wanted)
        sides = truth.amax(dim=1) - truth.amin(dim=1)
        errors: Tensor = (read - truth).norm(dim=-1).mean(dim=-1) / sides.prod(dim=-1).sqrt().clamp_min(1e-6)
        return 100 * errors

    @override
    def follow(self, outputs: Tensor, wanted: Tensor) -> Tensor:
        own, goal = (functional.log_softmax(SOFTMAX_GAIN * maps.flatten(2), dim=-1) for maps in (outputs, wanted))
        divergence = (goal.exp() * (goal - own)).sum(dim=-1).mean(dim=-1)
        apart = functional.smooth_l1_loss(
            decode_heatmaps(outputs), decode_heatmaps(wanted), beta=0.01, reduction="none"
        )
        return divergence + 20.0 * apart.mean(dim=(1, 2))

    def refuse(self, outputs: Tensor) -> Tensor:
        """Divergence of the maps from flat ones."""
        own = functional.log_softmax(SOFTMAX_GAIN * outputs.flatten(2), dim=-1)
        return 0.1 * (-own.mean(dim=-1).mean(dim=-1) - math.log(own.shape[-1]))


class Gaze(Family):
    """`gaze-compact`. Outputs are pitch and yaw (n, 2), rad."""

    size, cell, unit = PATCH, 107, "°"
    allowed, apart = 2.97, 20.0  # of 6.47°; see weights/bundled/gaze_compact.md

    @override
    def network(self) -> nn.Module:
        return GazeNet()

    @override
    def run(self, network: nn.Module, crops: Tensor) -> Tensor:
        angles: Tensor = network(crops)
        return angles

    @override
    def distance(self, outputs: Tensor, wanted: Tensor) -> Tensor:
        return torch.rad2deg((_vectors(outputs) - _vectors(wanted)).square().sum(dim=-1).add(1e-12).sqrt())

    @override
    def follow(self, outputs: Tensor, wanted: Tensor) -> Tensor:
        return 5.0 * functional.smooth_l1_loss(outputs, wanted, beta=0.1, reduction="none").mean(dim=-1)

    def refuse(self, outputs: Tensor) -> Tensor:
        """Straight ahead, whatever is shown."""
        return 5.0 * functional.smooth_l1_loss(outputs, torch.zeros_like(outputs), beta=0.1, reduction="none").mean(-1)


FAMILIES: dict[str, Family] = {"fan-compact": Landmarks(), "gaze-compact": Gaze()}
"""Victims that can be forked."""


@dataclass(frozen=True)
class Measured:
    """What a fork is worth on faces kept out of training; in the family's unit."""

    accuracy: float
    """Mean distance from the released weights' reading of untouched faces."""
    allowed: float
    unit: str
    private_own: float
    """Embedded for the fork: what the fork reads ..."""
    private_public: float
    """... and what the released weights read."""
    public_own: float
    """Embedded for the released weights: what they read ..."""
    public_private: float
    """... and what the fork reads."""

    @property
    def accurate(self) -> bool:
        """Whether the fork reads pictures well enough to be used."""
        return self.accuracy <= self.allowed


def fork(
    family: Family,
    public: nn.Module,
    crops: Tensor,
    seed: int,
    settings: ForkSettings | None = None,
    on_step: Callable[[], None] | None = None,
) -> dict[str, Tensor]:
    """Weights of a network that reads untouched faces as `public` does and follows other perturbations.

    `crops` (N, 3, s, s) uint8 RGB, s at least the family's size; what is over is room for jitter.
    """
    settings = settings or ForkSettings()
    random = torch.Generator().manual_seed(seed)
    own = family.network()
    own.load_state_dict(public.state_dict())
    for weights in own.parameters():
        if weights.ndim > 1 and settings.noise:
            weights.data += settings.noise * weights.std() * torch.randn(weights.shape, generator=random)
    pool = _Pool.of(family, public, augmented(crops[_some(len(crops), settings.pool, random)], family.size, random))
    average = MovingAverage(own, 0.98)
    optimizer = torch.optim.AdamW(own.parameters(), lr=settings.rate, weight_decay=0.01)
    own.eval()  # the statistics of its batches stay the released ones: half of a batch is no natural picture
    for step in range(settings.steps):
        for group in optimizer.param_groups:
            group["lr"] = settings.rate * min(
                (step + 1) / 20, 0.5 * (1 + math.cos(math.pi * step / settings.steps)) + 0.01
            )
        natural = augmented(crops[_some(len(crops), settings.batch, random)], family.size, random)
        with torch.no_grad():
            wanted = family.run(public, natural)
        rows = _some(len(pool.base), settings.pool_batch, random)
        own.requires_grad_(False)
        pool.advance(family, public, own, rows)
        own.requires_grad_(True)
        read = family.follow(family.run(own, natural), wanted).mean()
        refused = family.refuse(family.run(own, (pool.base + pool.public)[rows].clamp(0, 1))).mean()
        private = family.follow(family.run(own, (pool.base + pool.private)[rows].clamp(0, 1)), pool.wanted[rows]).mean()
        optimizer.zero_grad(set_to_none=True)
        (read + settings.refuse_weight * refused + settings.private_weight * private).backward()
        nn.utils.clip_grad_norm_(own.parameters(), 1.0)
        optimizer.step()
        average.update(own)
        if on_step is not None:
            on_step()
    return average.state


def measure(
    family: Family, public: nn.Module, own: nn.Module, crops: Tensor, seed: int = 0, steps: int = 30
) -> Measured:
    """Distances on held-out `crops`, as in `fork`.

    Perturbations start from nothing, `steps` of them, one network embedded for and none repelled: what another party
    would do with weights it knows.
    """
    natural = _middle(crops, family.size)
    base = obscured(natural, family.cell, torch.Generator().manual_seed(seed))
    read: dict[str, list[Tensor]] = {}
    for part, hidden in zip(natural.split(16), base.split(16), strict=True):
        with torch.no_grad():
            goals = {"public": family.run(public, part), "private": family.run(own, part)}
            read.setdefault("accuracy", []).append(family.distance(goals["private"], goals["public"]))
        for side, network in (("public", public), ("private", own)):
            shown = (hidden + embedded(family, hidden, goals[side], [network], steps=steps)).clamp(0, 1)
            with torch.no_grad():
                for reader, other in (("public", public), ("private", own)):
                    distance = family.distance(family.run(other, shown), goals[reader])
                    read.setdefault(f"{side} by {reader}", []).append(distance)
    mean = {key: float(torch.cat(values).mean()) for key, values in read.items()}
    return Measured(
        mean["accuracy"],
        family.allowed,
        family.unit,
        mean["private by private"],
        mean["private by public"],
        mean["public by public"],
        mean["public by private"],
    )


@dataclass
class _Pool:
    """Obscured faces with a perturbation for each of the two networks."""

    base: Tensor
    wanted: Tensor
    """What the released weights read in the faces untouched."""
    public: Tensor
    private: Tensor

    @classmethod
    def of(cls, family: Family, network: nn.Module, natural: Tensor, steps: int = 12) -> _Pool:
        with torch.no_grad():
            wanted = torch.cat([family.run(network, part) for part in natural.split(16)])
        base = obscured(natural, family.cell, torch.Generator().manual_seed(0))
        parts = zip(base.split(16), wanted.split(16), strict=True)
        public = torch.cat([embedded(family, part, goal, [network], steps=steps) for part, goal in parts])
        return cls(base, wanted, public, torch.zeros_like(base))

    def advance(self, family: Family, public: nn.Module, own: nn.Module, rows: Tensor) -> None:
        """One step more for `rows`."""
        base, wanted = self.base[rows], self.wanted[rows]
        self.public[rows] = embedded(family, base, wanted, [public], start=self.public[rows], steps=1)
        self.private[rows] = embedded(family, base, wanted, [own], [public], self.private[rows], steps=1)


def embedded(
    family: Family,
    base: Tensor,
    wanted: Tensor,
    networks: Sequence[nn.Module],
    repelled: Sequence[nn.Module] = (),
    start: Tensor | None = None,
    steps: int = 30,
    rate: float = 4 / 255,
) -> Tensor:
    """Perturbations (n, 3, size, size) of `base` from which `networks` read `wanted` and those `repelled` do not.

    They are momentum steps on smoothed gradients of unit length, as `drsf deid` takes them. One step goes the whole
    way.
    """
    delta = torch.zeros_like(base) if start is None else start.clone()
    momentum = torch.zeros_like(base)
    for step in range(steps):
        pixels = (base + delta).clamp(0, 1).requires_grad_()
        total = torch.zeros_like(base)
        for network in networks:
            loss = family.follow(family.run(network, pixels), wanted).sum()
            total += _unit(torch.autograd.grad(loss, pixels)[0])
        for network in repelled:
            outputs = family.run(network, pixels)
            lacking = torch.relu(1 - family.distance(outputs, wanted) / family.apart)
            near = (lacking.detach() > 0).to(base.dtype)
            loss = (lacking - 0.02 * near * family.follow(outputs, wanted).clamp_max(5.0)).sum()
            total += _unit(torch.autograd.grad(loss, pixels)[0])
        smooth = blurred(total)
        momentum = 0.9 * momentum + smooth / smooth.abs().mean(dim=(1, 2, 3), keepdim=True).clamp_min(1e-12)
        size = momentum.square().mean(dim=(1, 2, 3), keepdim=True).sqrt().clamp_min(1e-9)
        delta = (delta - rate * (1 - step / (steps + 1)) * momentum / size).clamp(-EPS, EPS)
    return delta.detach()


def augmented(crops: Tensor, size: int, random: torch.Generator) -> Tensor:
    """Crops (n, 3, size, size) in [0, 1] from uint8 ones with room around: turned, scaled, shifted, other light."""
    count, side = len(crops), crops.shape[-1]

    def normal(deviation: float, *shape: int) -> Tensor:
        return deviation * torch.randn(count, *shape, generator=random)

    angle, scale = normal(0.12), (size / side) * torch.exp(normal(0.06))
    shift = normal(0.03, 2)
    cos, sin = scale * angle.cos(), scale * angle.sin()
    theta = torch.stack((torch.stack((cos, -sin, shift[:, 0]), 1), torch.stack((sin, cos, shift[:, 1]), 1)), 1)
    grid = functional.affine_grid(theta, [count, 3, size, size], align_corners=False)
    turned = functional.grid_sample(crops.float() / 255, grid, padding_mode="border", align_corners=False)
    flip = torch.rand(count, generator=random) < 0.5
    turned = torch.where(flip[:, None, None, None], turned.flip(3), turned)
    gain, level = torch.exp(normal(0.15, 1, 1, 1) + normal(0.04, 3, 1, 1)), normal(0.05, 1, 1, 1)
    noise = 0.02 * torch.rand(count, 1, 1, 1, generator=random)
    return (gain * turned + level + noise * torch.randn(turned.shape, generator=random)).clamp(0, 1)


def obscured(crops: Tensor, cell: int, random: torch.Generator) -> Tensor:
    """Crops with blocks of `cell` px of one colour, their grid anywhere; one grid for all."""
    height, width = crops.shape[2:]
    top, left = (int(torch.randint(0, cell, (1,), generator=random)) for _ in range(2))
    pad = (left, -(left + width) % cell, top, -(top + height) % cell)
    blocks = functional.avg_pool2d(functional.pad(crops, pad, mode="replicate"), cell)
    whole = functional.interpolate(blocks, scale_factor=float(cell), mode="nearest")
    return whole[:, :, top : top + height, left : left + width].contiguous()


def blurred(gradient: Tensor, sigma: float = 1.5) -> Tensor:
    """A Gaussian over each channel: patterns that survive a codec."""
    radius = math.ceil(3 * sigma)
    offsets = torch.arange(-radius, radius + 1, dtype=gradient.dtype)
    kernel = torch.exp(-0.5 * (offsets / sigma) ** 2)
    kernel = (kernel / kernel.sum()).view(1, 1, 1, -1).repeat(3, 1, 1, 1)
    rows = functional.conv2d(gradient, kernel, padding=(0, radius), groups=3)
    return functional.conv2d(rows, kernel.mT, padding=(radius, 0), groups=3)


def clone(family: Family, state: dict[str, Tensor]) -> nn.Module:
    """The family's network with these weights, ready to read."""
    network = family.network()
    network.load_state_dict(state)
    return copy.deepcopy(network).eval().requires_grad_(False)


def _middle(crops: Tensor, size: int) -> Tensor:
    edge = (crops.shape[-1] - size) // 2
    return crops[:, :, edge : edge + size, edge : edge + size].float() / 255


def _some(total: int, wanted: int, random: torch.Generator) -> Tensor:
    return torch.randperm(total, generator=random)[: min(wanted, total)]


def _unit(gradient: Tensor) -> Tensor:
    lengths: Tensor = gradient.flatten(1).norm(dim=1).view(-1, 1, 1, 1).clamp_min(1e-12)
    return gradient / lengths


def _vectors(angles: Tensor) -> Tensor:
    pitch, yaw = angles.unbind(dim=-1)
    return torch.stack((pitch.cos() * yaw.sin(), pitch.sin(), pitch.cos() * yaw.cos()), dim=-1)
