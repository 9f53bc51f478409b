"""The loop on small objectives whose optimum is known."""

from __future__ import annotations

import math

import pytest
import torch

from attacks.budget import Budget
from attacks.effort import Correction
from attacks.perturb import AttackSettings, Stage, perturb
from attacks.steps import METHODS
from victims.base import Objective, Reading

EPS = 0.1


class Projection(Objective):
    """A linear reading of the pixels, v = <w, x>, that is to become a given value; error |v - t|."""

    def __init__(self, weights, targets, scale=1.0, offset_from=None):
        self.weights, self.targets, self.scale, self.offset_from = weights, targets, scale, offset_from
        self.calls = []

    def read(self, pixels, items, geometry=None):
        self.calls.append((list(items), None if geometry is None else geometry.clone()))
        value = (pixels * self.weights).sum(dim=(1, 2, 3))
        gap = (value - self.targets[list(items)]).abs()
        return Reading(self.scale * gap, gap.detach(), value.detach())


def make(count=3, seed=0):
    generator = torch.Generator().manual_seed(seed)
    base = 0.3 + 0.4 * torch.rand((count, 3, 8, 8), generator=generator)
    mask = torch.zeros((count, 1, 8, 8), dtype=torch.bool)
    mask[..., 2:6, 2:6] = True
    weights = torch.randn((3, 8, 8), generator=generator)
    now = (base * weights).sum(dim=(1, 2, 3))
    return Budget(base, mask, EPS), weights, now


@pytest.mark.slow
@pytest.mark.parametrize("name", METHODS)
def test_every_method_reaches_an_attainable_target(name):
    budget, weights, now = make()
    objective = Projection(weights, now + torch.tensor([0.8, -0.8, 0.4]))
    stage = Stage("detector", objective, 0.03)
    settings = AttackSettings(name, EPS, METHODS[name].steps, correction=Correction(smoothing=0.0))
    outcome = perturb(budget, torch.zeros_like(budget.base), [stage], settings)
    assert (outcome.errors["detector"] <= 0.08).all()  # a tenth of the start
    assert outcome.delta.abs().max() <= EPS + 1e-6
    assert (outcome.delta[~budget.mask.expand_as(outcome.delta)] == 0).all()


def test_frames_that_are_good_stop_and_cost_nothing_more():
    budget, weights, now = make()
    objective = Projection(weights, now + torch.tensor([0.0, 0.6, 0.6]))
    outcome = perturb(
        budget, torch.zeros_like(budget.base), [Stage("detector", objective, 0.05)], AttackSettings("i-fgsm", EPS, 20)
    )
    assert outcome.steps[0] == 0
    assert (outcome.delta[0] == 0).all()
    assert outcome.passes[0] + outcome.checks[0] == 1
    assert (outcome.steps[1:] > 0).all()
    assert all(0 not in items for items, _ in objective.calls[1:])


def test_only_frames_that_go_on_are_run_backward():
    """Two frames, one step each; the poor one takes three more by itself."""
    budget, weights, now = make(2)
    objective = Projection(weights, now + torch.tensor([0.9, 0.15]))
    settings = AttackSettings("i-fgsm", EPS, 1, {"alpha": 1e-4}, Correction(smoothing=0.0, extra=3, cap=0.0))
    outcome = perturb(budget, torch.zeros_like(budget.base), [Stage("detector", objective, 0.03)], settings)
    assert [items for items, _ in objective.calls] == [[0, 1], [1], [0], [0], [0], [0]]
    assert outcome.passes.tolist() == [4, 1]
    assert outcome.checks.tolist() == [1, 1]


def test_scaling_a_loss_changes_nothing():
    results = []
    for scale in (1.0, 1e-4):
        budget, weights, now = make()
        stages = [
            Stage("detector", Projection(weights, now + 0.5, scale), 0.01),
            Stage("aligner", Projection(weights.flip(-1), now - 3.0), 0.01),
        ]
        results.append(perturb(budget, torch.zeros_like(budget.base), stages, AttackSettings("mi-fgsm", EPS, 6)).delta)
    torch.testing.assert_close(*results, rtol=1e-3, atol=1e-5)


