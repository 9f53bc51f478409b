"""fan against face-alignment's own functions; fan-compact on a photograph; both as something to attack."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from victims.base import FaceTargets, Window, load_strict
from victims.compact.landmark_net import LandmarkNet
from victims.fan import NETWORK, CompactFan, Fan, HeatmapAligner
from victims.heatmap_objective import EYES, MOUTH, openness_loss
from weights.errors import WeightsError

# MTCNN's box of the face in scikit-image's portrait (facenet_pytorch.MTCNN.detect, rounded).
PORTRAIT_BOX = np.array([[178.8, 61.0, 269.3, 176.4]])


@pytest.fixture(scope="module")
def portrait() -> np.ndarray:
    from skimage import data

    return np.ascontiguousarray(data.astronaut())


@pytest.fixture(scope="module")
def four_stacks() -> torch.nn.Module:
    from face_alignment.models import FAN

    torch.manual_seed(0)
    return FAN(4).eval()


@pytest.fixture(scope="module")
def small_fan() -> Fan:
    """fan with a small untrained network of the same shapes, for what does not depend on the weights."""
    torch.manual_seed(0)
    layers = (torch.nn.Conv2d(3, 16, 9, 4, 4), torch.nn.ReLU(), torch.nn.Conv2d(16, 68, 5, 1, 2), torch.nn.Softplus())

    class Maps(torch.nn.Sequential):
        def forward(self, crops: torch.Tensor) -> tuple[torch.Tensor]:
            return (super().forward(crops),)

    layers[2].weight.data *= 10  # maps that are not flat
    return Fan({NETWORK: Maps(*layers).eval().requires_grad_(False)}, {})


@pytest.fixture(scope="module")
def compact() -> CompactFan:
    return CompactFan.load()


def upstream_geometry(box: np.ndarray) -> tuple[torch.Tensor, float]:
    """face_alignment.api's centre and scale with reference 195."""
    x1, y1, x2, y2 = box
    centre = torch.tensor([x2 - (x2 - x1) / 2.0, y2 - (y2 - y1) / 2.0])
    centre[1] -= (y2 - y1) * 0.12
    return centre, (x2 - x1 + y2 - y1) / 195.0


def random_boxes(count: int) -> np.ndarray:
    """Around and over the borders of a 512 px image."""
    generator = np.random.default_rng(3)
    low = generator.uniform(-20, 400, (count, 2))
    return np.concatenate((low, low + generator.uniform(40, 260, (count, 2))), axis=1)


def test_fan_crop_is_face_alignments(portrait: np.ndarray) -> None:
    from face_alignment.utils import crop

    fan = Fan({NETWORK: None}, {})  # type: ignore[dict-item]
    image = torch.from_numpy(portrait).permute(2, 0, 1)[None]
    for box in random_boxes(20):
        want = crop(portrait, *upstream_geometry(box))
        got = fan.crop(image, fan.windows(torch.from_numpy(box[None])))[0].permute(1, 2, 0).numpy() * 255
        assert np.abs(got - want).max() <= 1.0  # upstream's is rounded to bytes


@pytest.fixture
def upstream_decode(monkeypatch: pytest.MonkeyPatch):  # type: ignore[no-untyped-def]
    """face_alignment.utils.get_preds_fromhm without waiting for its compiler."""
    import face_alignment.utils as upstream

    for name in ("_get_preds_fromhm", "transform_np"):
        monkeypatch.setattr(upstream, name, getattr(upstream, name).py_func)
    return upstream.get_preds_fromhm


def test_fan_decoding_is_face_alignments(upstream_decode) -> None:  # type: ignore[no-untyped-def]
    fan = Fan({NETWORK: None}, {})  # type: ignore[dict-item]
    generator = torch.Generator().manual_seed(1)
    boxes = random_boxes(6)
    maps = torch.rand((6, 68, 64, 64), generator=generator)
    maps[0, 0, 0, 5] = maps[0, 1, 63, 63] = maps[0, 2, 20, 0] = 2.0  # peaks at the rim
    got = fan.in_frame(fan.points(maps).double(), fan.windows(torch.from_numpy(boxes))).numpy()
    for row, box in enumerate(boxes):
        centre, scale = upstream_geometry(box)
        in_map, in_image, _ = upstream_decode(maps[row : row + 1].numpy(), centre.numpy().astype(np.float64), scale)
        np.testing.assert_allclose(fan.points(maps[row : row + 1])[0].numpy() * 64, in_map[0], atol=1e-4)
        # whole pixels upstream; a coordinate within rounding of a whole number may fall on either side
        truncated = np.trunc(got[row])
        assert np.mean(truncated != in_image[0]) < 0.01
        assert np.abs(got[row] - in_image[0]).max() <= 1.0 + 1e-6


