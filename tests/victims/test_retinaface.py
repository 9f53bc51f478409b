"""RetinaFace against the published numbers, against facexlib, and under attack."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
import torch
from torch import Tensor

from victims.base import Image, Window
from victims.boxes import iou
from victims.retinaface import (
    RetinaFace,
    decode_boxes,
    load_retinaface,
    preprocess,
    priors,
    suppress,
)
from victims.retinaface_networks import mobilenet_network, resnet50_network
from weights.errors import WeightsError

BUILDERS = {"mobile0.25": mobilenet_network, "resnet50": resnet50_network}


@pytest.fixture(scope="module")
def official(published: Callable[[str], Path]) -> RetinaFace:
    return load_retinaface("retinaface", published("retinaface_mobilenet0.25.pth"))


@pytest.fixture(scope="module")
def portrait(shared: Path) -> Image:
    """(450, 450, 3) RGB, one face."""
    image = cv2.imread(str(shared / "data" / "aflw-test.jpg"))
    assert image is not None
    return np.ascontiguousarray(image[..., ::-1], dtype=np.uint8)


def frames(path: Path, indices: list[int]) -> list[Image]:
    with av.open(str(path)) as container:
        return [
            np.asarray(frame.to_ndarray(format="rgb24"), dtype=np.uint8)
            for index, frame in zip(range(max(indices) + 1), container.decode(video=0), strict=False)
            if index in indices
        ]


# ------------------------------------------------------------------- network


def test_published_sums(official: RetinaFace) -> None:
    with torch.no_grad():
        loc, logits, points = official.networks["retinaface"](torch.zeros(1, 3, 64, 96))
    assert loc.shape == (1, 252, 4)
    assert float(loc.sum()) == pytest.approx(-127.31988, abs=1e-3)
    assert float(torch.softmax(logits, dim=-1).sum()) == pytest.approx(252.0, abs=1e-3)
    assert float(points.sum()) == pytest.approx(388.49253, abs=1e-3)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("variant", BUILDERS)
def test_equals_facexlib_key_for_key_and_bit_for_bit(variant: str) -> None:
    facexlib = pytest.importorskip("facexlib.detection.retinaface")
    torch.manual_seed(0)
    theirs = facexlib.RetinaFace(variant, phase="train", device="cpu").eval()
    ours = BUILDERS[variant]()
    assert list(ours.state_dict()) == list(theirs.state_dict())
    assert sum(p.numel() for p in ours.parameters()) == {"mobile0.25": 426_608, "resnet50": 27_293_600}[variant]
    ours.load_state_dict(theirs.state_dict())
    pixels = torch.randn(2, 3, 75, 98) * 50
    with torch.no_grad():
        for own, other in zip(ours.eval()(pixels), theirs(pixels), strict=True):
            assert torch.equal(own, other)


@pytest.mark.parametrize(("height", "width", "count"), [(320, 320, 4200), (451, 450, 8630), (64, 96, 252)])
def test_number_of_priors(height: int, width: int, count: int) -> None:
    assert priors(height, width).shape == (count, 3)


def test_order_of_priors_and_decoding() -> None:
    grid = priors(64, 96)  # 8x12, 4x6 and 2x3 cells of two
    assert grid[0].tolist() == [4, 4, 16]
    assert grid[1].tolist() == [4, 4, 32]
    assert grid[2].tolist() == [12, 4, 16]
    assert grid[2 * 12].tolist() == [4, 12, 16]
    assert grid[2 * 96].tolist() == [8, 8, 64]
    assert grid[-1].tolist() == [80, 48, 512]
    # upstream: centre + loc·0.1·side, side·exp(0.2·loc)
    box = decode_boxes(torch.tensor([[1.0, -2.0, 5.0, 0.0]]), grid[2 * 96 :][:1])
    half = 32 * float(np.exp(1.0))
    np.testing.assert_allclose(box[0], [14.4 - half, -4.8 - 32, 14.4 + half, -4.8 + 32], rtol=1e-6)


def test_priors_of_a_region_are_the_frames_own() -> None:
    whole = {tuple(row) for row in priors(451, 450).tolist()}
    region = priors(128, 130, x=320, y=64).tolist()
    assert {tuple(row) for row in region} <= whole
    assert region[0] == [324, 68, 16]


def test_suppression_counts_one_more_pixel() -> None:
    # 4x4 px and shifted by 2: 2·4 / 24 = 0.33, with the extra pixel 3·5 / 35 = 0.43
    boxes = torch.tensor([[0.0, 0.0, 4.0, 4.0], [2.0, 0.0, 6.0, 4.0], [50.0, 0.0, 54.0, 4.0]])
    assert suppress(boxes, torch.tensor([0.6, 0.9, 0.7])).tolist() == [1, 2]


# ------------------------------------------------------------------- reading


def test_published_face(official: RetinaFace, portrait: Image) -> None:
    ((found, points),) = official.detect_with_points([portrait])
    assert len(found) == 1
    assert found.scores[0] == pytest.approx(0.995921, abs=1e-5)
    np.testing.assert_allclose(found.boxes[0], [148.808, 140.750, 295.217, 356.039], atol=2e-3)
    expected = [187.655, 228.411, 258.646, 229.851, 222.495, 263.917, 192.426, 303.195, 249.510, 304.623]
    np.testing.assert_allclose(points[0].ravel(), expected, atol=2e-3)


def test_threshold_and_frames_without_faces(official: RetinaFace, portrait: Image) -> None:
    empty, one = official.detect([np.zeros_like(portrait), portrait])
    assert empty.boxes.shape == (0, 4)
    assert len(one) == 1
    (more,) = official.detect([portrait], threshold=0.01)
    assert len(more) == 2
    assert more.scores[0] == one.scores[0] > more.scores[1] > 0.01
    assert official.detect([]) == []


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_same_faces_as_facexlib_on_the_street(official: RetinaFace, shared: Path) -> None:
    """Every frame of the clip: tests/benchmarks/retinaface_vs_facexlib.py."""
    facexlib = pytest.importorskip("facexlib.detection.retinaface")
    network = official.networks["retinaface"]
    assert isinstance(network, torch.nn.Module)
    theirs = facexlib.RetinaFace("mobile0.25", device="cpu")
    theirs.load_state_dict(network.state_dict())
    street = frames(shared / "data" / "street_1080p_audio.mp4", [0, 20])
    for image, found in zip(street, official.detect(street), strict=True):
        with torch.no_grad():
            expected = np.asarray(theirs.detect_faces(np.ascontiguousarray(image[..., ::-1]), 0.5))
        assert len(found) == len(expected) > 5
        assert iou(found.boxes, expected[:, :4]).min() >= 0.999
        np.testing.assert_allclose(found.scores, expected[:, 4], atol=1e-5)


# ------------------------------------------------------------------- loading


def test_missing_weights_say_how_to_get_them() -> None:
    with pytest.raises(WeightsError, match="drsf weights pull retinaface-resnet50"):
        load_retinaface("retinaface-resnet50")


# ----------------------------------------------------------------- attacking

HEAD = (112, 65, 332, 388)
"""x1, y1, x2, y2 of the portrait's whole head."""
WINDOW = Window(96, 64, 256, 352)
BOX = np.array([[148.80829, 140.74979, 295.21704, 356.03864]])