def test_a_frame_does_not_depend_on_its_batch():
    budget, weights, now = make()
    targets = now + torch.tensor([0.8, -0.8, 0.4])
    settings = AttackSettings("mi-fgsm", EPS, 8)
    start = torch.zeros_like(budget.base)
    together = perturb(budget, start, [Stage("detector", Projection(weights, targets), 0.01)], settings)
    single = Budget(budget.base[1:2], budget.mask[1:2], EPS)
    alone = perturb(single, start[1:2], [Stage("detector", Projection(weights, targets[1:2]), 0.01)], settings)
    torch.testing.assert_close(together.delta[1:2], alone.delta, rtol=0, atol=1e-6)


def test_the_best_iterate_is_kept():
    """A target beyond reach, with a step that overshoots: the answer is no worse than any point on the way."""
    budget, weights, now = make(1)
    seen = []

    class Watching(Projection):
        def read(self, pixels, items, geometry=None):
            reading = super().read(pixels, items, geometry)
            seen.append(float(reading.error[0]))
            return reading

    settings = AttackSettings("i-fgsm", EPS, 7, {"alpha": 0.9, "decay": 1.0}, Correction(smoothing=0.0, cap=0.0))
    stage = Stage("detector", Watching(weights, now + 0.3), 1e-6)
    outcome = perturb(budget, torch.zeros_like(budget.base), [stage], settings)
    assert float(outcome.errors["detector"][0]) == min(seen)
    assert seen[-1] > min(seen)


def test_a_poor_frame_takes_more_steps():
    """Steps move what is read by 0.02 at most, so that frames start and end 30 and 5 tolerances away, or nearly so."""
    budget, weights, now = make(2)
    reach = float((weights.abs() * budget.mask).sum()) * EPS
    settings = AttackSettings(
        "i-fgsm", EPS, 2, {"alpha": 0.02 / reach, "decay": 1.0}, Correction(smoothing=0.0, extra=3, cap=0.0)
    )
    stage = Stage("detector", Projection(weights, now + torch.tensor([0.9, 0.15])), 0.03)
    outcome = perturb(budget, torch.zeros_like(budget.base), [stage], settings)
    assert outcome.steps.tolist() == outcome.passes.tolist() == [5, 2]
    assert outcome.checks.tolist() == [1, 1]


class Planned(Objective):
    """Errors that are given beforehand, one a look."""

    def __init__(self, errors):
        self.errors = iter(errors)

    def read(self, pixels, items, geometry=None):
        value = pixels.square().mean(dim=(1, 2, 3))
        return Reading(value, torch.full_like(value, next(self.errors)).detach(), value.detach())


@pytest.mark.parametrize(("hinge", "kept"), [(False, 5.0), (True, 4.8)])
def test_a_hinge_counts_only_while_it_pushes(hinge, kept):
    """The last look is better for the victim, and a little worse for a hinge that is low enough in both."""
    budget, _, _ = make(1)
    stages = [
        Stage("detector", Planned([9.0, 5.0, 4.8]), 1.0),
        Stage("repel", Planned([0.0, 0.0, 0.4]), 1.0, hinge=hinge),
    ]
    outcome = perturb(
        budget,
        torch.zeros_like(budget.base),
        stages,
        AttackSettings("i-fgsm", EPS, 2, correction=Correction(smoothing=0.0)),
    )
    assert float(outcome.errors["detector"][0]) == pytest.approx(kept)


def test_a_hinge_that_pushes_counts():
    """0.8 tolerances are 0.6 too many (0.5 are none, 1 is 1)."""
    budget, _, _ = make(1)
    stages = [
        Stage("detector", Planned([9.0, 5.0, 4.5]), 1.0),
        Stage("repel", Planned([0.0, 0.0, 0.8]), 1.0, hinge=True),
    ]
    outcome = perturb(
        budget,
        torch.zeros_like(budget.base),
        stages,
        AttackSettings("i-fgsm", EPS, 2, correction=Correction(smoothing=0.0)),
    )
    assert float(outcome.errors["detector"][0]) == pytest.approx(5.0)


