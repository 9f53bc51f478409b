"""Private weights: on one face, what a holder of the other weights recovers; and the parts by hand."""

from __future__ import annotations

import numpy as np
import pytest
import skimage.data
import torch
from scipy.ndimage import gaussian_filter

from drsf_cli.readers.fork import FILES, gaze_crop, landmark_crop
from victims import registry
from victims.compact.fork import FAMILIES, ForkSettings, augmented, blurred, clone, embedded, fork, measure, obscured
from weights.loading import load_state_dict
from weights.store import resolve


@pytest.fixture(scope="module")
def portrait():
    """scikit-image's portrait, its box and its landmarks."""
    image = np.ascontiguousarray(skimage.data.astronaut())
    (box,) = registry.load_detector("mtcnn").detect([image])[0].boxes
    ((landmarks,),) = registry.load_aligner_named("fan-compact").align([image], [box[None]])
    return image, box, landmarks


def public(name):
    return clone(FAMILIES[name], load_state_dict(resolve([FILES[name]]).path))


def crop_of(name, portrait):
    image, box, landmarks = portrait
    crop = landmark_crop(image, box) if name == "fan-compact" else gaze_crop(image, landmarks)
    assert crop is not None
    assert crop.dtype == torch.uint8
    return crop


@pytest.mark.slow
@pytest.mark.parametrize("name", ["fan-compact", "gaze-compact"])
def test_who_reads_what_was_embedded_for_whom(name, portrait):
    """A tiny fork, of one face under other light and from other places. Embedded for either network, that one reads it
    and the other errs many times as much; untouched, both read the same within what is allowed."""
    family, released = FAMILIES[name], public(name)
    crops = crop_of(name, portrait)[None].repeat(24, 1, 1, 1)
    settings = ForkSettings(steps=30 if name == "fan-compact" else 40, batch=4, pool=8, pool_batch=4)
    steps = []
    state = fork(family, released, crops, 3, settings, lambda: steps.append(1))
    assert len(steps) == settings.steps
    held_out = augmented(crops[:4], family.size + 24, torch.Generator().manual_seed(5))
    result = measure(family, released, clone(family, state), (held_out * 255).round().to(torch.uint8), steps=20)
    assert result.accurate
    assert result.accuracy < result.allowed
    # embedded for the fork: a holder of the released weights is off by ten times as much
    assert result.private_own < 0.05 * family.apart
    assert result.private_public > 10 * result.private_own
    # embedded for the released weights: so is a holder of the fork, four times at least
    assert result.public_own < 0.1 * family.apart
    assert result.public_private > 4 * result.public_own


@pytest.mark.slow
def test_the_seed_makes_the_weights(portrait):
    family, released = FAMILIES["gaze-compact"], public("gaze-compact")
    crops = crop_of("gaze-compact", portrait)[None].repeat(4, 1, 1, 1)
    settings = ForkSettings(steps=2, batch=2, pool=2, pool_batch=1)
    first, again, other = (fork(family, released, crops, seed, settings) for seed in (1, 1, 2))
    assert all(torch.equal(value, again[key]) for key, value in first.items())
    assert any(not torch.equal(value, other[key]) for key, value in first.items())


@pytest.mark.slow
def test_a_repelled_network_reads_less(portrait):
    """Of two networks that differ by noise, the one that is repelled ends farther off than without."""
    family, released = FAMILIES["gaze-compact"], public("gaze-compact")
    random = torch.Generator().manual_seed(0)
    state = {
        k: v + 0.3 * v.std() * torch.randn(v.shape, generator=random) if v.ndim > 1 else v
        for k, v in released.state_dict().items()
    }
    other = clone(family, state)
    natural = augmented(crop_of("gaze-compact", portrait)[None], family.size, torch.Generator().manual_seed(1))
    base = obscured(natural, family.cell, torch.Generator().manual_seed(0))
    wanted = family.run(released, natural)
    read = {}
    for repelled in ((), (other,)):
        delta = embedded(family, base, wanted, [released], repelled, steps=25)
        assert float(delta.abs().max()) <= 24 / 255 + 1e-6
        shown = (base + delta).clamp(0, 1)
        read[len(repelled)] = [float(family.distance(family.run(n, shown), wanted)) for n in (released, other)]
    assert read[0][0] < 2
    assert read[1][0] < 4
    assert read[1][1] > read[0][1] + 3


def test_blocks_are_flat_and_keep_the_mean():
    crops = torch.rand(2, 3, 60, 60, generator=torch.Generator().manual_seed(0))
    blocks = obscured(crops, 20, torch.Generator().manual_seed(3))
    steps = (blocks[:, :, 1:] - blocks[:, :, :-1]).abs().amax(dim=(0, 1, 3))
    edges = torch.nonzero(steps > 1e-6)[:, 0]
    assert len(edges) == 3
    assert torch.equal(edges[1:] - edges[:-1], torch.tensor([20, 20]))
    top = int(edges[0]) + 1
    inner = blocks[:, :, top : top + 20, 30:40]
    assert float(inner.std(dim=2).max()) < 1e-6
    left = int(torch.nonzero((blocks[0, 0, top, 1:] - blocks[0, 0, top, :-1]).abs() > 1e-6)[0, 0]) + 1
    expected = crops[:, :, top : top + 20, left : left + 20].mean(dim=(2, 3))
    torch.testing.assert_close(blocks[:, :, top, left], expected)


def test_blurring_is_scipys_gaussian():
    values = torch.randn(1, 3, 40, 40, generator=torch.Generator().manual_seed(0))
    expected = gaussian_filter(values[0, 1].numpy(), 1.5, mode="constant", truncate=10 / 3)
    np.testing.assert_allclose(blurred(values)[0, 1].numpy(), expected, atol=1e-5)


def test_distances_by_hand():
    gaze = FAMILIES["gaze-compact"]
    ahead, turned = torch.zeros(1, 2), torch.tensor([[0.0, 0.1]])
    assert float(gaze.distance(ahead, turned)) == pytest.approx(np.degrees(2 * np.sin(0.05)), abs=1e-3)
    landmarks = FAMILIES["fan-compact"]
    maps = torch.full((1, 68, 32, 32), -9.0)
    for row in range(68):
        maps[0, row, 8 + row % 9, 8 + row // 9] = 9.0
    moved = torch.roll(maps, 1, dims=3)  # one cell to the right; the points' box is 8 by 7 cells
    assert float(landmarks.distance(moved, maps)) == pytest.approx(100 / np.sqrt(8 * 7), abs=1e-2)
