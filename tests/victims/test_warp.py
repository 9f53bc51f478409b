"""Crops and warps against OpenCV, and their gradients against finite differences."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch

from victims.warp import crop_squares, crop_whole_pixels, warp_perspective


@pytest.fixture(scope="module")
def photo() -> np.ndarray:
    """(512, 512, 3) RGB: the public-domain portrait that ships with scikit-image."""
    from skimage import data

    return np.ascontiguousarray(data.astronaut())


def tensor_of(image: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(image.astype(np.float64)).permute(2, 0, 1)[None]


def array_of(batch: torch.Tensor) -> np.ndarray:
    return batch[0].permute(1, 2, 0).numpy()


def test_a_magnified_crop_is_cv2_resize(photo: np.ndarray) -> None:
    got = array_of(crop_squares(tensor_of(photo), torch.tensor([[180.0, 60.0, 270.0, 150.0]]), 128))
    want = cv2.resize(photo[60:150, 180:270].astype(np.float64), (128, 128), interpolation=cv2.INTER_LINEAR)
    assert np.abs(got - want)[1:-1, 1:-1].max() < 1e-2  # at the rim OpenCV repeats, we read the neighbour


def test_a_crop_at_the_pixel_grid_is_a_slice(photo: np.ndarray) -> None:
    got = array_of(crop_squares(tensor_of(photo), torch.tensor([[101.0, 7.0, 165.0, 71.0]]), 64))
    np.testing.assert_allclose(got, photo[7:71, 101:165], atol=1e-3)


def test_a_reduced_crop_is_antialiased(photo: np.ndarray) -> None:
    """A window 3 times larger than its crop: the mean of each 3 x 3 block, which is cv2's INTER_AREA."""
    got = array_of(crop_squares(tensor_of(photo), torch.tensor([[64.0, 32.0, 448.0, 416.0]]), 128))
    want = cv2.resize(photo[32:416, 64:448].astype(np.float64), (128, 128), interpolation=cv2.INTER_AREA)
    assert np.abs(got - want).max() < 1e-2


def test_a_fractional_reduction_averages_its_samples(photo: np.ndarray) -> None:
    """1.5 times larger: 2 x 2 samples per pixel, that is cv2.resize to the double size and then block means."""
    got = array_of(crop_squares(tensor_of(photo), torch.tensor([[100.0, 50.0, 292.0, 242.0]]), 128))
    fine = cv2.resize(photo[50:242, 100:292].astype(np.float64), (256, 256), interpolation=cv2.INTER_LINEAR)
    want = fine.reshape(128, 2, 128, 2, 3).mean(axis=(1, 3))
    assert np.abs(got - want)[1:-1, 1:-1].max() < 1e-2


def test_outside_the_image_is_zero(photo: np.ndarray) -> None:
    padded = cv2.copyMakeBorder(photo, 100, 100, 100, 100, cv2.BORDER_CONSTANT, value=(0, 0, 0))
    box = torch.tensor([[-50.0, 450.0, 46.0, 546.0]])
    got = array_of(crop_squares(tensor_of(photo), box, 96))
    np.testing.assert_allclose(got, padded[550:646, 50:146], atol=1e-3)
    nowhere = crop_squares(tensor_of(photo), torch.tensor([[-300.0, 900.0, -200.0, 1000.0]]), 32)
    assert nowhere.abs().max() == 0


def test_each_crop_is_its_own(photo: np.ndarray) -> None:
    """A batch of windows of very different scales equals the windows one by one."""
    boxes = torch.tensor([[10.0, 20.0, 60.5, 70.5], [0.0, 0.0, 400.0, 400.0], [200.2, 90.1, 420.7, 310.6]])
    images = tensor_of(photo).expand(3, -1, -1, -1)
    together = crop_squares(images, boxes, 48)
    for row in range(3):
        alone = crop_squares(images[:1], boxes[row : row + 1], 48)
        assert (together[row] - alone[0]).abs().max() < 1e-3
    assert crop_squares(images[:0], boxes[:0], 48).shape == (0, 3, 48, 48)


def test_bytes_are_read_as_fractions(photo: np.ndarray) -> None:
    raw = torch.from_numpy(photo).permute(2, 0, 1)[None]
    box = torch.tensor([[33.3, 44.4, 155.5, 166.6]])
    assert (crop_squares(raw, box, 40) - crop_squares(tensor_of(photo), box, 40) / 255).abs().max() < 1e-5


