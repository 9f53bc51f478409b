"""Embedding in a batch of frames: windows, the drawing as it is, and what a codec makes of crops."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields, replace
from fractions import Fraction
from types import SimpleNamespace
from typing import cast

import numpy as np
import pytest
import torch
from torch import Tensor

from attacks.codec import DeliveryCodec, EncoderSettings, find_codec
from attacks.drawer import Attributes, Drawer, DrawerNet
from attacks.effort import Correction
from attacks.embed import Embedder, Target, _within, as_crops, common_window
from attacks.perturb import AttackSettings, Stage
from victims.base import Objective, Reading, Window
from victims.face import Face
from victims.face_model import FACE_MODEL_68
from victims.observe import Observer

EPS = 8 / 255


def network(seed: int = 0) -> DrawerNet:
    torch.manual_seed(seed)
    return DrawerNet()


def target(index: int = 0, size: int = 96) -> Target:
    """A grey frame whose mask is the middle of it."""
    image, mask = np.full((size, size, 3), 128, np.uint8), np.zeros((size, size), bool)
    mask[8 : size - 8, 12 : size - 12] = True
    face = Face(
        np.array([28.0, 28.0, 68.0, 76.0]),
        0.9,
        FACE_MODEL_68[:, :2] * 300.0 + 48.0,
        gaze=np.array([0.0, 0.0, -1.0]),
        gaze_angle=np.zeros(2),
    )
    return Target(index, image, mask, face, index)


class Off(Objective):
    """A victim that is always some tolerances off."""

    def read(self, pixels: Tensor, items: Sequence[int], geometry: Tensor | None = None) -> Reading:
        value = pixels.square().mean(dim=(1, 2, 3))
        return Reading(value, torch.full_like(value, 5.0).detach(), value.detach())


class Bright(Objective):
    """A victim that would have everything darker, and is far from it."""

    def read(self, pixels: Tensor, items: Sequence[int], geometry: Tensor | None = None) -> Reading:
        value = pixels.square().mean(dim=(1, 2, 3))
        return Reading(value, 100.0 * value.detach(), value.detach())


class WithoutVictims(Embedder):
    objective: Objective = Off()

    def stages(self, targets: Sequence[Target], window: Window) -> list[Stage]:
        return [Stage("detector", self.objective, 1.0)]


def embedder(steps: int, kind: type[Embedder] = WithoutVictims) -> Embedder:
    chain = cast(Observer, SimpleNamespace(detector=SimpleNamespace(device=torch.device("cpu"))))
    return kind(chain, AttackSettings("sgd", EPS, steps), Drawer(network(), {}))


def test_without_steps_no_victim_is_run_and_the_drawing_is_embedded() -> None:
    """The chain has no victims at all; what is embedded is the drawing, clipped to eps and mask, in whole levels."""
    one = target()
    (done,) = embedder(0, Embedder).embed([one])
    assert (done.steps, done.passes, done.checks) == (0, 0, 0)
    drawn = Drawer(network(), {}).draw([one.covered], [Attributes.of(one.face)], done.window)[0]
    expected = (drawn.clamp(-EPS, EPS) * 255.0).permute(1, 2, 0).numpy() * done.window.cut(one.mask)[..., None]
    assert np.abs(expected).max() > 1.0
    assert np.abs(done.change - expected).max() <= 0.51
    image = done.apply(one.covered)
    assert (image[~one.mask] == 128).all()
    assert np.abs(image.astype(int) - 128).max() <= 8


def test_a_frame_does_not_depend_on_those_before_it() -> None:
    alone = embedder(0, Embedder).embed([target(1)])[0]
    both = embedder(0, Embedder).embed([target(0), target(1)])[1]
    np.testing.assert_allclose(both.change, alone.change, atol=1)


def test_steps_of_one_frame_leave_the_next_alone() -> None:
    both, single = embedder(2), embedder(2)
    both.objective = single.objective = Bright()  # type: ignore[attr-defined]
    both.embed([target(0)])
    np.testing.assert_array_equal(both.embed([target(1)])[0].change, single.embed([target(1)])[0].change)


@pytest.mark.parametrize(("error", "steps", "passes", "checks"), [(5.0, 0, 0, 1), (25.0, 2, 2, 2)])
def test_only_a_frame_that_reads_badly_takes_steps_that_are_extra(
    error: float, steps: int, passes: int, checks: int
) -> None:
    """Of two steps for frames that are over 20 tolerances: a look, and for a bad one two steps and a look."""

    class Always(Objective):
        def read(self, pixels: Tensor, items: Sequence[int], geometry: Tensor | None = None) -> Reading:
            value = pixels.square().mean(dim=(1, 2, 3))
            return Reading(value, torch.full_like(value, error).detach(), value.detach())

    one = embedder(0)
    one.objective = Always()  # type: ignore[attr-defined]
    one.settings = replace(one.settings, correction=Correction(extra=2))
    (done,) = one.embed([target()])
    assert (done.steps, done.passes, done.checks) == (steps, passes, checks)


def test_every_step_costs_a_pass_of_each_victim() -> None:
    done = embedder(2).embed([target(0), target(1)])
    assert [(one.steps, one.passes) for one in done] == [(2, 2), (2, 2)]


def test_what_is_embedded_for_holds_no_pixel_of_the_original() -> None:
    assert {field.name for field in fields(Target)} == {"index", "covered", "mask", "face", "pts_ticks", "beside"}


def test_windows_lie_on_the_grid_and_hold_every_mask() -> None:
    first, second = np.zeros((200, 310), bool), np.zeros((200, 310), bool)
    first[40:60, 70:90] = True
    second[100:190, 200:305] = True
    assert common_window([first]) == Window(64, 32, 32, 32)
    assert common_window([first, second]) == Window(64, 32, 310 - 64, 192 - 32)


def test_a_focus_is_clipped_to_the_window() -> None:
    assert _within((10, 40, 400, 90), Window(32, 32, 64, 64)) == (0, 8, 64, 58)


@pytest.mark.parametrize("count", [1, 3])
def test_crops_come_back_as_frames_that_others_came_before(count: int) -> None:
    """The same as coding the first crop twice by hand, and taking what comes after it."""
    random = np.random.default_rng(0)
    crops = random.integers(0, 256, (count, 16, 16, 3), dtype=np.uint8).repeat(4, 1).repeat(4, 2)
    settings = EncoderSettings(find_codec("h264"), crf=30, time_base=Fraction(1, 30), focus_qp=-4)
    rects = [(0, 0, 64, 64)] * count
    codec = DeliveryCodec(settings)
    pixels = torch.from_numpy(crops).permute(0, 3, 1, 2).float() / 255.0
    seen = (as_crops(codec, rects, pixels) * 255.0).round().permute(0, 2, 3, 1).numpy().astype(np.uint8)
    by_hand = codec.roundtrip(np.concatenate([crops[:1], crops]), focus=[[rect] for rect in (rects[0], *rects)])[1:]
    np.testing.assert_array_equal(seen, by_hand)
    assert np.abs(seen.astype(float) - crops).mean() > 0.5
