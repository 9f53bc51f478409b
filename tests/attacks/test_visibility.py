"""Visibility, by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from attacks.visibility import visibility


def test_by_hand() -> None:
    """A window at (10, 20) whose left half is changed by 6, its right by -8; the box holds a quarter of the left half
    and all of what is to the right of it."""
    covered = np.full((60, 60, 3), 100, np.uint8)
    change = np.zeros((20, 20, 3), np.int8)
    change[:, :10], change[:, 10:] = 6, -8
    seen = visibility(covered, change, (10, 20), np.array([15.0, 20.0, 30.0, 40.0]), 8 / 255)
    # 5 columns of 6, 10 of -8
    assert seen.rms == pytest.approx(math.sqrt((5 * 36 + 10 * 64) / 15))
    assert seen.p95 == 8.0
    assert seen.at_eps == pytest.approx(10 / 15)
    assert 0.0 < seen.ssim < 1.0


def test_nothing_changed_is_not_visible() -> None:
    random = np.random.default_rng(0)
    covered = random.integers(0, 256, (40, 40, 3), dtype=np.uint8)
    seen = visibility(covered, np.zeros((40, 40, 3), np.int8), (0, 0), np.array([5.0, 5.0, 30.0, 30.0]), 8 / 255)
    assert (seen.rms, seen.p95, seen.at_eps, seen.ssim) == (0.0, 0.0, 0.0, 1.0)


def test_a_box_is_clipped_to_the_window_and_a_small_one_has_no_ssim() -> None:
    change = np.full((8, 8, 3), 4, np.int8)
    covered = np.zeros((50, 50, 3), np.uint8)
    seen = visibility(covered, change, (40, 40), np.array([44.0, 44.0, 90.0, 90.0]), 24 / 255)
    assert (seen.rms, seen.p95, seen.at_eps) == (4.0, 4.0, 0.0)
    assert math.isnan(seen.ssim)
    outside = visibility(covered, change, (40, 40), np.array([0.0, 0.0, 20.0, 20.0]), 24 / 255)
    assert math.isnan(outside.rms)
