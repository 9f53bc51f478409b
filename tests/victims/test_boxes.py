"""Distances of boxes against values worked out by hand."""

import pytest
import torch

from victims.boxes import box_distance

TARGET = torch.tensor([0.0, 0.0, 10.0, 20.0])


@pytest.mark.parametrize(
    ("predicted", "distance"),
    [
        # one side a tenth off: 0.1 / 4, 1 - 180 / 200, 3 sqrt(0.01 / 4)
        ([1.0, 0.0, 10.0, 20.0], 0.025 + 0.1 + 0.15),
        # two sides a tenth off: 0.2 / 4, 1 - 162 / 200, 3 sqrt(0.02 / 4)
        ([1.0, 2.0, 10.0, 20.0], 0.05 + 0.19 + 3 * 0.005**0.5),
        ([0.0, 0.0, 10.0, 20.0], 0.0),
    ],
)
def test_distance(predicted: list[float], distance: float) -> None:
    assert float(box_distance(torch.tensor(predicted), TARGET)) == pytest.approx(distance, abs=5e-4)


def test_shapes_of_a_detectors_cells() -> None:
    distances = box_distance(torch.zeros(2, 3, 4, 4), TARGET.expand(2, 1, 1, 4))
    assert distances.shape == (2, 3, 4)


def test_a_side_is_pushed_by_how_far_it_is_off() -> None:
    box = torch.tensor([2.0, 0.0, 10.0, 20.5], requires_grad=True)
    box_distance(box, TARGET).backward()
    assert box.grad is not None
    # in sizes: the left side is 0.2 off, the bottom 0.025
    assert float(box.grad[0]) * 10 > 2 * float(box.grad[3]) * 20 > 0


def test_at_its_target_the_gradient_is_finite() -> None:
    box = TARGET.clone().requires_grad_()
    box_distance(box, TARGET).backward()
    assert box.grad is not None
    assert bool(torch.isfinite(box.grad).all())