def pixelated(image: Image) -> Image:
    """The head as 5 x 5 flat blocks."""
    x1, y1, x2, y2 = HEAD
    covered = image.copy()
    coarse = cv2.resize(image[y1:y2, x1:x2], (5, 5), interpolation=cv2.INTER_AREA)
    covered[y1:y2, x1:x2] = cv2.resize(coarse, (x2 - x1, y2 - y1), interpolation=cv2.INTER_NEAREST)
    return covered


def head_mask() -> Tensor:
    x1, y1, x2, y2 = HEAD
    mask = torch.zeros(1, 3, WINDOW.height, WINDOW.width)
    mask[..., y1 - WINDOW.y : y2 - WINDOW.y, x1 - WINDOW.x : x2 - WINDOW.x] = 1
    return mask


def window_pixels(*images: Image) -> Tensor:
    stacked = np.stack([WINDOW.cut(image) for image in images])
    return torch.from_numpy(stacked).permute(0, 3, 1, 2).float() / 255


def test_preprocessing_is_upstreams(portrait: Image) -> None:
    expected = portrait[..., ::-1].astype(np.float32) - np.array([104, 117, 123])
    values = preprocess(torch.from_numpy(portrait).permute(2, 0, 1)[None].float() / 255)
    np.testing.assert_allclose(values[0].permute(1, 2, 0), expected, atol=1e-4)


