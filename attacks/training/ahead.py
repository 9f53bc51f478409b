"""Train a drawer for what becomes of it when it is fitted to a clip.

A fit (attacks/tuning.py) leads a drawer to what its victims read best in a few faces, and strangers, who are no part of
it, see them again. So here the drawer is fitted to one person's faces after another, and gradients are taken where fits
have led, on these pictures and on others like them: of the chain's victims, so that what was learnt from some frames
serves others, and of strangers, so that they see nothing on the way. They move the drawer that the fits start from, and
the shade. This is first-order model-agnostic meta-learning (Finn et al. 2017, arXiv 1703.03400, section 5.2), but that
what fits have come to is kept and used again for a while, as a difference of weights: the drawer moves more slowly than
a fit.
"""

from __future__ import annotations

import copy
import math
import time
from collections import deque
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from attacks.drawer import EPS, DrawerNet
from attacks.fitting.faces import ReadFaces
from attacks.fitting.loop import Chain, Settings, Training
from attacks.fitting.scenes import HEIGHTS, PIXELS, Scene, draw_obscuring, make_scene, tile_side
from attacks.obscure import Obscuring
from attacks.tuning import back
from victims.camera import Camera

PLAIN = 0.3
"""Share of steps with the drawer as it is."""
LONGEST = 96
"""Steps of a fit at most, of four faces each, as of a clip of a minute."""
KEPT = 8
"""After so many steps of a fit, and again so many, what it has come to is kept, ..."""
STOCK = 24
"""... until there are so many others."""
FACES = 10
"""Pictures of an episode, one after another in a set that is ordered by person; half of them are fitted to. They are
taken as they are: a clip's frames differ less than augmented ones, and fits to these lead less far."""
BACK = 0.2
"""Of the pull back to the first drawing a grey level, where each victim counts at most 1. A clip's fit has 1, where
each counts at most 4."""


@dataclass(frozen=True)
class Kind:
    """What the scenes of an episode have in common."""

    height: float
    """Of the faces' boxes, px."""
    obscuring: Obscuring

    @classmethod
    def drawn(cls, random: np.random.Generator) -> Kind:
        """Any."""
        return cls(math.exp(random.uniform(*np.log(HEIGHTS))), draw_obscuring(random))

    def scene(self, faces: ReadFaces, chain: Chain, random: np.random.Generator, most: int) -> Scene:
        """A random batch of at most `most` faces as they are."""
        side = tile_side(self.height)
        count = int(np.clip(PIXELS // side**2, 2, min(most, len(faces))))
        rows = random.choice(len(faces), count, replace=False)
        camera = Camera.default(round(side * random.uniform(1.3, 4.0)), side)
        return make_scene(faces, rows, self.height, camera, self.obscuring, chain.gaze, random, augmented=False)


@dataclass(frozen=True)
class Place:
    """Where a fit has come to."""

    way: list[Tensor]
    """What it added to the drawer's parameters."""
    faces: ReadFaces
    """What it was fitted to, and others like these."""
    kind: Kind


class Fit(Training):
    """A fit as a clip's: to a few faces of one kind, with nobody repelled."""

    def __init__(self, chain: Chain, faces: ReadFaces, kind: Kind, start: DrawerNet, seed: int) -> None:
        settings = Settings(minutes=math.inf, rate=7e-4, weight_decay=0.0, warmup=5, most=4, faint_weight=0.0)
        super().__init__(Chain(chain.observer), faces, faces, settings, seed)
        self.kind = kind
        self.take_weights(start.state_dict())
        self.first = copy.deepcopy(self.network).eval()

    def _scene(self) -> Scene:
        return self.kind.scene(self.faces, self.chain, self.random, 4)

    def _gradient(self, scene: Scene, leaf: Tensor) -> Tensor:
        with torch.no_grad():
            change = leaf - EPS * self.first(self._inputs(scene))
        return super()._gradient(scene, leaf) + BACK * back(change)

    def way(self) -> list[Tensor]:
        """From the first weights to those of now."""
        pairs = zip(self.network.parameters(), self.first.parameters(), strict=True)
        return [(now - first).detach() for now, first in pairs]


class Ahead(Training):
    """Training at the places that fits lead to."""

    def __init__(self, chain: Chain, faces: ReadFaces, held: ReadFaces, settings: Settings, seed: int) -> None:
        super().__init__(chain, faces, held, settings, seed)
        self.network.shade.requires_grad_()
        self.optimiser.add_param_group({"params": [self.network.shade], "weight_decay": 0.0})
        self.places: deque[Place] = deque(maxlen=STOCK)
        self.place: Place | None = None
        """Whose kind of scene is drawn next; None: any."""
        self._begin()

    def step(self) -> None:
        """Go on with a fit, and move the drawer once, at a place that one has led to or as it is."""
        began = time.monotonic()
        self.fit.step()
        if self.fit.steps % KEPT == 0:
            self.places.append(Place(self.fit.way(), self.episode, self.fit.kind))
        if self.fit.steps >= self.length:
            self._begin()
        self.minutes += min(time.monotonic() - began, 30.0) / 60.0
        self.place = None
        if self.places and self.random.random() > PLAIN:
            self.place = self.places[int(self.random.integers(len(self.places)))]
        super().step()

    def _scene(self) -> Scene:
        if self.place is None:
            return super()._scene()
        return self.place.kind.scene(self.place.faces, self.chain, self.random, 8)

    def _backward(self, scene: Scene) -> None:
        self._go(1.0)
        super()._backward(scene)
        self._go(-1.0)

    @torch.no_grad()
    def _go(self, share: float) -> None:
        """Along the way of the fit whose place it is."""
        if self.place is not None:
            for parameter, way in zip(self.network.parameters(), self.place.way, strict=True):
                parameter.add_(way, alpha=share)

    def _note(self, name: str, value: float) -> None:
        super()._note(name if self.place is None else f"fitted: {name}", value)
        if self.place is not None:  # who is repelled is chosen by what is seen of fitted drawings
            super()._note(name, value)

    def _begin(self) -> None:
        """A fit to half of some faces."""
        first = int(self.random.integers(len(self.faces) - FACES))
        self.episode = self.faces.of(np.arange(first, first + FACES))
        self.length = KEPT * int(self.random.integers(1, LONGEST // KEPT + 1))
        own = self.episode.of(self.random.permutation(FACES)[: FACES // 2])
        self.fit = Fit(self.chain, own, Kind.drawn(self.random), self.network, int(self.random.integers(2**31)))
