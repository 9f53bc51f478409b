"""fan-compact: crop rule, decoding, shapes, size; and that its training learns."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from victims.compact.landmark_net import (
    CROP_SIZE,
    HEATMAP_SIZE,
    SOFTMAX_GAIN,
    LandmarkNet,
    decode_heatmaps,
    windows_of_boxes,
)
from victims.compact.training.evaluate_landmarks import Crops, normalised_errors
from victims.compact.training.faces68 import Faces68, boxes_of_landmarks, load_faces68, points_in_image
from victims.compact.training.train_landmarks import (
    Settings,
    augmented_batch,
    landmark_loss,
    make_training_set,
    rate_factor,
)
from victims.face_model import FACE_MODEL_68, FLIP
from weights.errors import InputError
from weights.loading import load_state_dict
from weights.store import resolve


def test_the_network_has_its_shape_and_at_most_a_million_parameters() -> None:
    network = LandmarkNet().eval()
    assert sum(parameter.numel() for parameter in network.parameters()) <= 1_000_000
    (maps,) = network(torch.rand(2, 3, CROP_SIZE, CROP_SIZE))
    assert maps.shape == (2, 68, HEATMAP_SIZE, HEATMAP_SIZE)


def test_a_gaussian_is_decoded_at_its_centre() -> None:
    """Sub-pixel: the maps are log-densities of Gaussians whose means are known."""
    generator = torch.Generator().manual_seed(0)
    points = 0.25 + 0.5 * torch.rand((3, 68, 2), generator=generator, dtype=torch.float64)
    cells = (torch.arange(HEATMAP_SIZE, dtype=torch.float64) + 0.5) / HEATMAP_SIZE
    x, y = points[..., 0, None, None], points[..., 1, None, None]
    sigma = 1.2 / HEATMAP_SIZE
    maps = -((cells - x) ** 2 + (cells[:, None] - y) ** 2) / (2 * sigma**2) / SOFTMAX_GAIN
    assert (decode_heatmaps(maps) - points).abs().max() < 1e-4


def test_window_rule_by_hand() -> None:
    """Box 100 x 200 at (50, 60): centre (100, 160 + 0.12 * 200), side 0.64 * 300."""
    window = windows_of_boxes(torch.tensor([[50.0, 60.0, 150.0, 260.0]]))
    np.testing.assert_allclose(window[0].numpy(), [100 - 96, 184 - 96, 100 + 96, 184 + 96], rtol=1e-6)


def test_points_return_to_the_pixels_they_came_from() -> None:
    """The centre of a window that starts at pixel 10 and is 20 px wide lies between pixels 19 and 20."""
    points = points_in_image(torch.full((1, 68, 2), 0.5), torch.tensor([[10.0, 30.0, 30.0, 50.0]]))
    np.testing.assert_allclose(points[0, 0].numpy(), [19.5, 39.5])


def test_mirroring_swaps_partners() -> None:
    """Against the symmetric 3D template: mirroring its x leaves the swapped template."""
    assert sorted(FLIP) == list(range(68))
    np.testing.assert_array_equal(FLIP[FLIP], np.arange(68))
    mirrored = FACE_MODEL_68[FLIP] * np.array([-1.0, 1.0, 1.0])
    assert np.abs(mirrored - FACE_MODEL_68).max() < 0.006  # m; partners left unswapped are up to 0.15 apart


def synthetic_faces(count: int = 12) -> Faces68:
    """Dark 128 px pictures with the template's 68 points drawn as dots of distinct colours."""
    generator = np.random.default_rng(0)
    shape = FACE_MODEL_68[:, :2] / np.ptp(FACE_MODEL_68[:, 1])
    images, landmarks = [], []
    for _ in range(count):
        points = 64 + generator.uniform(45, 70) * shape + generator.uniform(-6, 6, 2)
        image = np.full((128, 128, 3), 40, np.uint8)
        for index, (x, y) in enumerate(np.round(points).astype(int).clip(1, 126)):
            image[y - 1 : y + 2, x - 1 : x + 2] = (3 * index + 40, 255 - 3 * index, 128)
        images.append(image)
        landmarks.append(np.round(points))
    return Faces68(images, np.stack(landmarks), np.arange(count), np.arange(count) >= count - 3)


