"""Tuning: the drawer is fitted to one stretch of a clip before it draws there.

The bundled drawer was trained on many people's faces, and reads a little off on any single one. As in test-time
training (Sun et al. 2020, arXiv 1909.13231) a copy of it goes on learning from what the victims read of a sample of the
stretch's frames; then it draws every frame in one pass. What that takes does not grow with the stretch, and no frame
starts from another one. Like all else here, what is learnt is a function of obscured frames and of attributes alone:
those of all sampled frames, so that what is drawn in one of them may depend on the others (docs/threat-model.md).

The victims' gradients lead back to what any detector takes for a face. So what is learnt is held near what the bundled
drawer draws, and that drawer was trained at the places that fits lead to (attacks/training/ahead.py): the fit regains
for the authorised models what one face asks for, and little for others.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from attacks.budget import Budget
from attacks.drawer import Attributes, Drawer, draw_with
from attacks.effort import Tuning
from attacks.embed import Embedder, Target, common_window
from attacks.perturb import Pull, delivered, direction, read_stages
from victims.base import Window

BATCH = 4
"""Faces a step; each is read on a core of its own, since what gradients need takes about half a gigabyte a face."""
WARM = 5
"""Steps over which the learning rate rises; then it falls along a half cosine."""
CLIPPED = 50.0
"""Longest gradient, as in the drawer's training."""
FAR = 4.0
"""Grey levels, root mean square over the mask, from which on a drawing is drawn back no more strongly."""


def tuned(
    embedder: Embedder,
    sample: Mapping[int, Sequence[Target]],
    tuning: Tuning,
    told: Callable[[int], object] = lambda faces: None,
) -> Embedder:
    """The embedder with a drawer that fits a `sample` of faces, by track.

    Its `spent` has what each of them cost. `told` is called with the faces of each step.
    """
    return _Tuner(embedder, sample, tuning).run(told)


class _Tuner:
    def __init__(self, embedder: Embedder, sample: Mapping[int, Sequence[Target]], tuning: Tuning) -> None:
        self.embedder, self.tuning = embedder, tuning
        self.sample = {track: own for track, own in sample.items() if own}
        network = copy.deepcopy(embedder.drawer.network)
        network.shade.mul_(tuning.shade)
        self.first = Drawer(network, embedder.drawer.weights)
        self.network = copy.deepcopy(network).requires_grad_(True)
        self.optimiser = torch.optim.AdamW(self.network.parameters(), weight_decay=0.0, betas=(0.9, 0.99))
        self.random = np.random.default_rng(0)  # the same stretch gives the same bits
        self.spent: dict[tuple[int, int], int] = {}
        self._read = {track: np.zeros(len(own), int) for track, own in self.sample.items()}

    def run(self, told: Callable[[int], object]) -> Embedder:
        samples, done, step = self.tuning.samples_of(sum(len(own) for own in self.sample.values())), 0, 0
        while done < samples:
            track, targets = self._batch()
            step += 1
            for group in self.optimiser.param_groups:
                group["lr"] = self.tuning.rate * min(step / WARM, 0.5 + 0.5 * math.cos(math.pi * done / samples))
            self._step(track, targets)
            done += len(targets)
            told(len(targets))
        return replace(self.embedder, drawer=Drawer(self.network, self.first.weights), spent=self.spent)

    def _batch(self) -> tuple[int, list[Target]]:
        """Faces of one track, those that were read least so far, in the order of their frames."""
        sizes = np.array([len(own) for own in self.sample.values()])
        track = list(self.sample)[int(self.random.choice(len(sizes), p=sizes / sizes.sum()))]
        own, read = self.sample[track], self._read[track]
        rows = np.sort(np.lexsort((self.random.random(len(own)), read))[:BATCH])
        read[rows] += 1
        return track, [own[row] for row in rows]

    def _step(self, track: int, targets: Sequence[Target]) -> None:
        window = common_window([target.mask for target in targets])
        covered, attributes = [one.covered for one in targets], [Attributes.of(one.face) for one in targets]
        drawn = draw_with(self.network, covered, attributes, window)
        first = self.first.draw(covered, attributes, window)

        def wish(row: int) -> Tensor:
            own, change = targets[row], drawn.detach()[row : row + 1]
            budget = self.embedder.budget([own], window)
            pulls = self._pulls(own, window, budget, change)
            self.spent[own.index, track] = self.spent.get((own.index, track), 0) + len(pulls)
            gradient = self.tuning.back * back((change - first[row : row + 1]) * budget.mask)
            return gradient + direction(pulls) * budget.mask if pulls else gradient

        self.optimiser.zero_grad()
        drawn.backward(torch.cat(list(self.embedder.each(wish, range(len(targets))))))
        torch.nn.utils.clip_grad_norm_(self.network.parameters(), CLIPPED)
        self.optimiser.step()

    def _pulls(self, target: Target, window: Window, budget: Budget, drawn: Tensor) -> list[Pull]:
        """What the victims wish of a drawing (1, 3, h, w) as it comes back from the codec."""
        delta = budget.project(drawn, [0])
        pixels = delivered(budget, delta, delta, [0], self.embedder.channel([target], window))
        return read_stages(pixels, [0], self.embedder.stages([target], window), with_gradient=True).pulls


def back(change: Tensor) -> Tensor:
    """The gradient that undoes a change (B, 3, h, w): of unit length a grey level of its root mean square."""
    levels = 255.0 * change.square().mean(dim=(1, 2, 3), keepdim=True).sqrt()
    length = change.square().sum(dim=(1, 2, 3), keepdim=True).sqrt().clamp_min(1e-9)
    return change / length * levels.clamp_max(FAR)
