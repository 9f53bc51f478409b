"""How perturbations are carried from frame to frame."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import cast

import numpy as np
import pytest
import torch
from torch import Tensor

from attacks.embed import (
    Allowance,
    Embedder,
    Target,
    _landmarks,
    _Last,
    _within,
    bolder,
    carried,
    moved,
    similarity,
)
from attacks.live import LiveCodec
from attacks.perturb import AttackSettings, Stage
from victims.base import Objective, Reading, Window
from victims.face import Array, Face
from victims.face_model import FACE_MODEL_68
from victims.observe import Observer

WINDOW = Window(64, 32, 256, 224)


def landmarks() -> Array:
    """The template seen from the front: a face of about 110 px in the middle of the window, frame px."""
    return FACE_MODEL_68[:, :2] * 800.0 + np.array([64 + 128, 32 + 100])


def blobs(points: Array, window: Window = WINDOW) -> Tensor:
    """A Gaussian of 2 px around each point of the frame, one a channel, (3, h, w)."""
    ys, xs = np.mgrid[0 : window.height, 0 : window.width]
    at = points - [window.x, window.y]
    return torch.from_numpy(
        np.stack([np.exp(-((xs - x) ** 2 + (ys - y) ** 2) / 8.0) for x, y in at]).astype(np.float32)
    )


def centres(delta: Tensor, window: Window = WINDOW) -> Array:
    """Where each channel's mass lies, frame px."""
    picture = delta.numpy().astype(np.float64)
    ys, xs = np.mgrid[0 : window.height, 0 : window.width]
    mass = picture.sum(axis=(1, 2))
    return np.stack([(picture * xs).sum(axis=(1, 2)), (picture * ys).sum(axis=(1, 2))], axis=1) / mass[:, None] + [
        window.x,
        window.y,
    ]


@pytest.mark.parametrize("angle", [0.0, 10.0, -25.0])
def test_a_rigid_movement_is_followed_exactly(angle: float) -> None:
    before = landmarks()
    cos, sin = np.cos(np.radians(angle)), np.sin(np.radians(angle))
    turn, shift = 1.1 * np.array([[cos, -sin], [sin, cos]]), np.array([7.0, -4.0])
    middle = before.mean(axis=0)

    def move(points: Array) -> Array:
        return (points - middle) @ turn.T + middle + shift

    points = before[[30, 36, 48]]
    other = Window(32, 0, 320, 288)
    drawn = carried(blobs(points), WINDOW, other, before, move(before))
    assert drawn.shape == (3, other.height, other.width)
    assert centres(drawn, other) == pytest.approx(move(points), abs=0.1)


def test_what_is_drawn_at_a_landmark_follows_it_alone() -> None:
    """A mouth that opens takes the lower lip along, and leaves nose and brow where they are."""
    before = landmarks()
    after = before.copy()
    mouth = np.r_[5:12, 55:60, 65:68]
    after[mouth, 1] += 5.0
    fit = similarity(before, after)
    points = before[[57, 30, 19]]
    drawn = centres(carried(blobs(points), WINDOW, WINDOW, before, after))
    assert drawn[0] == pytest.approx(after[57], abs=1.0)
    assert drawn[1] == pytest.approx(after[30], abs=0.5)
    assert drawn[2] == pytest.approx(after[19], abs=0.5)
    rigid = points @ fit[:, :2].T + fit[:, 2]  # what a similarity alone would make of it
    assert abs(rigid[0, 1] - after[57, 1]) > 2.0


def test_nothing_moves_where_no_landmark_does() -> None:
    points = landmarks()
    delta = torch.randn(3, WINDOW.height, WINDOW.width)
    assert torch.allclose(carried(delta, WINDOW, WINDOW, points, points), delta, atol=1e-3)


def test_moved_is_a_shift_by_whole_pixels() -> None:
    delta = torch.randn(3, 64, 96)
    source, target = Window(32, 64, 96, 64), Window(64, 32, 96, 96)
    result = moved(delta, source, target)
    assert torch.equal(result[:, 32:96, :64], delta[:, :, 32:])
    assert float(result[:, :32].abs().sum()) == float(result[:, :, 64:].abs().sum()) == 0.0


@pytest.mark.parametrize(
    ("size", "factor"),
    [(0.0, 1.0), (0.01, 1.4), (0.04, 1.25), (0.05, 1.0), (0.09, 1.0)],
)
def test_what_is_faint_in_the_face_is_drawn_more_boldly(size: float, factor: float) -> None:
    delta = torch.full((3, WINDOW.height, WINDOW.width), 0.1)
    delta[:, 20:80, :50] = size  # in px of the window, which starts at (64, 32)
    signs = torch.ones_like(delta)
    signs[:, :, ::2] = -1.0
    face = Face(np.array([20.0, 52.0, 114.0, 112.0]), 1.0)
    assert torch.allclose(bolder(delta * signs, WINDOW, face, 0.05), delta * signs * factor)


