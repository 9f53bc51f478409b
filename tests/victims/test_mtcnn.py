"""MTCNN: golden numbers, equality with facenet-pytorch, and an attack through the whole cascade."""

from __future__ import annotations

import itertools

import cv2
import facenet_pytorch
import numpy as np
import pytest
import torch
from torch.nn import functional

from attacks.budget import Budget
from attacks.obscure import Pixelate, Region, obscure, region_mask
from attacks.perturb import AttackSettings, Stage, perturb
from drsf_cli.media.demo_clip import demo_frames
from drsf_cli.media.reader import VideoReader
from victims.area import AreaSampler, area_matrix
from victims.base import Window
from victims.boxes import iou, iou_tensor
from victims.mtcnn import load_mtcnn
from victims.mtcnn_cascade import cell_boxes, pyramid_scales, rectangles, suppress_contained
from victims.registry import load
from weights.errors import UsageError


@pytest.fixture(scope="module")
def mtcnn():
    return load_mtcnn()


@pytest.fixture(scope="module")
def portrait():
    """Two frames of the demo clip, (480, 640, 3)."""
    return list(demo_frames(seconds=0.1, fps=25))[:2]


@pytest.mark.parametrize(
    ("network", "size", "shifts", "p"),
    [
        ("pnet", 12, (-0.021401, -0.153777, 0.039427, 0.143962), 1.2659e-4),
        ("rnet", 24, (-0.078014, -0.175952, 0.046893, 0.238436), 3.5560e-3),
        ("onet", 48, (-0.031649, -0.213724, 0.057655, 0.101849), 3.9128e-4),
    ],
)
def test_golden_numbers(mtcnn, network, size, shifts, p):
    """VICTIMS 1.5: what the networks say of zeros."""
    outputs = mtcnn.networks[network](torch.zeros(1, 3, size, size))
    np.testing.assert_allclose(outputs[0].flatten().numpy(), shifts, atol=2e-6)
    assert float(torch.softmax(outputs[-1], dim=1).flatten()[1]) == pytest.approx(p, rel=1e-3)


def test_golden_face(mtcnn, shared):
    image = cv2.cvtColor(cv2.imread(str(shared / "data" / "aflw-test.jpg")), cv2.COLOR_BGR2RGB)
    (found,) = mtcnn.detect([image])
    np.testing.assert_allclose(found.boxes, [[152.2, 140.7, 313.7, 362.5]], atol=0.06)
    assert found.scores[0] > 0.9995


def test_reading_equals_facenet_pytorch(mtcnn, portrait):
    """Whole detector, several sizes; boxes within 0.5 px asked for, 0.01 px found."""
    reference = facenet_pytorch.MTCNN(device="cpu")
    for image in (
        *portrait,
        np.ascontiguousarray(portrait[0][::2, ::2]),
        np.ascontiguousarray(portrait[0][:301, 50:451]),
    ):
        boxes, scores = reference.detect(image)
        (found,) = mtcnn.detect([image])
        order = np.argsort(-(found.boxes[:, 2:] - found.boxes[:, :2]).prod(axis=1))
        np.testing.assert_allclose(found.boxes[order], np.asarray(boxes, dtype=float), atol=0.01)
        np.testing.assert_allclose(found.scores[order], np.asarray(scores, dtype=float), atol=1e-4)


def test_reading_a_street_equals_facenet_pytorch(mtcnn, shared):
    """Many faces, most of them small: 1920x1080."""
    reference, compared = facenet_pytorch.MTCNN(device="cpu"), 0
    for frame in itertools.islice(VideoReader(shared / "data" / "street_1080p_audio.mp4"), 0, 60, 30):
        boxes, _ = reference.detect(frame.image)
        (found,) = mtcnn.detect([frame.image])
        order = np.lexsort(found.boxes.T)
        wanted = np.asarray(boxes, dtype=float)
        np.testing.assert_allclose(found.boxes[order], wanted[np.lexsort(wanted.T)], atol=0.01)
        compared += len(wanted)
    assert compared >= 6


def test_a_batch_is_read_as_its_frames(mtcnn, portrait):
    together = mtcnn.detect(portrait)
    for image, found in zip(portrait, together, strict=True):
        (alone,) = mtcnn.detect([image])
        np.testing.assert_allclose(found.boxes, alone.boxes, atol=1e-3)


