"""Step rules: how a perturbation moves, given a gradient. One loop (attacks/perturb.py) drives all of them.

A rule keeps the state of each frame apart (momentum, moments, step size), so that what happens to a frame does not
depend on which frames share its batch. It is given gradients that are already combined, masked and scaled to a root
mean square of 1 per frame, and works in units of eps: u = delta / eps lies in [-1, 1], so that no learning rate
depends on the budget or on the size of a loss.

The table is known without torch, which the shell's completion does not wait for: torch is imported where it is used.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from typing_extensions import override

from weights.errors import UsageError

if TYPE_CHECKING:
    from torch import Tensor

    Project = Callable[[Tensor, list[int]], Tensor]
    """(perturbations in units of eps, frames) -> the nearest feasible ones, same unit."""


class StepRule(ABC):
    """Moves perturbations of up to `count` frames, in units of eps."""

    def __init__(self, count: int, steps: int, project: Project, options: Mapping[str, float]) -> None:
        self.steps = steps
        self.project = project
        self.options = dict(options)
        self._taken = [0] * count
        self._kept: dict[int, Any] = {}
        """What the rule keeps of each frame."""

    def look_ahead(self, delta: Tensor, items: Sequence[int]) -> Tensor:
        """Where the gradient is to be taken; where the perturbation is, unless a rule says otherwise."""
        return delta

    def step(self, delta: Tensor, gradient: Tensor, loss: Tensor, items: Sequence[int]) -> Tensor:
        """New feasible perturbations (n, 3, h, w) of frames `items`, from gradient (n, 3, h, w) and loss (n,)."""
        moved = self.move(delta, gradient, loss, items)
        for item in items:
            self._taken[item] += 1
        return moved

    @abstractmethod
    def move(self, delta: Tensor, gradient: Tensor, loss: Tensor, items: Sequence[int]) -> Tensor:
        """`delta` (n, 3, h, w) of frames `items`, of this `loss` (n,), one step down `gradient`, projected."""

    def _alpha(self, items: Sequence[int], like: Tensor) -> Tensor:
        """Step sizes (n, 1, 1, 1): `alpha`, shrunk by `decay` at every step a frame has taken."""
        sizes = [self.options["alpha"] * self.options["decay"] ** self._taken[item] for item in items]
        return like.new_tensor(sizes).view(-1, 1, 1, 1)


class IFgsm(StepRule):
    """u <- P(u - a sign g). Kurakin et al. 2016, arXiv 1607.02533."""

    @override
    def move(self, delta: Tensor, gradient: Tensor, loss: Tensor, items: Sequence[int]) -> Tensor:
        return self.project(delta - self._alpha(items, delta) * gradient.sign(), list(items))


class MiFgsm(StepRule):
    """m <- mu m + g / mean|g|; u <- P(u - a sign m). Dong et al. 2017, arXiv 1710.06081. Momentum is kept."""

    def _accumulated(self, gradient: Tensor, items: Sequence[int]) -> Tensor:
        import torch

        size = gradient.abs().mean(dim=(1, 2, 3), keepdim=True)
        direction = torch.where(size > 0, gradient / size.clamp_min(1e-30), torch.zeros_like(gradient))
        for row, item in enumerate(items):
            before = self._kept.get(item)
            self._kept[item] = direction[row] if before is None else self.options["mu"] * before + direction[row]
        return torch.stack([self._kept[item] for item in items])

    @override
    def move(self, delta: Tensor, gradient: Tensor, loss: Tensor, items: Sequence[int]) -> Tensor:
        return self.project(delta - self._alpha(items, delta) * self._accumulated(gradient, items).sign(), list(items))


class NiFgsm(MiFgsm):
    """MI-FGSM with the gradient taken at u - a mu m. Lin et al. 2019, arXiv 1908.06281."""

    @override
    def look_ahead(self, delta: Tensor, items: Sequence[int]) -> Tensor:
        ahead = delta.clone()
        alpha = self._alpha(items, delta)
        for row, item in enumerate(items):
            if item in self._kept:
                ahead[row] -= alpha[row] * self.options["mu"] * self._kept[item].sign()
        return self.project(ahead, list(items))


class Apgd(StepRule):
    """Auto-PGD, Croce and Hein 2020, arXiv 2003.01690, with every comparison turned round: it minimises.

    z = P(u - a sign g); u <- P(u + .75 (z - u) + .25 (u - u_before)). At checkpoints the step is halved, and the
    search goes back to its best point, when fewer than rho of the steps since the last one lowered the loss, or when
    neither step size nor best loss has changed since.
    """

    def __init__(self, count: int, steps: int, project: Project, options: Mapping[str, float]) -> None:
        super().__init__(count, steps, project, options)
        self._states: dict[int, _ApgdState] = {}
        points, gap = [0.0, 0.22], 0.22
        while points[-1] < 1.0:
            gap = max(gap - 0.03, 0.06)
            points.append(points[-1] + gap)
        self._checkpoints = {max(1, round(p * steps)) for p in points[1:]}

    @override
    def move(self, delta: Tensor, gradient: Tensor, loss: Tensor, items: Sequence[int]) -> Tensor:
        import torch

        rows = []
        for row, item in enumerate(items):
            rows.append(self._one(item, delta[row : row + 1], gradient[row : row + 1], float(loss[row])))
        return torch.cat(rows)

    def _one(self, item: int, u: Tensor, gradient: Tensor, loss: float) -> Tensor:
        state = self._states.get(item)
        if state is None:
            state = self._states[item] = _ApgdState(self.options["alpha"], u, loss, u, gradient)
        else:
            state.lowered += loss < state.last
            if loss < state.best:
                state.best, state.best_point, state.best_gradient = loss, u, gradient
        state.last = loss
        taken = self._taken[item]
        if taken in self._checkpoints:
            since = taken - state.checked
            stuck = state.alpha == state.alpha_before and state.best == state.best_before
            state.alpha_before, state.best_before = state.alpha, state.best
            if state.lowered < self.options["rho"] * since or stuck:
                state.alpha /= 2
                u, gradient, state.before = state.best_point, state.best_gradient, state.best_point
            state.checked, state.lowered = taken, 0
        z = self.project(u - state.alpha * gradient.sign(), [item])
        new = z if taken == 0 else self.project(u + 0.75 * (z - u) + 0.25 * (u - state.before), [item])
        state.before = u
        return new


@dataclass
class _ApgdState:
    alpha: float
    before: Tensor
    best: float
    best_point: Tensor
    best_gradient: Tensor
    last: float = float("inf")
    lowered: int = 0
    checked: int = 0
    alpha_before: float = 0.0
    best_before: float = float("nan")


class Optimiser(StepRule):
    """A torch optimiser on u, then projection. One parameter a frame, so that moments do not mix."""

    kind: str
    """Its name in torch.optim."""
    arguments: Mapping[str, str | tuple[str, str]] = {}
    """Argument of the optimiser -> the option(s) it takes its value from."""

    @override
    def move(self, delta: Tensor, gradient: Tensor, loss: Tensor, items: Sequence[int]) -> Tensor:
        import torch

        raw = torch.stack([self._one(item, delta[row], gradient[row]) for row, item in enumerate(items)])
        return self.project(raw, list(items))

    def _one(self, item: int, value: Tensor, gradient: Tensor) -> Tensor:
        import torch

        if item not in self._kept:
            parameter = value.detach().clone().requires_grad_()
            arguments: dict[str, Any] = {
                name: tuple(self.options[part] for part in option)
                if isinstance(option, tuple)
                else self.options[option]
                for name, option in self.arguments.items()
            }
            self._kept[item] = (parameter, getattr(torch.optim, self.kind)([parameter], **arguments))
        parameter, optimiser = self._kept[item]
        with torch.no_grad():
            parameter.copy_(value)
        for group in optimiser.param_groups:
            group["lr"] = self.options["lr"] * self.options["decay"] ** self._taken[item]
        parameter.grad = gradient.detach().clone()
        optimiser.step()
        moved: Tensor = parameter.detach().clone()
        return moved


def _optimiser(kind: str, **arguments: str | tuple[str, str]) -> type[Optimiser]:
    return type(kind, (Optimiser,), {"kind": kind, "arguments": arguments, "__doc__": f"torch.optim.{kind} on u."})


class TanhAdam(StepRule):
    """u = tanh w, Adam on w: never leaves the ball. The reparametrisation of Carlini and Wagner, arXiv 1608.04644."""

    LIMIT = 0.995  # of |u|, beyond which w runs to infinity and the gradient dies

    def __init__(self, count: int, steps: int, project: Project, options: Mapping[str, float]) -> None:
        super().__init__(count, steps, project, options)
        self._adam = Adam(count, steps, lambda value, items: value, options)

    @override
    def move(self, delta: Tensor, gradient: Tensor, loss: Tensor, items: Sequence[int]) -> Tensor:
        u = delta.clamp(-self.LIMIT, self.LIMIT)
        w = self._adam.step(u.atanh(), gradient * (1.0 - u * u), loss, items)
        return self.project(w.tanh(), list(items))


Adam = _optimiser("Adam", betas=("beta1", "beta2"))


@dataclass(frozen=True)
class Method:
    """A step rule with the settings with which it works, in units of eps."""

    rule: Callable[[int, int, Project, Mapping[str, float]], StepRule]
    options: Mapping[str, float]
    """Defaults of the rule's own parameters, which `--attack NAME:KEY=VALUE,...` sets."""
    source: str
    steps: int = 60
    """Within which it comes to its end from nothing drawn; how many a run takes, its effort says."""


