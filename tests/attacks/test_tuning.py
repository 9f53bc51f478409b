"""Fitting a drawer to a stretch: what it learns, what it costs, and how far it goes."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from torch import Tensor

from attacks.drawer import Attributes
from attacks.effort import Tuning
from attacks.embed import Embedder, Target
from attacks.tuning import BATCH, back, tuned
from tests.attacks.test_embed import Off, WithoutVictims, embedder, target
from victims.base import Objective, Reading

TUNING = Tuning(each=14, rate=1e-3, back=0.0)
STEADY = 0.5 + 6 / 255
"""A brightness that the budget of the test allows; the covered frame has 128 / 255."""


class Level(Objective):
    """Wants the middle of the window to have a brightness; its error is in grey levels."""

    def read(self, pixels: Tensor, items: Sequence[int], geometry: Tensor | None = None) -> Reading:
        apart = pixels[:, :, 32:64, 32:64].mean(dim=(1, 2, 3)) - STEADY
        return Reading(apart.abs(), 255.0 * apart.abs().detach(), apart.detach())


class Wanting(WithoutVictims):
    objective: Objective = Level()


class NeverSatisfied(WithoutVictims):
    objective: Objective = Off()


def wanting(kind: type[Embedder] = Wanting) -> Embedder:
    return embedder(0, kind)


def faces(count: int) -> list[Target]:
    return [target(index) for index in range(count)]


def level(one: Embedder) -> float:
    """Mean change of the middle of a frame that was not learnt from, grey levels."""
    (done,) = one.embed([target(99)])
    return float(done.change[32:64, 32:64].mean())


def test_what_is_learnt_from_some_frames_holds_for_others() -> None:
    before = wanting()
    wanted = 255.0 * STEADY - 128.0
    assert abs(level(before) - wanted) > 3.0
    assert abs(level(tuned(before, {0: faces(6)}, TUNING)) - wanted) < 1.0


def test_the_same_sample_gives_the_same_bits_and_leaves_the_bundled_drawer_alone() -> None:
    first = wanting()
    weights = {name: value.clone() for name, value in first.drawer.network.state_dict().items()}
    one, other = (tuned(first, {0: faces(5)}, TUNING).embed([target(7)])[0].change for _ in range(2))
    np.testing.assert_array_equal(one, other)
    assert all(torch.equal(value, weights[name]) for name, value in first.drawer.network.state_dict().items())
    assert (first.embed([target(7)])[0].change != one).any()


@pytest.mark.parametrize("shade", [0.0, 1.0, 1.5])
def test_the_shade_is_made_stronger_first_and_is_not_learnt(shade: float) -> None:
    first = wanting(NeverSatisfied)
    own = torch.full_like(first.drawer.network.shade, 0.25)
    first.drawer.network.shade.copy_(own)
    fitted = tuned(first, {0: faces(2)}, dataclasses.replace(TUNING, each=2, shade=shade)).drawer.network
    assert torch.equal(fitted.shade, torch.full_like(own, 0.25 * shade))
    assert torch.equal(first.drawer.network.shade, own)


@pytest.mark.parametrize(
    ("sample", "each", "read"),
    [({0: 6}, 4, 24), ({0: 6}, 2, 12), ({0: 1}, 5, 5), ({0: 3, 1: 9}, 3, 36), ({0: 0, 4: 4}, 2, 8)],
)
def test_a_sample_is_read_so_often_and_the_cost_is_told(sample: dict[int, int], each: int, read: int) -> None:
    """One victim: a pass for each reading. No face is read twice more than another of its track."""
    told: list[int] = []
    tuning = dataclasses.replace(TUNING, each=each)
    one = tuned(wanting(NeverSatisfied), {track: faces(count) for track, count in sample.items()}, tuning, told.append)
    assert read <= sum(told) == sum(one.spent.values()) < read + BATCH
    assert max(told) <= BATCH
    assert {track for _, track in one.spent} <= {track for track, count in sample.items() if count}
    for track, count in sample.items():
        own = [one.spent.get((index, track), 0) for index in range(count)]
        assert not own or max(own) - min(own) <= 1


def test_what_a_face_cost_is_told_with_what_is_embedded_in_it() -> None:
    one = tuned(wanting(NeverSatisfied), {0: faces(2)}, dataclasses.replace(TUNING, each=4))
    done = one.embed([target(0), target(1), target(2)])
    assert [own.passes for own in done] == [4, 4, 0]
    assert one.embed([target(0)], track=1)[0].passes == 0


def test_it_is_drawn_back_to_what_the_bundled_drawer_draws() -> None:
    first = wanting(NeverSatisfied)
    bare = first.embed([target(9)])[0].change.astype(float)
    away = [
        np.abs(
            tuned(first, {0: faces(4)}, dataclasses.replace(TUNING, back=weight)).embed([target(9)])[0].change - bare
        )
        for weight in (0.0, 30.0)
    ]
    assert away[1].mean() < 0.5 * away[0].mean()


def test_the_way_back_has_the_length_of_the_change_in_levels() -> None:
    """A change of 2 levels everywhere is undone by a gradient of length 2, one of 9 levels by one of the most, 4."""
    change = torch.full((2, 3, 4, 5), 2.0 / 255.0)
    change[1] *= 4.5
    found = back(change)
    assert found.square().sum(dim=(1, 2, 3)).sqrt().tolist() == pytest.approx([2.0, 4.0])
    assert bool((found > 0).all())
    assert not back(torch.zeros(1, 3, 4, 5)).any()


def test_a_drawer_is_asked_with_attributes_alone() -> None:
    """What reaches it: the obscured frame, box, landmarks, gaze, and whether a client only followed the face."""
    assert {field.name for field in dataclasses.fields(Attributes)} == {"box", "landmarks", "gaze_angle", "followed"}