def test_augmentation_moves_pixels_and_points_together() -> None:
    """Each dot of the picture is where the augmented landmark says, mirrored or not: bright on a dark ground."""
    faces = synthetic_faces()
    missing = np.full((len(faces.images), 4), np.nan)
    data = make_training_set(faces, missing)
    assert len(data.pixels) == 9  # no validation face
    crops, points = augmented_batch(data, torch.arange(9), torch.Generator().manual_seed(1))
    grid = (2 * points - 1).clamp(-1, 1)[:, :, None]
    at_points = torch.nn.functional.grid_sample(crops, grid, align_corners=False).amax(dim=1)[..., 0]
    ground = crops.amax(dim=1).flatten(1).median(dim=1).values
    assert ((at_points - ground[:, None]) > 0.1).float().mean() > 0.8  # noise, blur and covers take some
    turned = (points[:, 45] - points[:, 36])[:, 0]
    assert (turned > 0).all(), "after a flip the image-left eye must again be number 36"


@pytest.mark.slow
def test_a_few_steps_lower_the_loss() -> None:
    torch.manual_seed(0)
    faces = synthetic_faces()
    data = make_training_set(faces, np.full((len(faces.images), 4), np.nan))
    network = LandmarkNet(stem=8, widths=(16, 16, 16)).train()
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-2)
    random = torch.Generator().manual_seed(2)
    losses = []
    for _ in range(20):
        crops, points = augmented_batch(data, torch.arange(6), random)
        loss = landmark_loss(network(crops)[0], points, Settings())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert np.mean(losses[-5:]) < 0.75 * np.mean(losses[:3])


def test_the_schedule_warms_up_and_ends_near_zero() -> None:
    assert rate_factor(0, 0.0, 300) == pytest.approx(1 / 300)
    assert rate_factor(300, 0.0, 300) == pytest.approx(1.0, abs=2e-3)
    assert rate_factor(5000, 0.5, 300) == pytest.approx(0.5, abs=2e-3)
    assert rate_factor(5000, 1.0, 300) == pytest.approx(0.0, abs=2e-3)


def test_error_is_relative_to_the_landmarks_box() -> None:
    """A network that always answers the crop's centre, against one face worked out by hand."""

    class Centre(LandmarkNet):
        def forward(self, crops: torch.Tensor) -> tuple[torch.Tensor]:
            return (torch.zeros(len(crops), 68, HEATMAP_SIZE, HEATMAP_SIZE),)

    targets = torch.full((1, 68, 2), 49.5)
    targets[0, 0] = torch.tensor([9.5, 24.5])
    targets[0, 1] = torch.tensor([89.5, 74.5])  # box 80 x 50
    crops = Crops(torch.zeros(1, 3, CROP_SIZE, CROP_SIZE), torch.tensor([[0.0, 0.0, 100.0, 100.0]]), targets)
    expected = 2 * np.hypot(40, 25) / 68 / np.sqrt(80 * 50)
    assert normalised_errors(Centre(), crops).item() == pytest.approx(expected, rel=1e-5)


def test_a_missing_data_folder_is_named(tmp_path) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(InputError, match=r"faces68_landmarks\.npz"):
        load_faces68(tmp_path)


@pytest.mark.slow
def test_the_bundled_weights_reach_their_error(shared) -> None:  # type: ignore[no-untyped-def]
    """On 60 of the 441 faces of people no training saw, with boxes derived from the landmarks. The whole
    measurement, MTCNN's boxes included, is `python -m victims.compact.training.evaluate_landmarks`."""
    from victims.compact.training.evaluate_landmarks import crops_of

    faces = load_faces68(shared / "data")
    rows = np.flatnonzero(faces.is_validation)[::7]
    targets = torch.from_numpy(faces.landmarks[rows]).float()
    crops = crops_of([faces.images[row] for row in rows], windows_of_boxes(boxes_of_landmarks(targets)), targets)
    network = LandmarkNet()
    network.load_state_dict(load_state_dict(resolve(["fan_compact.safetensors"]).path))
    assert normalised_errors(network, crops).mean() < 0.032