@pytest.mark.slow
def test_fan_reads_what_face_alignments_pipeline_reads(  # type: ignore[no-untyped-def]
    portrait: np.ndarray, four_stacks: torch.nn.Module, upstream_decode
) -> None:
    """Random weights, one face: crop, network, decoding together."""
    from face_alignment.utils import crop

    network = Fan.make_network(four_stacks.state_dict(), "random")
    (got,) = Fan({NETWORK: network}, {}).align([portrait], [PORTRAIT_BOX])
    centre, scale = upstream_geometry(PORTRAIT_BOX[0])
    pixels = torch.from_numpy(crop(portrait, centre, scale)).permute(2, 0, 1)[None].float() / 255
    with torch.no_grad():
        maps = four_stacks(pixels)[-1]
    _, want, _ = upstream_decode(maps.numpy(), centre.numpy().astype(np.float64), scale)
    assert got.shape == (1, 68, 2)
    # random maps are nearly flat: rounding of the crop to bytes may move a few maxima, not most
    assert np.mean(np.abs(got[0] - want[0]).max(axis=1) <= 1.0) > 0.9


def test_fan_loads_the_official_key_set_and_nothing_else(four_stacks: torch.nn.Module) -> None:
    state = four_stacks.state_dict()
    assert len(state) == 1129
    official = {key: value for key, value in state.items() if not key.endswith("num_batches_tracked")}
    assert len(official) == 945
    network = Fan.make_network(official, "2DFAN4-11f355bf06.pth.tar")
    loaded = network.stack.state_dict()  # type: ignore[attr-defined]
    assert torch.equal(loaded["al2.weight"], state["al2.weight"])
    short = {key: value for key, value in official.items() if key != "m2.b2_plus_1.conv1.weight"}
    with pytest.raises(WeightsError, match=r"some\.pth.*'m2\.b2_plus_1\.conv1\.weight'"):
        Fan.make_network(short, "some.pth")


def test_compact_reads_a_photograph(compact: CompactFan, portrait: np.ndarray) -> None:
    """Points found by eye in scikit-image's portrait, px."""
    (found,) = compact.align([portrait], [PORTRAIT_BOX])
    assert found.shape == (1, 68, 2)
    face = found[0]
    by_eye = {
        "right eye": (face[36:42].mean(axis=0), (202.0, 102.0)),
        "left eye": (face[42:48].mean(axis=0), (246.5, 104.0)),
        "nose tip": (face[30], (224.0, 126.0)),
        "mouth": (face[48:60].mean(axis=0), (222.0, 146.0)),
        "chin": (face[8], (222.0, 177.0)),
    }
    for name, (got, want) in by_eye.items():
        assert np.linalg.norm(got - want) < 6, f"{name} at {got}, not {want}"


def test_compact_is_steady_under_shift_and_scale(compact: CompactFan, portrait: np.ndarray) -> None:
    """The same face, moved by whole pixels and magnified twice: the points move with it."""
    (plain,) = compact.align([portrait], [PORTRAIT_BOX])
    moved_image = np.roll(portrait, (17, -9), axis=(0, 1))
    (moved,) = compact.align([moved_image], [PORTRAIT_BOX + np.array([-9, 17, -9, 17])])
    np.testing.assert_allclose(moved[0], plain[0] + np.array([-9, 17]), atol=0.05)
    large = np.repeat(np.repeat(portrait, 3, axis=0), 3, axis=1)
    (magnified,) = compact.align([large], [PORTRAIT_BOX * 3])
    assert np.linalg.norm((magnified + 0.5) / 3 - 0.5 - plain, axis=-1).mean() < 0.6


def test_alignment_of_none_one_and_many(compact: CompactFan, portrait: np.ndarray) -> None:
    none = np.zeros((0, 4))
    assert [len(found) for found in compact.align([portrait, portrait], [none, none])] == [0, 0]
    two = np.concatenate((PORTRAIT_BOX, PORTRAIT_BOX + 3))
    first, second, third = compact.align([portrait] * 3, [two, none, PORTRAIT_BOX])
    assert (first.shape, second.shape, third.shape) == ((2, 68, 2), (0, 68, 2), (1, 68, 2))
    np.testing.assert_allclose(third[0], first[0], atol=1e-3)