def test_frames_without_a_face_or_too_small(mtcnn):
    for shape in ((60, 80, 3), (1, 1, 3), (11, 400, 3), (19, 19, 3)):
        (found,) = mtcnn.detect([np.full(shape, 128, np.uint8)])
        assert found.boxes.shape == (0, 4)


def test_sweep_is_two_detections(mtcnn, portrait):
    reported, covering = mtcnn.sweep(portrait, 0.3)
    for one, other in ((reported, mtcnn.detect(portrait)), (covering, mtcnn.detect(portrait, 0.3))):
        for a, b in zip(one, other, strict=True):
            np.testing.assert_array_equal(a.boxes, b.boxes)
    assert all(len(c) >= len(r) for r, c in zip(reported, covering, strict=True))


# ------------------------------------------------------------------------------------------------- parts


def test_area_sampling_is_torchs_area_interpolation():
    image = np.random.default_rng(0).integers(0, 256, (57, 83, 3), dtype=np.uint8)
    tensor = torch.from_numpy(image).permute(2, 0, 1)[None].float()
    level = AreaSampler(image).level(20, 31)
    expected = functional.interpolate(tensor, size=(20, 31), mode="area")[0].permute(1, 2, 0).numpy()
    np.testing.assert_allclose(level, expected, atol=1e-3)
    crops = AreaSampler(image).crops(np.array([[3, 5, 70, 40], [0, 0, 10, 10]]), 24)
    for crop, (x0, y0, x1, y1) in zip(crops, [(3, 5, 70, 40), (0, 0, 10, 10)], strict=True):
        expected = functional.interpolate(tensor[..., y0:y1, x0:x1], size=(24, 24), mode="area")
        np.testing.assert_allclose(crop, expected[0].permute(1, 2, 0).numpy(), atol=1e-3)


def test_area_matrix_is_the_same_resampling_and_has_its_gradient():
    values = torch.randn(1, 30, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).requires_grad_()
    weights = area_matrix(np.array([4]), np.array([23]), 7, np.array([0]), 30).double()[0]
    expected = functional.adaptive_avg_pool1d(values[:, 4:27], 7)
    torch.testing.assert_close(values @ weights.T, expected, rtol=1e-6, atol=1e-7)
    assert torch.autograd.gradcheck(lambda x: x @ weights.T, (values,))


def test_area_matrix_of_a_part_leaves_out_the_rest():
    whole = area_matrix(np.array([4]), np.array([23]), 7, np.array([0]), 30)[0]
    part = area_matrix(np.array([4]), np.array([23]), 7, np.array([10]), 8)[0]
    torch.testing.assert_close(part, whole[:, 10:18])


def test_cells_rectangles_scales_by_hand():
    np.testing.assert_array_equal(cell_boxes(np.array([3]), np.array([5]), 0.5), [[22, 14, 44, 36]])
    # truncated, clipped to [1, W] x [1, H] (1-based), then 0-based with the end excluded
    boxes = np.array([[-3.7, 2.9, 20.2, 99.0], [5.5, 6.5, 9.5, 9.9]])
    np.testing.assert_array_equal(rectangles(boxes, 50, 30), [[0, 1, 20, 50], [4, 5, 9, 9]])
    assert pyramid_scales(40, 100) == pytest.approx([0.6, 0.4254, 0.3016086])
    assert pyramid_scales(19, 100) == []


def test_suppression_over_the_smaller_area():
    """The small box lies inside the large one: IoU 0.17, over the smaller area 1."""
    boxes = np.array([[0.0, 0, 99, 99], [10, 10, 49, 49], [200, 200, 240, 240]])
    np.testing.assert_array_equal(suppress_contained(boxes, np.array([0.9, 0.8, 0.7]), 0.7), [0, 2])


def test_overlap_by_hand():
    a, b = np.array([0.0, 0, 10, 10]), np.array([5.0, 0, 15, 10])
    assert iou(a, b) == pytest.approx(1 / 3)
    assert iou(a, np.array([20.0, 20, 30, 30])) == 0
    assert float(iou_tensor(torch.tensor(a), torch.tensor(b))) == pytest.approx(1 / 3)


# ------------------------------------------------------------------------------------------------- the attack