def test_a_frame_is_the_sum_of_its_window_and_the_rest(photo: np.ndarray) -> None:
    """What victims rely on when only a rectangle of the frame is being optimised."""
    frame = tensor_of(photo)
    x, y, width, height = 120, 40, 200, 180
    rest = frame.clone()
    rest[..., y : y + height, x : x + width] = 0
    window = frame[..., y : y + height, x : x + width]
    box = torch.tensor([[70.5, 10.5, 300.5, 240.5]], dtype=torch.float64)
    corner = torch.tensor([x, y, x, y])
    parts = crop_squares(window, box - corner, 64) + crop_squares(rest, box, 64)
    assert (parts - crop_squares(frame, box, 64)).abs().max() < 1e-6


MATRICES = {
    "shift": np.array([[1, 0, -100.25], [0, 1, -40.75], [0, 0, 1]]),
    "turned and tilted": np.array([[1.3, 0.25, -180.0], [-0.2, 1.2, 10.0], [2e-4, -3e-4, 1.0]]),
    "leaving the frame": np.array([[0.7, 0.0, 60.0], [0.1, 0.7, -150.0], [0.0, 4e-4, 0.9]]),
}


@pytest.mark.parametrize("name", MATRICES)
def test_warp_is_exact_bilinear_interpolation(photo: np.ndarray, name: str) -> None:
    """The reference interpolates four integer look-ups itself: OpenCV's own bilinear maps are quantised to 1/32 px
    in some builds."""
    matrix = MATRICES[name]
    width, height = 224, 160
    grid = np.stack(np.meshgrid(np.arange(width), np.arange(height)), axis=-1).reshape(-1, 1, 2).astype(np.float64)
    source = cv2.perspectiveTransform(grid, np.linalg.inv(matrix)).reshape(height, width, 2)
    corner = np.floor(source)
    part = source - corner
    want = np.zeros((height, width, 3))
    image = photo.astype(np.float64)
    for dy in (0, 1):
        for dx in (0, 1):
            at = (corner + np.array([dx, dy])).astype(np.float32)
            value = cv2.remap(image, at[..., 0], at[..., 1], cv2.INTER_NEAREST, borderMode=cv2.BORDER_CONSTANT)
            weight = (part[..., 0] if dx else 1 - part[..., 0]) * (part[..., 1] if dy else 1 - part[..., 1])
            want += weight[..., None] * value
    got = array_of(warp_perspective(tensor_of(photo), torch.from_numpy(matrix)[None], (width, height)))
    assert np.abs(got - want).max() < 1e-6


@pytest.mark.parametrize("name", MATRICES)
def test_warp_is_cv2_warp_perspective(photo: np.ndarray, name: str) -> None:
    matrix = MATRICES[name]
    want = cv2.warpPerspective(photo, matrix, (224, 224), flags=cv2.INTER_LINEAR)
    got = array_of(warp_perspective(tensor_of(photo), torch.from_numpy(matrix)[None], (224, 224)))
    difference = np.abs(np.round(got) - want.astype(np.float64))
    assert difference.max() <= 1


def test_gradients_are_right() -> None:
    generator = torch.Generator().manual_seed(0)
    images = torch.rand((2, 3, 9, 11), generator=generator, dtype=torch.float64).requires_grad_()
    boxes = torch.tensor([[-1.3, 2.2, 6.1, 9.6], [3.0, 1.0, 8.0, 6.0]], dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda x: crop_squares(x, boxes, 4), (images,))
    windows = torch.tensor([[-2, 2, 6, 9], [3, 1, 8, 6]])
    assert torch.autograd.gradcheck(lambda x: crop_whole_pixels(x, windows, 5), (images,))
    matrices = torch.tensor([[[0.8, 0.1, -1.0], [-0.1, 0.9, 0.5], [1e-2, 0.0, 1.0]]] * 2, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda x: warp_perspective(x, matrices, (5, 4)), (images,))


def test_shapes_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="boxes"):
        crop_squares(torch.zeros(2, 3, 8, 8), torch.zeros(1, 4), 4)
    with pytest.raises(ValueError, match="matrices"):
        warp_perspective(torch.zeros(1, 3, 8, 8), torch.zeros(1, 2, 3), (4, 4))