def overshooting(tries, growth=1.0, tolerance=0.2):
    """An i-fgsm run that goes to and fro about its target: what it came to, its start and three iterates as recomputed
    by hand (u <- u - a sign(g), a = 0.5 growth^k), and what gives a perturbation's score."""
    budget, weights, now = make(1)
    options = {"alpha": 0.5, "decay": growth}
    settings = AttackSettings("i-fgsm", EPS, 3, options, Correction(smoothing=0.0, cap=0.0, tries=tries))
    target = now + 0.3
    stage = Stage("detector", Projection(weights, target), tolerance)
    outcome = perturb(budget, torch.zeros_like(budget.base), [stage], settings)

    def read(delta):
        pixels = ((budget.base + delta) * 255.0).round() / 255.0
        return float((pixels * weights).sum())

    delta = torch.zeros_like(budget.base)
    iterates = [delta]
    for taken in range(3):
        side = 1.0 if read(delta) > float(target) else -1.0
        delta = (delta - 0.5 * growth**taken * EPS * side * weights.sign() * budget.mask).clamp(-EPS, EPS)
        iterates.append(delta)
    return outcome, iterates, lambda delta: abs(read(delta) - float(target)) / tolerance


def weighted_mean(iterates, score):
    counts = [math.exp(-0.3 * score(delta)) for delta in iterates]
    return sum(count * delta for count, delta in zip(counts, iterates, strict=True)) / sum(counts)


@pytest.mark.parametrize(
    ("tries", "growth", "tolerance", "winner"),
    [(0, 1.0, 0.2, 0), (1, 1.0, 0.2, 4), (0, 1.2, 0.1, 0), (3, 1.2, 0.1, 0), (4, 1.2, 0.1, 7)],
)
def test_the_best_of_all_that_was_tried_is_delivered(tries, growth, tolerance, winner):
    """0 to 3 are start and iterates, 4 is the mean, 5 to 7 three tenths of the way from it to the best ones."""
    outcome, iterates, score = overshooting(tries, growth, tolerance)
    mean = weighted_mean(iterates, score)
    points = [*iterates, mean, *(mean + 0.3 * (one - mean) for one in sorted(iterates, key=score)[:3])]
    assert min(points[: 4 + tries], key=score) is points[winner]
    torch.testing.assert_close(outcome.delta, points[winner], rtol=0, atol=1e-5)
    assert float(outcome.errors["detector"][0]) == pytest.approx(tolerance * score(points[winner]), abs=1e-4)
    assert outcome.passes.tolist() == [3]
    assert outcome.checks.tolist() == [1 + tries]


def test_a_start_that_is_good_is_kept_and_nothing_tried():
    budget, weights, now = make(2)
    stage = Stage("detector", Projection(weights, now + torch.tensor([0.0, 0.6])), 0.05)
    settings = AttackSettings("i-fgsm", EPS, 3, correction=Correction(tries=2))
    outcome = perturb(budget, torch.zeros_like(budget.base), [stage], settings)
    assert (outcome.delta[0] == 0).all()
    assert (outcome.delta[1] != 0).any()
    assert outcome.checks.tolist() == [0, 3]


@pytest.mark.parametrize(("second", "pushing"), [(0.045, 1), (0.1, 2), (0.5, 2)])
def test_a_victim_that_is_far_less_off_than_another_is_not_run_backward(second, pushing):
    """The first is 9 tolerances off; a quarter of that counts."""
    budget, weights, now = make(1)
    stages = [
        Stage("detector", Projection(weights, now + 0.27), 0.03),
        Stage("aligner", Projection(weights.flip(-1), (budget.base * weights.flip(-1)).sum().view(1) + second), 0.03),
    ]
    settings = AttackSettings("i-fgsm", EPS, 1, {"alpha": 1e-4}, Correction(behind=0.25))
    outcome = perturb(budget, torch.zeros_like(budget.base), stages, settings)
    assert outcome.passes.tolist() == [pushing]
    assert outcome.checks.tolist() == [2 - pushing + 2]