@pytest.fixture(scope="module")
def scene(mtcnn, portrait):
    """A covered frame, its window and mask, and the box that is to come back."""
    (found,) = mtcnn.detect(portrait[:1])
    box = found.boxes[0]
    x1, y1, x2, y2 = box
    side, top, bottom = 0.5 * (x2 - x1), 0.6 * (y2 - y1), 0.3 * (y2 - y1)
    rect = (int(x1 - side), max(0, int(y1 - top)), int(x2 + side), min(480, int(y2 + bottom)))
    region = Region(rect, cell=(rect[2] - rect[0]) // 5, origin=rect[:2])
    covered = obscure(portrait[0], [region], Pixelate(5))
    x, y = rect[0] // 32 * 32, rect[1] // 32 * 32
    window = Window(x, y, min(640, -(-rect[2] // 32) * 32) - x, min(480, -(-rect[3] // 32) * 32) - y)
    return covered, window, region_mask([region], 480, 640), box


def test_unchanged_pixels_read_as_the_covered_frame(mtcnn, portrait):
    """The window's cascade is the frame's but for proposals beyond the best ten and cells far off the face's size: on
    the untouched portrait, where proposals abound, it finds the box that `detect` finds within 3 % of IoU."""
    (found,) = mtcnn.detect(portrait[:1])
    x1, y1 = found.boxes[0, :2]
    window = Window(int(x1) // 32 * 32 - 32, int(y1) // 32 * 32 - 32, 288, 320)
    objective = mtcnn.objective(portrait[:1], [window], found.boxes[:1])
    pixels = torch.from_numpy(window.cut(portrait[0]).copy()).permute(2, 0, 1)[None] / 255.0
    reading = objective.read(pixels, [0])
    assert iou(reading.output[0].double().numpy(), found.boxes[0]) > 0.97
    assert float(reading.error[0]) == pytest.approx(
        1 - float(iou(reading.output[0].double().numpy(), found.boxes[0])), abs=1e-4
    )


def test_the_gradient_points_uphill_and_stays_in_its_frame(mtcnn, scene):
    """A small step against it lowers the loss, and another frame's loss has none here."""
    covered, window, _, box = scene
    objective = mtcnn.objective([covered] * 2, [window] * 2, np.stack([box, box]))
    pixels = torch.from_numpy(window.cut(covered).copy()).permute(2, 0, 1)[None].repeat(2, 1, 1, 1) / 255.0
    pixels = pixels.requires_grad_()
    reading = objective.read(pixels, [0, 1])
    (gradient,) = torch.autograd.grad(reading.loss[0], pixels)
    assert gradient[0].abs().max() > 0
    assert (gradient[1] == 0).all()
    with torch.no_grad():
        downhill = objective.read(pixels - 0.05 * gradient / gradient.norm(), [0, 1]).loss
    assert float(downhill[0]) < float(reading.loss[0].detach())


def test_the_whole_cascade_returns_the_box_after_an_attack(mtcnn, scene):
    covered, window, mask, box = scene
    (before,) = mtcnn.detect([covered])
    assert not len(before) or iou(before.boxes, box).max() < 0.5
    base = torch.from_numpy(window.cut(covered).copy()).permute(2, 0, 1)[None] / 255.0
    budget = Budget(base, torch.from_numpy(window.cut(mask).copy())[None, None], 24 / 255)
    stage = Stage("detector", mtcnn.objective([covered], [window], box[None]), 0.03)
    outcome = perturb(budget, torch.zeros_like(base), [stage], AttackSettings("mi-fgsm", 24 / 255, 40))
    attacked = covered.copy()
    window.cut(attacked)[...] = ((base + outcome.delta) * 255).round()[0].permute(1, 2, 0).byte().numpy()
    (after,) = mtcnn.detect([attacked])
    best = after.boxes[np.argmax((after.boxes[:, 2:] - after.boxes[:, :2]).prod(axis=1))]
    assert iou(best, box) > 0.95
    assert float(outcome.errors["detector"][0]) == pytest.approx(1 - float(iou(best, box)), abs=2e-3)
    assert (attacked[~mask] == covered[~mask]).all()


def test_a_file_of_one_s_own_is_refused():
    with pytest.raises(UsageError, match=r"mtcnn@own\.pth cannot be read"):
        load("mtcnn@own.pth", "detector")
