"""Distances of boxes against values worked out by hand."""

import numpy as np
import pytest
import torch

from victims.boxes import box_distance, suppress

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


@pytest.mark.parametrize("count", [0, 1, 60, 400])
def test_suppression_keeps_what_torchvision_keeps(count: int) -> None:
    from torchvision.ops import nms

    random = np.random.default_rng(count)
    corners = random.uniform(0, 300, (count, 2))
    boxes = np.concatenate([corners, corners + random.uniform(5, 80, (count, 2))], axis=1).astype(np.float32)
    scores = random.normal(size=count).astype(np.float32)  # logits are suppressed too: scores may be negative
    expected = nms(torch.from_numpy(boxes), torch.from_numpy(scores), 0.4)
    np.testing.assert_array_equal(suppress(boxes, scores, 0.4), expected)