def test_compact_loads_a_users_checkpoint(tmp_path: Path) -> None:
    torch.manual_seed(1)
    network = LandmarkNet().eval()
    path = tmp_path / "mine.pth"
    torch.save({"state_dict": {f"module.{key}": value for key, value in network.state_dict().items()}}, path)
    with pytest.raises(WeightsError):
        CompactFan.load(path)
    loaded = CompactFan.load(path, allow_unknown=True)
    crops = torch.rand(1, 3, 128, 128)
    assert torch.equal(loaded.heatmaps(crops), network(crops)[0])
    assert set(loaded.weights) == {"mine.pth"}
    counters = {k: v[None] if "num_batches" in k else v for k, v in network.state_dict().items()}
    with pytest.raises(WeightsError, match="num_batches_tracked' has shape"):
        load_strict(LandmarkNet(), counters, "counters")
    with pytest.raises(WeightsError, match=r"'maps\.bias'"):
        load_strict(LandmarkNet(), {k: v for k, v in network.state_dict().items() if k != "maps.bias"}, "short")


def covered(image: np.ndarray, window: Window) -> np.ndarray:
    """The image with coarse blocks in the window."""
    result = image.copy()
    part = window.cut(result)
    for y in range(0, window.height, 24):
        for x in range(0, window.width, 24):
            part[y : y + 24, x : x + 24] = part[y : y + 24, x : x + 24].mean(axis=(0, 1))
    return result


WINDOWS = {"holds the crop": Window(110, 10, 230, 230), "cuts the crop": Window(180, 60, 90, 120)}


def pixels_of(image: np.ndarray, window: Window) -> torch.Tensor:
    return torch.from_numpy(window.cut(image).copy()).permute(2, 0, 1)[None].float() / 255


@pytest.mark.parametrize("place", WINDOWS)
@pytest.mark.parametrize("name", ["fan", "fan-compact"])
def test_an_attack_reads_what_alignment_of_the_whole_frame_reads(
    name: str, place: str, small_fan: Fan, compact: CompactFan, portrait: np.ndarray
) -> None:
    victim: HeatmapAligner = small_fan if name == "fan" else compact
    window = WINDOWS[place]
    frame = covered(portrait, window)
    (target,) = victim.align([portrait], [PORTRAIT_BOX])
    objective = victim.objective([frame], [window], FaceTargets(PORTRAIT_BOX, target))

    clean = objective.read(pixels_of(portrait, window), [0])
    assert clean.error.item() < 1e-4
    if name == "fan-compact":  # the middle of an untrained network's flat maps is not where their maximum is
        assert clean.loss.item() < 1e-3

    geometry = torch.tensor([[176.5, 63.2, 272.0, 179.9]])
    reading = objective.read(pixels_of(frame, window), [0], geometry)
    (want,) = victim.align([frame], [geometry.numpy()])
    if name == "fan":  # maxima of an untrained network's flat maps may jump with rounding
        assert np.median(np.abs(reading.output[0].numpy() - want[0])) < 1e-2
    else:
        np.testing.assert_allclose(reading.output[0].numpy(), want[0], atol=1e-2)
        box = PORTRAIT_BOX[0]
        size = np.sqrt((box[2] - box[0]) * (box[3] - box[1]))
        expected = np.linalg.norm(want[0] - target[0], axis=1).mean() / size
        assert reading.error.item() == pytest.approx(expected, abs=1e-4)


def test_geometry_that_is_missing_is_the_targets_own(compact: CompactFan, portrait: np.ndarray) -> None:
    window = WINDOWS["holds the crop"]
    (target,) = compact.align([portrait], [PORTRAIT_BOX])
    boxes = np.concatenate((PORTRAIT_BOX, PORTRAIT_BOX))
    frame = covered(portrait, window)
    objective = compact.objective([frame] * 2, [window] * 2, FaceTargets(boxes, np.concatenate((target, target))))
    pixels = pixels_of(frame, window).expand(2, -1, -1, -1)
    nowhere = torch.full((2, 4), torch.nan)
    nowhere[1] = torch.tensor([174.0, 63.0, 268.0, 180.0])
    mixed = objective.read(pixels, [0, 1], nowhere)
    own = objective.read(pixels[:1], [1])
    assert mixed.loss[0].item() == pytest.approx(own.loss[0].item(), rel=1e-4)
    assert abs(mixed.loss[1].item() - own.loss[0].item()) > 1e-3