def test_a_box_does_not_starve_for_landmarks_that_are_lost_with_it():
    """The second is 900 tolerances off, the first 9: more than a quarter of what is poor."""
    budget, weights, now = make(1)
    stages = [
        Stage("detector", Projection(weights, now + 0.27), 0.03),
        Stage("aligner", Projection(weights.flip(-1), (budget.base * weights.flip(-1)).sum().view(1) + 27.0), 0.03),
    ]
    settings = AttackSettings("i-fgsm", EPS, 1, {"alpha": 1e-4}, Correction(behind=0.25))
    outcome = perturb(budget, torch.zeros_like(budget.base), stages, settings)
    assert outcome.passes.tolist() == [2]


def test_the_sum_of_errors_decides_what_is_best():
    """The worst error alone would call a start better that every step leaves for what most victims want."""
    budget, weights, now = make(1)
    wanted = {"one": (1.0, 0.25), "two": (1.0, 0.26), "other": (-1.0, 0.16)}  # direction, tolerance
    stages = [Stage(name, Projection(weights, now + side * 0.4), limit) for name, (side, limit) in wanted.items()]
    settings = AttackSettings("i-fgsm", EPS, 3, {"alpha": 0.03, "decay": 1.0}, Correction(smoothing=0.0, cap=0.0))
    outcome = perturb(budget, torch.zeros_like(budget.base), stages, settings)
    worst = max(float(outcome.errors[stage.name][0]) / stage.tolerance for stage in stages)
    total = sum(float(outcome.errors[stage.name][0]) / stage.tolerance for stage in stages)
    at_start = [0.4 / limit for _, limit in wanted.values()]
    assert worst > max(at_start) + 0.1
    assert total < sum(at_start) - 0.1


def test_a_stage_gets_the_output_of_the_one_before():
    budget, weights, now = make()
    first, second = Projection(weights, now + 5.0), Projection(weights, now)
    stages = [Stage("detector", first, 0.1), Stage("aligner", second, 0.1, "detector")]
    perturb(budget, torch.zeros_like(budget.base), stages, AttackSettings("i-fgsm", EPS, 1))
    assert second.calls[0][1] is not None
    torch.testing.assert_close(second.calls[0][1], now, rtol=0, atol=0.5)  # rounding to 8 bits


def test_losses_that_are_not_numbers_move_nothing():
    budget, weights, now = make()

    class Broken(Projection):
        def read(self, pixels, items, geometry=None):
            reading = super().read(pixels, items, geometry)
            return Reading(reading.loss * torch.nan, torch.full_like(reading.error, torch.inf), reading.output)

    stage = Stage("detector", Broken(weights, now), 0.1)
    outcome = perturb(budget, torch.zeros_like(budget.base), [stage], AttackSettings("mi-fgsm", EPS, 3))
    assert torch.isfinite(outcome.delta).all()
    assert torch.isinf(outcome.errors["detector"]).all()


def test_the_channel_is_what_the_victim_sees():
    """A channel that darkens everything by a tenth has to be answered by brightening."""
    budget, weights, _ = make()
    positive = weights.abs()
    value = (budget.base * positive).sum(dim=(1, 2, 3))
    stage = Stage("detector", Projection(positive, value), 0.05)
    settings = AttackSettings("adam", EPS, 60, correction=Correction(smoothing=0.0))
    outcome = perturb(
        budget, torch.zeros_like(budget.base), [stage], settings, channel=lambda x: (x - 0.01).clamp(0, 1)
    )
    inside = budget.mask.expand_as(outcome.delta)
    assert (outcome.errors["detector"] <= 0.2).all()
    assert float(outcome.delta[inside].mean()) > 0.01
