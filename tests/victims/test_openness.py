"""Openness against ratios worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from victims.openness import (
    INNER_LIPS,
    LEFT_EYE,
    RIGHT_EYE,
    eye_aspect_ratio,
    eye_openness,
    mouth_aspect_ratio,
    mouth_openness,
)

EYE = np.array([[0, 0], [10, -4], [20, -5], [30, 0], [20, 4], [10, 3]], dtype=np.float64)
"""Corners 30 px apart, lids 7 and 9 px: (7 + 9) / 60."""
LIPS = np.array([[0, 0], [10, -3], [20, -6], [30, -3], [40, 0], [30, 3], [20, 6], [10, 3]], dtype=np.float64)
"""40 px wide, 6, 12 and 6 px high: 24 / 120."""


def landmarks() -> np.ndarray:
    points = np.random.default_rng(0).uniform(0, 300, (68, 2))
    points[list(RIGHT_EYE)] = EYE + np.array([80, 100])
    points[list(LEFT_EYE)] = EYE * [1, 0.5] + [150, 100]
    points[list(INNER_LIPS)] = LIPS + np.array([90, 200])
    return points


def test_ratios_by_hand() -> None:
    assert eye_openness(landmarks()) == pytest.approx((16 / 120, 16 / 60))
    assert mouth_openness(landmarks()) == pytest.approx(0.2)


def test_size_place_and_roll_do_not_matter() -> None:
    turn = np.array([[0.8, -0.6], [0.6, 0.8]])
    moved = 2.5 * landmarks() @ turn.T + [40, -7]
    assert eye_openness(moved) == pytest.approx((16 / 120, 16 / 60))
    assert mouth_openness(moved) == pytest.approx(0.2)


def test_the_indices_are_ibugs() -> None:
    """300-W: eyes 37 to 48 and inner lips 61 to 68, counted from 1, the person's right eye first."""
    assert (*RIGHT_EYE, *LEFT_EYE) == tuple(range(36, 48))
    assert tuple(range(60, 68)) == INNER_LIPS


@pytest.mark.parametrize(
    ("point", "left", "right", "mouth"), [(36, 1, 0, 1), (44, 0, 1, 1), (66, 1, 1, 0), (30, 1, 1, 1)]
)
def test_what_is_not_finite_makes_only_its_own_ratio_unknown(point: int, left: bool, right: bool, mouth: bool) -> None:
    points = landmarks()
    points[point, 1] = np.nan
    known = [value is not None for value in (*eye_openness(points), mouth_openness(points))]
    assert known == [left, right, mouth]


def test_corners_that_coincide_and_no_landmarks_have_none() -> None:
    points = landmarks()
    points[39] = points[36]
    assert eye_openness(points) == (pytest.approx(16 / 120), None)
    assert eye_openness(None) == (None, None)
    assert mouth_openness(None) is None


def test_tensors_have_the_same_ratio_and_a_gradient() -> None:
    """Lifting the point of the upper lid by 1 px opens the eye by 1 / 60: p2 and p6 lie above each other."""
    eye = torch.tensor(EYE, requires_grad=True)
    ratio = eye_aspect_ratio(eye[None].expand(3, -1, -1))
    assert ratio.tolist() == pytest.approx([16 / 60] * 3)
    (gradient,) = torch.autograd.grad(ratio[0], eye)
    assert gradient[1].tolist() == pytest.approx([0, -1 / 60])
    assert float(mouth_aspect_ratio(torch.tensor(LIPS))) == pytest.approx(0.2)