def test_following_the_gradient_brings_the_landmarks_back(compact: CompactFan, portrait: np.ndarray) -> None:
    window = WINDOWS["holds the crop"]
    frame = covered(portrait, window)
    (target,) = compact.align([portrait], [PORTRAIT_BOX])
    objective = compact.objective([frame], [window], FaceTargets(PORTRAIT_BOX, target))
    start = pixels_of(frame, window)
    delta = torch.zeros_like(start)
    readings = []
    for step in range(12):
        delta.requires_grad_()
        reading = objective.read(start + delta, [0])
        readings.append((reading.loss.item(), reading.error.item()))
        (gradient,) = torch.autograd.grad(reading.loss.sum(), delta)
        rate = (4 if step < 6 else 1) / 255
        delta = (delta.detach() - rate * gradient.sign()).clamp(-16 / 255, 16 / 255)
    assert readings[-1][0] < 0.5 * readings[0][0]
    assert readings[-1][1] < 0.5 * readings[0][1]


def test_openness_counts_by_itself() -> None:
    """Eyes 0.4 open that are to be 0.1, and lips 0.2 open that are to be shut; Huber's loss of d is d - BETA / 2."""
    eye = np.array([[0, 0], [10, -6], [20, -6], [30, 0], [20, 6], [10, 6]], dtype=np.float64)
    lips = np.array([[0, 0], [10, -4], [20, -4], [30, -4], [40, 0], [30, 4], [20, 4], [10, 4]], dtype=np.float64)
    faces = np.random.default_rng(0).uniform(0, 300, (2, 68, 2))
    for points, eyes, mouth in zip(faces, (1.0, 0.25), (1.0, 0.0), strict=True):
        points[36:42] = eye * [1, eyes] + [80, 100]
        points[42:48] = eye * [1, eyes] + [150, 100]
        points[60:68] = lips * [1, mouth] + [90, 200]
    read, wanted = torch.from_numpy(faces[:1]).requires_grad_(), torch.from_numpy(faces[1:])
    loss = openness_loss(read, wanted)
    assert loss.item() == pytest.approx(EYES * 2 * (0.3 - 0.005) + MOUTH * (0.2 - 0.005))
    (pull,) = torch.autograd.grad(loss.sum(), read)
    assert pull[0, 37, 1] < 0 < pull[0, 41, 1], "down the gradient the upper lid comes down, and the lower one up"
    assert not pull[0, :36].any(), "jaw, brows and nose have no part in it"


def test_fan_map_loss_has_the_slope_its_gradient_says(
    small_fan: Fan, portrait: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Fan, "coordinate_weight", 0.0)  # it follows a maximum, which may jump
    monkeypatch.setattr("victims.heatmap_objective.HeatmapObjective.NEAR", 1e-9)  # nor do maps fade near their target
    window = WINDOWS["holds the crop"]
    frame = covered(portrait, window)
    (target,) = small_fan.align([portrait], [PORTRAIT_BOX])
    objective = small_fan.objective([frame], [window], FaceTargets(PORTRAIT_BOX, target))
    pixels = pixels_of(frame, window).requires_grad_()
    (gradient,) = torch.autograd.grad(objective.read(pixels, [0]).loss.sum(), pixels)
    direction = gradient / gradient.norm()
    with torch.no_grad():
        ahead = objective.read(pixels + 0.05 * direction, [0]).loss.double().item()
        behind = objective.read(pixels - 0.05 * direction, [0]).loss.double().item()
    assert (ahead - behind) / 0.1 == pytest.approx(gradient.norm().item(), rel=0.05)


def test_fan_soft_points_follow_a_peak() -> None:
    """Gaussian peaks of FAN's width at known places: found to a tenth of a cell, with a gradient."""
    fan = Fan({NETWORK: None}, {})  # type: ignore[dict-item]
    generator = torch.Generator().manual_seed(4)
    points = 0.1 + 0.8 * torch.rand((1, 68, 2), generator=generator)
    cells = (torch.arange(64) + 0.5) / 64
    squares = (cells - points[..., 0, None, None]) ** 2 + (cells[:, None] - points[..., 1, None, None]) ** 2
    maps = torch.exp(-squares * 64**2 / 2).requires_grad_()
    soft = fan.soft_points(maps)
    assert (soft - points).abs().max() * 64 < 0.1
    (gradient,) = torch.autograd.grad(soft[0, 7, 0], maps)
    column = int(points[0, 7, 0] * 64)
    line = int(points[0, 7, 1] * 64)
    assert gradient[0, 7, line, column + 2] > 0 > gradient[0, 7, line, column - 2]