def test_preprocessing_gradient() -> None:
    pixels = torch.rand(1, 3, 2, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(preprocess, pixels)


def test_the_window_sees_what_the_frame_sees(official: RetinaFace, portrait: Image) -> None:
    reading = official.objective([portrait], [WINDOW], BOX).read(window_pixels(portrait), [0])
    assert float(reading.error[0]) < 0.005
    np.testing.assert_allclose(reading.output[0], BOX[0], atol=1.0)


def test_nothing_is_read_from_an_obscured_head(official: RetinaFace, portrait: Image) -> None:
    covered = pixelated(portrait)
    assert len(official.detect([covered])[0]) == 0
    reading = official.objective([covered], [WINDOW], BOX).read(window_pixels(covered), [0])
    assert torch.isinf(reading.error).all()
    assert torch.isnan(reading.output).all()
    assert reading.loss > official.objective([portrait], [WINDOW], BOX).read(window_pixels(portrait), [0]).loss


def test_a_face_that_predicts_elsewhere_costs_more(official: RetinaFace, portrait: Image) -> None:
    pixels = window_pixels(portrait)
    right = official.objective([portrait], [WINDOW], BOX).read(pixels, [0])
    shifted = official.objective([portrait], [WINDOW], BOX + np.array([12, 0, 12, 0])).read(pixels, [0])
    assert shifted.loss > right.loss + 0.05
    # intersection over union of a box with itself shifted by 12 of 146.4 px
    assert float(shifted.error[0]) == pytest.approx(1 - (146.4 - 12) / (146.4 + 12), abs=0.01)


def test_frames_of_a_batch_do_not_touch_each_other(official: RetinaFace, portrait: Image) -> None:
    covered = pixelated(portrait)
    mirrored = np.ascontiguousarray(portrait[:, ::-1])
    boxes = np.concatenate([BOX, BOX + 5, BOX])
    objective = official.objective([covered, mirrored, portrait], [WINDOW, Window(64, 32, 256, 352), WINDOW], boxes)
    pixels = window_pixels(covered, mirrored, portrait).requires_grad_()
    together = objective.read(pixels, [0, 1, 2])
    assert together.loss.shape == together.error.shape == (3,)
    (gradient,) = torch.autograd.grad(together.loss[1], pixels)
    assert float(gradient[[0, 2]].abs().max()) == 0.0
    assert float(gradient[1].abs().max()) > 0.0
    alone = objective.read(pixels[1:2], [1])
    np.testing.assert_allclose(alone.loss.detach(), together.loss.detach()[1:2], rtol=1e-4)
    (own,) = torch.autograd.grad(alone.loss[0], pixels)
    np.testing.assert_allclose(own[1], gradient[1], atol=1e-4 * float(gradient[1].abs().max()))


def test_five_points_add_a_term(official: RetinaFace, portrait: Image) -> None:
    ((_, points),) = official.detect_with_points([portrait])
    pixels = window_pixels(portrait)

    def loss(*targets: np.ndarray) -> float:
        return float(official.objective([portrait], [WINDOW], BOX, *targets).read(pixels, [0]).loss[0])

    assert loss(points) - loss() < 0.01
    # every point 20 px off: 0.5 · 20 / (146.4 + 215.3)
    assert loss(points + np.array([20, 0])) - loss() == pytest.approx(0.5 * 20 / 361.7, abs=0.01)


@pytest.mark.slow
def test_the_box_comes_back(official: RetinaFace, portrait: Image) -> None:
    covered, eps = pixelated(portrait), 24 / 255
    base, mask = window_pixels(covered), head_mask()
    objective = official.objective([covered], [WINDOW], BOX)
    delta = torch.zeros_like(base, requires_grad=True)
    optimiser = torch.optim.Adam([delta], lr=eps / 6)
    best, error = base, np.inf
    for _ in range(40):
        pixels = (base + delta * mask).clamp(0, 1)
        reading = objective.read(pixels, [0])
        if float(reading.error[0]) < error:
            best, error = pixels.detach(), float(reading.error[0])
        optimiser.zero_grad()
        reading.loss.sum().backward()
        optimiser.step()
        with torch.no_grad():
            delta.clamp_(-eps, eps)
    written = covered.copy()
    WINDOW.cut(written)[:] = (best[0].permute(1, 2, 0) * 255).round().byte().numpy()
    assert np.abs(written.astype(int) - covered).max() <= 24
    (found,) = official.detect([written])
    assert iou(found.boxes[0], BOX[0]) > 0.97  # 0.952 where all matching priors pull to the end


def test_repelling_makes_the_face_vanish(official: RetinaFace, portrait: Image) -> None:
    objective = official.repel_objective([portrait], [WINDOW], BOX)
    base, mask = window_pixels(portrait), head_mask()
    before = objective.read(base, [0])
    assert float(before.error[0]) == pytest.approx(0.996, abs=0.01)
    np.testing.assert_allclose(before.output[0], BOX[0], atol=1.0)
    delta = torch.zeros_like(base)
    for _ in range(6):
        delta.requires_grad_()
        (gradient,) = torch.autograd.grad(objective.read((base + delta * mask).clamp(0, 1), [0]).loss.sum(), delta)
        delta = (delta.detach() - 4 / 255 * gradient.sign()).clamp(-16 / 255, 16 / 255)
    after = objective.read((base + delta * mask).clamp(0, 1), [0])
    assert float(after.error[0]) < 0.1
    assert float(after.loss[0]) < float(before.loss[0])