def test_a_face_beside_the_window_changes_nothing() -> None:
    delta = torch.full((3, WINDOW.height, WINDOW.width), 0.01)
    for box in ([0.0, 0.0, 50.0, 30.0], [400.0, 300.0, 450.0, 360.0]):
        assert torch.equal(bolder(delta, WINDOW, Face(np.array(box), 1.0), 0.05), delta)


def test_a_focus_is_clipped_to_the_window() -> None:
    assert _within((10, 40, 400, 90), Window(32, 32, 64, 64)) == (0, 8, 64, 58)


class Never(Objective):
    """A victim that is always some tolerances off."""

    def read(self, pixels: Tensor, items: Sequence[int], geometry: Tensor | None = None) -> Reading:
        value = pixels.square().mean(dim=(1, 2, 3))
        return Reading(value, torch.full_like(value, 5.0).detach(), value.detach())


class WithoutVictims(Embedder):
    def stages(self, targets: Sequence[Target], window: Window) -> list[Stage]:
        return [Stage("detector", Never(), 1.0)]


def passes_taken(allowance: Allowance | None, frames: int, robust: bool = False) -> list[int]:
    """Of the first frames of a face."""
    chain = cast(Observer, SimpleNamespace(detector=SimpleNamespace(device=torch.device("cpu"))))
    embedder = WithoutVictims(
        chain, AttackSettings("sgd", 8 / 255, 10), warm_steps=3, allowance=allowance, robust=robust
    )
    image, mask = np.full((64, 64, 3), 128, np.uint8), np.zeros((64, 64), bool)
    mask[8:56, 8:56] = True
    face = Face(np.array([12.0, 12.0, 52.0, 52.0]), 0.9)
    done = embedder.embed([Target(index, image, mask, image, face, index) for index in range(frames)])
    return [one.passes for one in done]


@pytest.mark.parametrize(
    ("mean", "taken"),
    [
        (None, [10, 3, 3, 3, 3]),
        (6.0, [10, 4, 4, 6, 6]),
        (2.0, [10, 2, 2, 2, 2]),
        (9.0, [10, 8, 9, 9, 9]),
        (12.0, [10, 9, 9, 9, 9]),
    ],
)
def test_frames_keep_to_a_mean_of_passes(mean: float | None, taken: list[int]) -> None:
    """One victim: a pass a step. What the first frame took too much is saved by the next ones, each of which gives a
    third of its passes at most, and takes two steps at least and nine at most."""
    assert passes_taken(None if mean is None else Allowance(mean), 5) == taken


def test_what_is_to_be_robust_takes_twice_the_steps_whatever_is_owed() -> None:
    assert passes_taken(Allowance(2.0), 3, robust=True) == [10, 6, 6]


@pytest.mark.parametrize(("lossy", "robust", "size"), [(False, False, 0.04), (True, False, 0.05), (True, True, 0.056)])
def test_through_a_codec_what_is_carried_is_drawn_more_boldly(lossy: bool, robust: bool, size: float) -> None:
    """From 0.04: up to half of eps, 0.1; where it is to be robust towards 0.08, by 1.4 a frame."""
    face = Face(np.array([80.0, 50.0, 140.0, 110.0]), 0.9)
    image, mask = np.full((160, 224, 3), 128, np.uint8), np.ones((160, 224), bool)
    embedder = WithoutVictims(
        cast(Observer, None),
        AttackSettings("sgd", 0.1, 10),
        cast(LiveCodec, object()) if lossy else None,
        robust=robust,
    )
    delta = torch.full((3, WINDOW.height, WINDOW.width), 0.04)
    embedder._last = _Last(delta, WINDOW, _landmarks(face), image, (0, 0, 1, 1))
    x, y = 110 - WINDOW.x, 80 - WINDOW.y
    drawn = embedder._carried(Target(1, image, mask, image, face, 1), WINDOW)
    assert drawn[:, y, x] == pytest.approx(size, rel=1e-4)


def test_faces_share_what_may_be_taken() -> None:
    """Two faces owe 2 x 10 - 2 x 6 passes after their first frames; four frames of four steps pay them."""
    allowance = Allowance(6.0)
    assert passes_taken(allowance, 1) == [10]
    assert passes_taken(allowance, 5) == [10, 4, 4, 4, 4]
    assert allowance.saved == 0.0
