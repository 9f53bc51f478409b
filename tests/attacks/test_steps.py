"""Step rules against updates worked out by hand, and what every rule must keep."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from attacks.budget import Budget, parse_eps, rounded
from attacks.perturb import Pull, direction, smoothed, step_length, unit
from attacks.steps import METHODS, find_method, parse_options
from weights.errors import UsageError


def free(value, items):
    return value.clamp(-1, 1)


def rule(name, count=1, steps=10, **options):
    method = METHODS[name]
    return method.rule(count, steps, free, {**method.options, **options})


def field(*values):
    """One frame of one pixel row with three equal channels, (1, 3, 1, n)."""
    return torch.tensor([values], dtype=torch.float64).view(1, 1, 1, -1).repeat(1, 3, 1, 1)


G1, G2 = field(2.0, -1.0, 0.0), field(-1.0, -4.0, 3.0)
LOSS = torch.ones(1)


def test_i_fgsm_two_steps():
    own = rule("i-fgsm", alpha=0.25, decay=1.0)
    first = own.step(field(0, 0, 0), G1, LOSS, [0])
    second = own.step(first, G2, LOSS, [0])
    torch.testing.assert_close(first, field(-0.25, 0.25, 0.0))
    torch.testing.assert_close(second, field(0.0, 0.5, -0.25))


def test_mi_fgsm_two_steps():
    """m1 = g1 / 1; mean|g2| = 8/3, so m2 = mu m1 + 3/8 g2 = (2 mu - 3/8, -mu - 3/2, 9/8)."""
    own = rule("mi-fgsm", alpha=0.25, decay=1.0, mu=1.0)
    first = own.step(field(0, 0, 0), G1, LOSS, [0])
    second = own.step(first, G2, LOSS, [0])
    torch.testing.assert_close(first, field(-0.25, 0.25, 0.0))
    # sign of (1.625, -2.5, 1.125): the first component goes on where i-fgsm turns round
    torch.testing.assert_close(second, field(-0.5, 0.5, -0.25))


def test_ni_fgsm_looks_ahead_along_its_momentum():
    own = rule("ni-fgsm", alpha=0.25, decay=1.0, mu=0.5)
    torch.testing.assert_close(own.look_ahead(field(0, 0, 0), [0]), field(0, 0, 0))
    first = own.step(field(0, 0, 0), G1, LOSS, [0])
    # u - a mu sign m, m = g1
    torch.testing.assert_close(own.look_ahead(first, [0]), field(-0.375, 0.375, 0.0))


def test_momentum_changes_the_result():
    with_it, without = rule("mi-fgsm", mu=1.0), rule("mi-fgsm", mu=0.0)
    points = [field(0, 0, 0)] * 2
    for gradient in (G1, G2):
        points = [r.step(p, gradient, LOSS, [0]) for r, p in zip((with_it, without), points, strict=True)]
    assert not torch.equal(*points)


def test_decay_shrinks_the_steps():
    own = rule("i-fgsm", alpha=0.5, decay=0.5)
    point = field(0, 0, 0)
    for expected in (-0.5, -0.75, -0.875):
        point = own.step(point, field(1, 1, 1), LOSS, [0])
        torch.testing.assert_close(point, field(expected, expected, expected))


def test_apgd_second_step_mixes_in_the_last_one():
    """z = u - a sign g; u2 = u1 + .75 (z - u1) + .25 (u1 - u0)."""
    own = rule("apgd", steps=100, alpha=0.5)
    first = own.step(field(0, 0, 0), G1, torch.tensor([1.0]), [0])
    second = own.step(first, G1, torch.tensor([0.5]), [0])
    torch.testing.assert_close(first, field(-0.5, 0.5, 0.0))
    torch.testing.assert_close(second, field(-1.0, 1.0, 0.0))  # -0.5 - .375 - .125


def test_apgd_halves_its_step_when_nothing_improves():
    """N = 10: the first checkpoint is at step 2 (0.22 N); no step lowered the loss, so it restarts from the best."""
    own = rule("apgd", steps=10, alpha=0.5)
    point = field(0, 0, 0)
    for loss in (1.0, 2.0):
        point = own.step(point, G1, torch.tensor([loss]), [0])
    # back at the start (loss 1), half the step: z = -0.25 sign g, no momentum from there
    restarted = own.step(point, G2, torch.tensor([3.0]), [0])
    torch.testing.assert_close(restarted, 0.75 * field(-0.25, 0.25, 0.0))


def test_adam_first_step_is_its_learning_rate():
    moved = rule("adam", lr=0.1, decay=1.0).step(field(0, 0, 0), G1, LOSS, [0])
    torch.testing.assert_close(moved, field(-0.1, 0.1, 0.0), atol=1e-7, rtol=0)


def test_tanh_adam_never_reaches_the_border():
    own = rule("tanh-adam", lr=0.5)
    point = field(0, 0, 0)
    for _ in range(30):
        point = own.step(point, field(1, -1, 1), LOSS, [0])
    assert point.abs().max() < 1.0
    assert point.abs().max() > 0.9


@pytest.mark.parametrize("name", METHODS)
def test_every_method_descends_a_quadratic_and_stays_in_the_ball(name):
    """f(u) = |u - t|² / 2 with t inside the ball, its gradient scaled to a root mean square of 1 as the loop does."""
    target = torch.rand((2, 3, 4, 4), generator=torch.Generator().manual_seed(1)) - 0.5
    own = METHODS[name].rule(2, METHODS[name].steps, free, METHODS[name].options)
    point = torch.zeros_like(target)
    start = (point - target).square().sum()
    best = start
    for _ in range(METHODS[name].steps):
        ahead = own.look_ahead(point, [0, 1])
        loss = (ahead - target).square().sum(dim=(1, 2, 3)) / 2
        best = min(best, 2 * loss.sum())
        point = own.step(point, unit(ahead - target), loss, [0, 1])
        assert point.abs().max() <= 1.0
    assert best < 0.1 * start


@pytest.mark.parametrize("name", METHODS)
def test_a_frame_does_not_depend_on_its_batch(name):
    together, alone = (rule(name, count=2, steps=20) for _ in range(2))
    generator = torch.Generator().manual_seed(0)
    both, one = torch.zeros(2, 3, 3, 3), torch.zeros(1, 3, 3, 3)
    for step in range(12):
        gradient = torch.randn((2, 3, 3, 3), generator=generator)
        loss = torch.tensor([1.0, 2.0 + step % 3])
        both = together.step(both, gradient, loss, [0, 1])
        one = alone.step(one, gradient[1:], loss[1:], [1])
        torch.testing.assert_close(both[1:], one, rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", METHODS)
def test_zero_gradients_are_safe(name):
    own = rule(name)
    point = torch.full((1, 3, 2, 2), 0.25)
    for _ in range(3):
        point = own.step(point, torch.zeros_like(point), torch.zeros(1), [0])
        assert torch.isfinite(point).all()


# ------------------------------------------------------------------------------------------------- budget


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 10_000),
    st.floats(1 / 255, 0.5),
    st.sampled_from([0.0, 1.0, 30.0, math.inf, math.nan]),
)
def test_projection_keeps_ball_mask_and_range(seed, eps, spoil):
    generator = torch.Generator().manual_seed(seed)
    base = torch.rand((2, 3, 5, 4), generator=generator)
    mask = torch.rand((2, 1, 5, 4), generator=generator) > 0.5
    budget = Budget(base, mask, eps)
    raw = torch.randn((2, 3, 5, 4), generator=generator)
    raw[0, 0, 0, 0] = spoil
    delta = budget.project(raw, [0, 1])
    assert torch.isfinite(delta).all()
    assert delta.abs().max() <= eps + 1e-6
    assert (delta[~mask.expand_as(delta)] == 0).all()
    assert (base + delta).min() >= 0
    assert (base + delta).max() <= 1
    torch.testing.assert_close(budget.project(delta, [0, 1]), delta, rtol=0, atol=1e-7)


def test_rounding_is_to_the_nearest_level_with_a_straight_gradient():
    pixels = torch.tensor([0.4 / 255, 0.6 / 255, 254.7 / 255, 1.5]).requires_grad_()
    whole = rounded(pixels)
    torch.testing.assert_close(whole * 255, torch.tensor([0.0, 1.0, 255.0, 255.0]))
    whole.sum().backward()
    assert pixels.grad is not None
    assert (pixels.grad == 1).all()


@pytest.mark.parametrize(("text", "value"), [("16/255", 16 / 255), ("0.05", 0.05), ("1", 1.0), (" 24 / 255", 24 / 255)])
def test_eps_is_read(text, value):
    assert parse_eps(text) == pytest.approx(value)


@pytest.mark.parametrize("text", ["", "0", "-1/255", "2", "a", "1/0", "nan", "inf"])
def test_bad_eps_is_refused(text):
    with pytest.raises(UsageError, match="above 0 and up to 1"):
        parse_eps(text)


# ------------------------------------------------------------------------------------------------- gradients


def test_unit_has_root_mean_square_one_whatever_the_scale():
    gradient = torch.randn((2, 3, 8, 8), generator=torch.Generator().manual_seed(0))
    gradient[1] *= 1e-30
    scaled = unit(gradient)
    torch.testing.assert_close(scaled.square().mean(dim=(1, 2, 3)), torch.ones(2), rtol=1e-4, atol=0)
    torch.testing.assert_close(unit(gradient * 1e-5), scaled, rtol=1e-4, atol=1e-6)
    assert (unit(torch.zeros(1, 3, 2, 2)) == 0).all()


def test_smoothing_is_a_gaussian():
    """A point becomes exp(-r² / 2 s²) / (2 pi s²), up to the sampling of the kernel."""
    point = torch.zeros(1, 3, 41, 41)
    point[..., 20, 20] = 1.0
    spread = smoothed(point, 3.0)
    assert float(spread[0, 0, 20, 20]) == pytest.approx(1 / (2 * math.pi * 9), rel=0.02)
    assert float(spread[0, 1, 20, 23]) == pytest.approx(math.exp(-0.5) / (2 * math.pi * 9), rel=0.02)
    torch.testing.assert_close(spread.sum(dim=(2, 3)), torch.ones(1, 3), rtol=1e-4, atol=0)


def test_direction_does_not_depend_on_the_scale_of_a_gradient():
    """Unit gradients (1, 0) and (0, 1), the second victim twice as far out: (1, 2) in all, whatever the losses."""
    first, second = torch.zeros(1, 1, 1, 2), torch.zeros(1, 1, 1, 2)
    first[..., 0], second[..., 1] = 5e4, 3e-4
    one, two = torch.tensor([1.0]), torch.tensor([2.0])
    combined = direction([Pull(one, first, one), Pull(one * 1e-6, second, two)])
    torch.testing.assert_close(combined.view(-1), torch.tensor([1.0, 2.0]))


def test_step_length_lands_where_the_linearised_loss_is_zero():
    gradient = torch.zeros(1, 3, 1, 2)
    gradient[..., 0] = 2.0
    move = torch.zeros(1, 3, 1, 2)
    move[..., 0] = -1.0  # lowers the linearised loss by 6
    pull = Pull(torch.tensor([1.5]), gradient, torch.tensor([1.0]))
    torch.testing.assert_close(step_length(move, [pull], 1.0).view(-1), torch.tensor([0.25]))
    torch.testing.assert_close(step_length(move, [pull], 0.5).view(-1), torch.tensor([0.125]))
    torch.testing.assert_close(step_length(move * 0.01, [pull], 1.0).view(-1), torch.tensor([1.0]))
    torch.testing.assert_close(step_length(move, [pull], 0.0).view(-1), torch.tensor([1.0]))


# ------------------------------------------------------------------------------------------------- names


def test_names_and_options():
    assert find_method("MI-FGSM")[0] == "mi-fgsm"
    assert find_method("mifgsm")[0] == "mi-fgsm"
    assert parse_options("mi-fgsm", ["mu=1"])["mu"] == 1.0
    with pytest.raises(UsageError, match="rmsprop"):
        find_method("nothing")
    for bad in ("mu", "mu=x", "lr=0.1", "mu=-1", "mu=inf"):
        with pytest.raises(UsageError, match="not a parameter of mi-fgsm; it takes alpha"):
            parse_options("mi-fgsm", [bad])