_SIGN = {"alpha": 0.25, "decay": 0.96}
_ADAM = {"lr": 0.12, "decay": 0.985, "beta1": 0.8, "beta2": 0.99}

METHODS: dict[str, Method] = {
    "i-fgsm": Method(IFgsm, _SIGN, "arXiv 1607.02533"),
    "mi-fgsm": Method(MiFgsm, {**_SIGN, "alpha": 0.15, "mu": 0.8}, "arXiv 1710.06081"),
    "ni-fgsm": Method(NiFgsm, {**_SIGN, "alpha": 0.15, "mu": 0.8}, "arXiv 1908.06281"),
    "pgd": Method(IFgsm, {"alpha": 0.1, "decay": 1.0}, "arXiv 1706.06083"),
    "apgd": Method(Apgd, {"alpha": 0.5, "rho": 0.75}, "arXiv 2003.01690"),
    "tanh-adam": Method(TanhAdam, {**_ADAM, "lr": 0.2}, "arXiv 1608.04644 with arXiv 1412.6980"),
    "rmsprop": Method(
        _optimiser("RMSprop", alpha="smoothing"), {"lr": 0.08, "decay": 0.98, "smoothing": 0.9}, "Hinton 2012"
    ),
    "adam": Method(Adam, _ADAM, "arXiv 1412.6980"),
    "adamw": Method(
        _optimiser("AdamW", betas=("beta1", "beta2"), weight_decay="weight_decay"),
        {**_ADAM, "weight_decay": 0.01},
        "arXiv 1711.05101",
    ),
    "adamax": Method(_optimiser("Adamax", betas=("beta1", "beta2")), _ADAM, "arXiv 1412.6980"),
    "adagrad": Method(_optimiser("Adagrad"), {"lr": 0.3, "decay": 1.0}, "Duchi et al. 2011"),
    "adadelta": Method(
        _optimiser("Adadelta", rho="rho", eps="eps"),
        {"lr": 1.0, "decay": 0.98, "rho": 0.9, "eps": 1e-3},
        "arXiv 1212.5701",
    ),
    "asgd": Method(_optimiser("ASGD"), {"lr": 0.15, "decay": 0.98}, "Polyak and Juditsky 1992"),
    "rprop": Method(_optimiser("Rprop"), {"lr": 0.1, "decay": 1.0}, "Riedmiller and Braun 1993"),
    "sgd": Method(
        _optimiser("SGD", momentum="momentum"),
        {"lr": 0.1, "decay": 0.98, "momentum": 0.6},
        "Robbins and Monro 1951",
        steps=24,
    ),
}

_ALIASES = {"ifgsm": "i-fgsm", "mifgsm": "mi-fgsm", "nifgsm": "ni-fgsm", "auto-pgd": "apgd", "tanhadam": "tanh-adam"}


def find_method(name: str) -> tuple[str, Method]:
    """Name as in the table, and its method. Raises UsageError with the valid names."""
    wanted = name.strip().lower().replace("_", "-")
    wanted = _ALIASES.get(wanted, wanted)
    if wanted not in METHODS:
        raise UsageError(f"{name!r} is not a step rule; it takes none, {', '.join(METHODS)}.")
    return wanted, METHODS[wanted]


def parse_options(method: str, pairs: Sequence[str]) -> dict[str, float]:
    """`key=value` settings of a method, checked, over its defaults. Raises UsageError."""
    options = dict(METHODS[method].options)
    for pair in pairs:
        key, separator, text = pair.partition("=")
        try:
            value = float(text)
        except ValueError:
            value = float("nan")
        if key not in options or not separator or not 0.0 <= value < float("inf"):
            valid = ", ".join(f"{name}={default:g}" for name, default in options.items())
            raise UsageError(f"{pair!r} is not a parameter of {method}; it takes {valid}, each a number of 0 or more.")
        options[key] = value
    return options
