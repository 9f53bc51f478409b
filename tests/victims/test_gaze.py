from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import av
import cv2
import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation
from torch import Tensor, nn
from torchvision.models import resnet18

from victims.base import Image, Window, to_pixels
from victims.camera import Camera, HeadPose, angle_between_degrees, normalize_view, solve_head_pose, vector_to_angles
from victims.equalize import equalize_hist, grey_levels
from victims.face import Array
from victims.face_model import FACE_MODEL_68, LEFT_EYE_CORNERS, RIGHT_EYE_CORNERS
from victims.gaze import GAZE_MODELS, NormalizedGaze, angle_loss, load_gaze
from victims.warp import warp_perspective
from weights.errors import DrsfError, UsageError, WeightsError

NAMES = tuple(GAZE_MODELS)
PUBLISHED = ("eth-xgaze", "mpiifacegaze", "mpiigaze")


def with_random_weights(name: str) -> NormalizedGaze:
    torch.manual_seed(3)
    network = GAZE_MODELS[name].network().eval().requires_grad_(False)
    return NormalizedGaze(name, network, {})


@pytest.fixture(scope="module")
def victims() -> dict[str, NormalizedGaze]:
    return {name: with_random_weights(name) for name in NAMES}


@pytest.fixture(scope="module")
def mpiigaze(published: Callable[[str], Path]) -> NormalizedGaze:
    return load_gaze("mpiigaze", published("mpiigaze_resnet_preact.pth"))


# A pose and camera whose numbers are in the design's golden table (VICTIMS 4.7).
GOLDEN_CAMERA = Camera.default(640, 480)
GOLDEN_POINTS = FACE_MODEL_68 @ Rotation.from_euler("XYZ", [10, -20, 5], degrees=True).as_matrix().T + [
    0.08,
    -0.05,
    0.7,
]
GOLDEN_LANDMARKS = 640.0 * GOLDEN_POINTS[:, :2] / GOLDEN_POINTS[:, 2:] + [320.0, 240.0]


class Sample(NamedTuple):
    frames: list[Image]
    landmarks: Array
    """(2, 68, 2)"""
    camera: Camera


# RetinaFace's five points (eyes, nose, mouth corners) in frames of talking_720p.mp4.
FIVE_POINTS = {
    40: [(380.8, 176.4), (446.1, 177.8), (410.4, 214.2), (380.5, 235.3), (446.3, 236.4)],
    80: [(413.2, 168.7), (477.0, 175.6), (438.9, 206.2), (412.7, 235.1), (465.8, 240.9)],
}


@pytest.fixture(scope="module")
def sample(shared: Path) -> Sample:
    """Two real frames with the 68-point template laid on their faces."""
    camera = Camera.default(1280, 720)
    template = np.stack(
        [FACE_MODEL_68[list(i)].mean(axis=0) for i in (RIGHT_EYE_CORNERS, LEFT_EYE_CORNERS, (30,), (48,), (54,))]
    )
    frames, landmarks = [], []
    with av.open(str(shared / "data" / "talking_720p.mp4")) as container:
        for index, frame in enumerate(container.decode(video=0)):
            if index in FIVE_POINTS:
                _, turn, shift = cv2.solvePnP(
                    template,
                    np.array(FIVE_POINTS[index]),
                    camera.matrix,
                    None,
                    rvec=np.zeros(3),
                    tvec=np.array([0.0, 0.0, 1.0]),
                    useExtrinsicGuess=True,
                    flags=cv2.SOLVEPNP_ITERATIVE,
                )
                frames.append(frame.to_ndarray(format="rgb24").astype(np.uint8))
                landmarks.append(cv2.projectPoints(FACE_MODEL_68, turn, shift, camera.matrix, None)[0].reshape(68, 2))
            if index == max(FIVE_POINTS):
                break
    return Sample(frames, np.stack(landmarks), camera)


def window_around(landmarks: Array, width: int, height: int) -> Window:
    x, y = landmarks[27]  # between the eyes
    return Window(round(x) - width // 2, round(y) - height // 2, width, height)


def cut(frames: list[Image], windows: list[Window]) -> Tensor:
    return to_pixels([window.cut(frame) for frame, window in zip(frames, windows, strict=True)])


# ------------------------------------------------------------------ equalisation


def odd_images() -> dict[str, Image]:
    random = np.random.default_rng(0)
    steps = np.zeros((36, 60, 3), np.uint8)
    steps[:, 30:] = 200
    return {
        "noise": random.integers(0, 256, (36, 60, 3), dtype=np.uint8),
        "faint": random.integers(100, 104, (36, 60, 3), dtype=np.uint8),
        "skewed": (255 * random.random((36, 60, 3)) ** 6).astype(np.uint8),
        "two levels": steps,
        "constant": np.full((36, 60, 3), 77, np.uint8),
        "black": np.zeros((36, 60, 3), np.uint8),
        "one pixel": np.concatenate([np.full((36, 59, 3), 9, np.uint8), np.full((36, 1, 3), 10, np.uint8)], axis=1),
    }


@pytest.mark.parametrize("name", odd_images())
def test_grey_and_equalisation_are_opencvs(name: str) -> None:
    image = odd_images()[name]
    grey = grey_levels(to_pixels([image]))
    expected = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    np.testing.assert_array_equal(grey[0, 0].numpy(), expected)
    np.testing.assert_array_equal(equalize_hist(grey)[0, 0].numpy(), cv2.equalizeHist(expected))


def test_equalisation_is_per_image() -> None:
    images = list(odd_images().values())
    together = equalize_hist(grey_levels(to_pixels(images)))
    for image, row in zip(images, together, strict=True):
        expected = cv2.equalizeHist(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY))
        np.testing.assert_array_equal(row[0].numpy(), expected)


def test_equalisation_gradient_is_that_of_the_smoothed_rank() -> None:
    """Against every pair of pixels, one by one."""
    random = np.random.default_rng(1)
    levels = random.integers(60, 90, (1, 1, 5, 7)).astype(np.float64)
    upstream = random.normal(size=35)
    tensor = torch.from_numpy(levels).requires_grad_()
    (gradient,) = torch.autograd.grad(equalize_hist(tensor), tensor, torch.from_numpy(upstream).view(1, 1, 5, 7))
    flat = levels.ravel()
    density = np.exp(-0.5 * ((flat[:, None] - flat) / 4.0) ** 2) / (4.0 * np.sqrt(2 * np.pi))
    expected = 255.0 / 35 * (upstream * density.sum(axis=1) - density @ upstream)
    np.testing.assert_allclose(gradient.numpy().ravel(), expected, atol=0.02 * np.abs(expected).max())


def test_equalisation_gradient_ignores_brightness() -> None:
    tensor = torch.from_numpy(np.random.default_rng(2).integers(30, 200, (2, 1, 9, 9)).astype(np.float32))
    tensor.requires_grad_()
    upstream = torch.randn(2, 1, 9, 9, generator=torch.Generator().manual_seed(0))
    (gradient,) = torch.autograd.grad(equalize_hist(tensor), tensor, upstream)
    assert gradient.abs().max() > 0.1
    assert gradient.sum(dim=(1, 2, 3)).abs().max() < 1e-3


# ---------------------------------------------------------------------- networks


def fill(network: nn.Module) -> nn.Module:
    """Weights that are a formula of the key's place and the index."""
    state = {}
    for place, (key, value) in enumerate(sorted(network.state_dict().items())):
        if not value.is_floating_point():
            state[key] = value
            continue
        wave = torch.sin(torch.arange(value.numel(), dtype=torch.float64) * 0.7 + place).reshape(value.shape)
        if value.ndim > 1:
            wave = wave / (value.numel() / value.shape[0]) ** 0.5
        elif key.endswith(("bias", "mean")):
            wave = 0.1 * wave
        else:
            wave = 1 + 0.1 * wave
        state[key] = wave.float()
    network.load_state_dict(state)
    return network.eval()


def wave_input(*shape: int) -> Tensor:
    return torch.sin(torch.arange(math.prod(shape), dtype=torch.float64) * 0.01).reshape(shape).float()


def test_architectures_answer_as_ptgazes() -> None:
    """The numbers were printed by the model classes of ptgaze 0.3.0 with these weights and inputs, in float32. For the
    larger network that rounds by up to 1e-4, differently on each processor; here it runs in float64."""
    with torch.no_grad():
        (face,) = fill(GAZE_MODELS["mpiifacegaze"].network()).double()(wave_input(2, 3, 224, 224).double())
        eye_input = (wave_input(2, 1, 36, 60), torch.tensor([[0.1, -0.2], [0.0, 0.3]]))
        (eye,) = fill(GAZE_MODELS["mpiigaze"].network())(*eye_input)
    np.testing.assert_allclose(face, [[1.622576, 0.658713], [3.214904, 2.975242]], atol=1.2e-4)
    np.testing.assert_allclose(eye, [[0.015537, -0.233913], [-0.134582, -0.289228]], atol=2e-5)


def test_eth_xgaze_is_resnet18(victims: dict[str, NormalizedGaze]) -> None:
    ours = victims["eth-xgaze"].networks["gaze"]
    assert isinstance(ours, nn.Module)
    reference = resnet18(num_classes=2).eval()
    reference.load_state_dict(ours.state_dict())
    patches = wave_input(1, 3, 224, 224)
    with torch.no_grad():
        np.testing.assert_allclose(ours(patches)[0], reference(patches), atol=1e-6)


def test_mpiigaze_golden(mpiigaze: NormalizedGaze) -> None:
    network = mpiigaze.networks["gaze"]
    (zeros,) = network(torch.zeros(1, 1, 36, 60), torch.zeros(1, 2))
    (half,) = network(torch.full((1, 1, 36, 60), 0.5), torch.tensor([[0.1, -0.2]]))
    np.testing.assert_allclose(zeros, [[-0.176205, 0.216114]], atol=2e-6)
    np.testing.assert_allclose(half, [[-0.010907, -0.071540]], atol=2e-6)
    assert mpiigaze.weights == {
        "mpiigaze_resnet_preact.pth": "93e82f852b1c2d5bc5ca2228c87561fec6743cb17adec698eb57491cbcaf13ed"
    }


# ----------------------------------------------------------------------- loading


def official_keys(name: str) -> list[str]:
    """The key sets of VICTIMS 4.2, spelt out without our networks."""
    norm = ["weight", "bias", "running_mean", "running_var", "num_batches_tracked"]
    if name == "mpiigaze":
        keys = ["conv.weight", "fc.weight", "fc.bias", *(f"bn.{field}" for field in norm)]
        for stage in (1, 2, 3):
            block = f"stage{stage}.block1"
            keys += [f"{block}.conv1.weight", f"{block}.conv2.weight"]
            keys += [f"{block}.bn{n}.{field}" for n in (1, 2) for field in norm]
            keys += [f"{block}.shortcut.conv.weight"] if stage > 1 else []
        return keys
    prefix = "feature_extractor." if name == "mpiifacegaze" else ""
    keys = [f"{prefix}conv1.weight", *(f"{prefix}bn1.{field}" for field in norm), "fc.weight", "fc.bias"]
    keys += ["conv.weight", "conv.bias"] if name == "mpiifacegaze" else []
    for stage in range(1, 4 if name == "mpiifacegaze" else 5):
        for half in (0, 1):
            place = f"{prefix}layer{stage}.{half}"
            keys += [f"{place}.conv{n}.weight" for n in (1, 2)]
            keys += [f"{place}.bn{n}.{field}" for n in (1, 2) for field in norm]
            if stage > 1 and half == 0:
                keys += [f"{place}.downsample.0.weight", *(f"{place}.downsample.1.{field}" for field in norm)]
    return keys


@pytest.mark.parametrize(("name", "count"), zip(PUBLISHED, (122, 94, 46), strict=True))
def test_key_sets_are_the_official_ones(name: str, count: int) -> None:
    keys = official_keys(name)
    assert len(keys) == count
    assert set(GAZE_MODELS[name].network().state_dict()) == set(keys)


def test_unknown_files_and_names_are_refused(victims: dict[str, NormalizedGaze], tmp_path: Path) -> None:
    network = victims["mpiigaze"].networks["gaze"]
    assert isinstance(network, nn.Module)
    torch.save(network.state_dict(), tmp_path / "own.pth")
    with pytest.raises(WeightsError, match=r"own\.pth"):
        load_gaze("mpiigaze", tmp_path / "own.pth")
    with pytest.raises(UsageError, match="eth-xgaze, mpiifacegaze, mpiigaze, gaze-compact"):
        load_gaze("ETH")


# ------------------------------------------------------------------ angles, loss


class Says:
    """A network that always answers the same and keeps what it was asked."""

    def __init__(self, *angles: tuple[float, float]) -> None:
        self.angles = angles
        self.asked: tuple[Tensor, ...] = ()

    def __call__(self, *inputs: Tensor) -> tuple[Tensor]:
        self.asked = inputs
        return (torch.tensor(self.angles).repeat(len(inputs[0]) // len(self.angles), 1),)


def test_golden_vector_of_eth_xgaze() -> None:
    victim = NormalizedGaze("eth-xgaze", Says((0.1, -0.2)), {})
    ((gaze, angles),) = victim.estimate([np.zeros((480, 640, 3), np.uint8)], [GOLDEN_LANDMARKS[None]], GOLDEN_CAMERA)
    np.testing.assert_allclose(gaze, [[0.108322, 0.013041, -0.994030]], atol=1e-5)
    np.testing.assert_allclose(angles, [[0.1, -0.2]], atol=1e-6)


def test_golden_head_pose_and_mirroring_of_mpiigaze() -> None:
    """Right eye first, its head yaw and its answer's yaw negated (VICTIMS 4.5, 4.7)."""
    network = Says((0.1, 0.2), (0.1, -0.2))
    victim = NormalizedGaze("mpiigaze", network, {})
    ((gaze, angles),) = victim.estimate([np.zeros((480, 640, 3), np.uint8)], [GOLDEN_LANDMARKS[None]], GOLDEN_CAMERA)
    np.testing.assert_allclose(network.asked[1], [[-0.019480, 0.407127], [-0.019480, -0.485561]], atol=1e-5)
    # Both eyes say pitch 0.1, yaw -0.2, each in its own view: turned towards the eye centres of the golden table.
    rotation = Rotation.from_euler("XYZ", [10, -20, 5], degrees=True).as_matrix()
    total = np.zeros(3)
    for center in ([0.040004, -0.088122, 0.718132], [0.100100, -0.086410, 0.740645]):
        z = np.array(center) / np.linalg.norm(center)
        y = np.cross(z, rotation[:, 0]) / np.linalg.norm(np.cross(z, rotation[:, 0]))
        total += np.array([0.197677, -0.099833, -0.975170]) @ np.stack([np.cross(y, z), y, z])
    np.testing.assert_allclose(gaze[0], total / np.linalg.norm(total), atol=1e-5)
    np.testing.assert_allclose(angles, [[0.1, -0.2]], atol=2e-3)


def test_loss_and_error_by_hand() -> None:
    half = np.radians(30.0)
    targets = torch.tensor([[0.0, 0.0, -1.0]]).repeat(4, 1).double()
    vectors = torch.tensor(
        [[0.0, 0.0, -1.0], [1.0, 0.0, 0.0], [0.0, np.sin(half), -np.cos(half)], [0.0, 0.0, 1.0]], dtype=torch.float64
    )
    loss, error = angle_loss(vectors, targets)
    np.testing.assert_allclose(error, [0.0, 90.0, 30.0, 180.0], atol=1e-9)
    chords = np.array([0.0, np.sqrt(2.0), 2 * np.sin(half / 2), 2.0])
    np.testing.assert_allclose(loss, np.sqrt(chords**2 + 1e-4) - 0.01, atol=1e-12)


@pytest.mark.parametrize(
    ("degrees", "low", "high"), [(0.1, 0.15, 0.2), (1.0, 0.8, 1.0), (10.0, 0.98, 1.0), (90.0, 0.7, 0.8)]
)
def test_loss_gradient_neither_fades_nor_explodes(degrees: float, low: float, high: float) -> None:
    angle = torch.tensor(np.radians(degrees), requires_grad=True)
    vector = torch.stack([angle.sin(), torch.zeros_like(angle), -angle.cos()])[None]
    loss, _ = angle_loss(vector, torch.tensor([[0.0, 0.0, -1.0]], dtype=torch.float64))
    (gradient,) = torch.autograd.grad(loss.sum(), angle)
    assert low < float(gradient) < high


def test_loss_gradient_at_the_target_is_zero() -> None:
    vector = torch.tensor([[0.0, 0.6, -0.8]], requires_grad=True)
    loss, _ = angle_loss(vector, vector.detach())
    (gradient,) = torch.autograd.grad(loss.sum(), vector)
    assert torch.equal(gradient, torch.zeros(1, 3))


# ----------------------------------------------------------------------- reading


@pytest.mark.parametrize("name", NAMES)
def test_patches_are_opencvs(name: str, sample: Sample) -> None:
    for frame, landmarks in zip(sample.frames, sample.landmarks, strict=True):
        for spec in GAZE_MODELS[name].views:
            view = normalize_view(solve_head_pose(landmarks, sample.camera), spec, sample.camera)
            expected = cv2.warpPerspective(frame, view.warp, view.size)
            patch = warp_perspective(to_pixels([frame]), torch.from_numpy(view.warp)[None], view.size)
            difference = np.abs(patch[0].permute(1, 2, 0).numpy() - expected / 255.0)
            assert difference.max() <= 1 / 255, difference.max() * 255


@pytest.mark.parametrize("name", ["eth-xgaze", "mpiifacegaze", "gaze-compact"])
def test_the_networks_see_the_documented_input(name: str, sample: Sample) -> None:
    """Colour order, mean and deviation against a transform written with OpenCV."""
    network = Says((0.0, 0.0))
    victim = NormalizedGaze(name, network, {})
    victim.estimate(sample.frames[:1], [sample.landmarks[:1]], sample.camera)
    (spec,) = GAZE_MODELS[name].views
    view = normalize_view(solve_head_pose(sample.landmarks[0], sample.camera), spec, sample.camera)
    patch = cv2.warpPerspective(sample.frames[0], view.warp, view.size) / 255.0
    if name == "eth-xgaze":
        patch = (patch - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    elif name == "mpiifacegaze":
        patch = (patch[:, :, ::-1] - [0.406, 0.456, 0.485]) / [0.225, 0.224, 0.229]
    np.testing.assert_allclose(network.asked[0][0].permute(1, 2, 0), patch, atol=1 / 255 / 0.22)


def test_mpiigaze_reads_as_opencv_does(mpiigaze: NormalizedGaze, sample: Sample) -> None:
    """The whole way in 8-bit OpenCV and numpy, the network apart."""
    for frame, landmarks in zip(sample.frames, sample.landmarks, strict=True):
        pose = solve_head_pose(landmarks, sample.camera)
        total = np.zeros(3)
        for spec, sign in zip(GAZE_MODELS["mpiigaze"].views, (-1.0, 1.0), strict=True):
            view = normalize_view(pose, spec, sample.camera)
            eye = cv2.warpPerspective(frame, view.warp, view.size)
            eye = cv2.equalizeHist(cv2.cvtColor(eye, cv2.COLOR_RGB2GRAY))
            eye = np.ascontiguousarray(eye[:, ::-1] if sign < 0 else eye)
            head = torch.tensor(view.head_angles * [1.0, sign], dtype=torch.float32)
            (answer,) = mpiigaze.networks["gaze"](torch.from_numpy(eye)[None, None] / 255.0, head[None])
            pitch, yaw = answer[0].double().numpy() * [1.0, sign]
            vector = -np.array([np.cos(pitch) * np.sin(yaw), np.sin(pitch), np.cos(pitch) * np.cos(yaw)])
            total += view.rotation.T @ vector
        ((gaze, _),) = mpiigaze.estimate([frame], [landmarks[None]], sample.camera)
        assert np.linalg.norm(gaze[0]) == pytest.approx(1.0)
        assert angle_between_degrees(gaze[0], total) < 0.2  # a rounding of the warp moves whole equalised levels


@pytest.mark.parametrize("name", NAMES)
def test_a_batch_reads_as_its_parts(name: str, victims: dict[str, NormalizedGaze], sample: Sample) -> None:
    victim = victims[name]
    both = np.stack([sample.landmarks[0], sample.landmarks[0] + [150.0, 60.0]])
    none = np.zeros((0, 68, 2))
    together = victim.estimate([*sample.frames, sample.frames[0]], [both, sample.landmarks[1:], none], sample.camera)
    assert [len(gaze) for gaze, _ in together] == [2, 1, 0]
    alone = [
        victim.estimate([frame], [face[None]], sample.camera)[0]
        for frame, face in (
            (sample.frames[0], both[0]),
            (sample.frames[0], both[1]),
            (sample.frames[1], sample.landmarks[1]),
        )
    ]
    np.testing.assert_allclose(
        np.concatenate([gaze for gaze, _ in together]), np.concatenate([g for g, _ in alone]), atol=1e-5
    )
    np.testing.assert_allclose(
        np.concatenate([angles for _, angles in together]), np.concatenate([a for _, a in alone]), atol=1e-5
    )


def test_more_faces_than_go_through_at_once(victims: dict[str, NormalizedGaze], sample: Sample) -> None:
    many = sample.landmarks[0] + np.arange(19)[:, None, None] * np.array([5.0, 2.0])
    ((gaze, _),) = victims["mpiigaze"].estimate(sample.frames[:1], [many], sample.camera)
    for row in (0, 15, 16, 18):
        ((alone, _),) = victims["mpiigaze"].estimate(sample.frames[:1], [many[row : row + 1]], sample.camera)
        np.testing.assert_allclose(gaze[row], alone[0], atol=1e-5)


def test_landmarks_that_fit_no_head_give_nan(victims: dict[str, NormalizedGaze], sample: Sample) -> None:
    faces = np.stack([np.full((68, 2), np.nan), sample.landmarks[0], np.full((68, 2), 300.0)])
    ((gaze, angles),) = victims["mpiigaze"].estimate(sample.frames[:1], [faces], sample.camera)
    assert np.isnan(gaze[0]).all()
    assert np.isnan(angles[0]).all()
    assert np.isfinite(gaze[1]).all()
    assert np.isnan(gaze[2]).all() == np.isnan(angles[2]).all()


def test_a_face_at_the_border_and_outside(victims: dict[str, NormalizedGaze], sample: Sample) -> None:
    """Beyond the frame it is black, as in OpenCV."""
    victim = victims["eth-xgaze"]
    moved = sample.landmarks[0] - [sample.landmarks[0][27, 0] + 8.0, 0.0]
    network = Says((0.0, 0.0))
    NormalizedGaze("gaze-compact", network, {}).estimate(sample.frames[:1], [moved[None]], sample.camera)
    (spec,) = GAZE_MODELS["gaze-compact"].views
    view = normalize_view(solve_head_pose(moved, sample.camera), spec, sample.camera)
    expected = cv2.warpPerspective(sample.frames[0], view.warp, view.size) / 255.0
    seen = network.asked[0][0].permute(1, 2, 0).numpy()
    assert (expected == 0).all(axis=2).mean() > 0.3
    np.testing.assert_allclose(seen, expected, atol=1 / 255)
    ((gaze, _),) = victim.estimate(sample.frames[:1], [moved[None] - [4000.0, 0.0]], sample.camera)
    assert gaze.shape == (1, 3)


# ---------------------------------------------------------------------- attacking


@pytest.mark.parametrize("size", [(300, 320), (90, 60)])
@pytest.mark.parametrize("name", NAMES)
def test_objective_reads_what_estimate_reads(
    name: str, size: tuple[int, int], victims: dict[str, NormalizedGaze], sample: Sample
) -> None:
    """Patches within the window, and patches that reach beyond it."""
    victim = victims[name]
    read = victim.estimate(sample.frames, [face[None] for face in sample.landmarks], sample.camera)
    expected = np.concatenate([gaze for gaze, _ in read])
    windows = [window_around(face, *size) for face in sample.landmarks]
    damaged = [frame.copy() for frame in sample.frames]
    for frame, window in zip(damaged, windows, strict=True):
        window.cut(frame)[:] = 0  # what is in the window must come from `pixels` alone
    objective = victim.objective(damaged, windows, sample.landmarks, expected, sample.camera)
    pixels = cut(sample.frames, windows)
    reading = objective.read(pixels, [0, 1])
    np.testing.assert_allclose(reading.output, expected, atol=2e-4)
    assert reading.error.max() < 0.02
    assert reading.loss.shape == (2,)
    swapped = objective.read(pixels[[1, 0]], [1, 0])
    np.testing.assert_allclose(swapped.output, reading.output[[1, 0]], atol=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_geometry_is_that_of_the_landmarks_read_now(
    name: str, victims: dict[str, NormalizedGaze], sample: Sample
) -> None:
    victim = victims[name]
    moved = sample.landmarks + np.array([3.0, -2.0])
    now = np.concatenate([g for g, _ in victim.estimate(sample.frames, [face[None] for face in moved], sample.camera)])
    own = np.concatenate(
        [g for g, _ in victim.estimate(sample.frames, [face[None] for face in sample.landmarks], sample.camera)]
    )
    windows = [window_around(face, 300, 320) for face in sample.landmarks]
    objective = victim.objective(sample.frames, windows, sample.landmarks, own, sample.camera)
    geometry = torch.from_numpy(moved).float()
    geometry[1] = torch.nan
    reading = objective.read(cut(sample.frames, windows), [0, 1], geometry)
    np.testing.assert_allclose(reading.output, [now[0], own[1]], atol=2e-4)
    assert float(reading.error[0]) == pytest.approx(float(angle_between_degrees(now[0], own[0])), abs=0.02)


def test_landmarks_that_fit_no_head_cost_everything(
    victims: dict[str, NormalizedGaze], sample: Sample, monkeypatch: pytest.MonkeyPatch
) -> None:
    victim = victims["mpiigaze"]
    windows = [window_around(face, 300, 320) for face in sample.landmarks]
    target = np.array([[0.0, 0.0, -1.0]] * 2)
    objective = victim.objective(sample.frames, windows, sample.landmarks, target, sample.camera)
    no_head = sample.landmarks[1] + 1.0

    def fails_for_one(landmarks: Array, camera: Camera) -> HeadPose:
        if np.array_equal(landmarks, no_head):
            raise DrsfError("no head pose fits")
        return solve_head_pose(landmarks, camera)

    monkeypatch.setattr("victims.gaze.solve_head_pose", fails_for_one)
    geometry = torch.from_numpy(np.stack([sample.landmarks[0], no_head]))
    reading = objective.read(cut(sample.frames, windows), [0, 1], geometry)
    assert torch.isfinite(reading.loss).all()
    assert torch.isinf(reading.error).tolist() == [False, True]
    assert torch.isnan(reading.output).all(dim=1).tolist() == [False, True]


def test_targets_without_gaze_or_head_are_refused(victims: dict[str, NormalizedGaze], sample: Sample) -> None:
    windows = [window_around(face, 300, 320) for face in sample.landmarks]
    target = np.array([[0.0, 0.0, -1.0]] * 2)
    for landmarks, gaze in ((sample.landmarks, target * np.nan), (sample.landmarks * np.nan, target)):
        with pytest.raises(DrsfError, match="mpiigaze"):
            victims["mpiigaze"].objective(sample.frames, windows, landmarks, gaze, sample.camera)


@pytest.mark.parametrize("name", NAMES)
def test_gradient_reaches_the_patch_and_nothing_else(
    name: str, victims: dict[str, NormalizedGaze], sample: Sample
) -> None:
    window = window_around(sample.landmarks[0], 300, 320)
    target = np.array([[0.0, 0.6, -0.8]])
    objective = victims[name].objective(sample.frames[:1], [window], sample.landmarks[:1], target, sample.camera)
    pixels = cut(sample.frames[:1], [window]).requires_grad_()
    (gradient,) = torch.autograd.grad(objective.read(pixels, [0]).loss.sum(), pixels)
    reached = np.zeros((window.height, window.width), np.uint8)
    for spec in GAZE_MODELS[name].views:
        view = normalize_view(solve_head_pose(sample.landmarks[0], sample.camera), spec, sample.camera)
        width, height = view.size
        corners = np.array([[[-1.0, -1]], [[width, -1]], [[width, height]], [[-1, height]]])
        quad = cv2.perspectiveTransform(corners, np.linalg.inv(view.warp)).reshape(-1, 2) - [window.x, window.y]
        cv2.fillConvexPoly(reached, np.round(quad).astype(np.int32), 1)
    within = cv2.dilate(reached, np.ones((5, 5), np.uint8))
    touched = gradient[0].abs().sum(dim=0).numpy() > 0
    assert not touched[within == 0].any()
    assert touched[within == 1].mean() > (0.05 if name == "gaze-compact" else 0.5)


def obscured(frames: list[Image], windows: list[Window]) -> list[Image]:
    """Pixelated to 8 x 8 blocks in the window."""
    results = [frame.copy() for frame in frames]
    for frame, window in zip(results, windows, strict=True):
        part = window.cut(frame)
        small = cv2.resize(part, (8, 8), interpolation=cv2.INTER_AREA)
        part[...] = cv2.resize(small, (window.width, window.height), interpolation=cv2.INTER_NEAREST)
    return results


def optimise(victim: NormalizedGaze, sample: Sample, steps: int) -> tuple[Array, Array]:
    """Errors in degrees before, and of the best iterate of `steps` steps of Adam within 16/255."""
    read = victim.estimate(sample.frames, [face[None] for face in sample.landmarks], sample.camera)
    windows = [window_around(face, 200, 220) for face in sample.landmarks]
    frames = obscured(sample.frames, windows)
    target = np.concatenate([gaze for gaze, _ in read])
    objective = victim.objective(frames, windows, sample.landmarks, target, sample.camera)
    pixels = cut(frames, windows)
    delta = torch.zeros_like(pixels, requires_grad=True)
    optimiser = torch.optim.Adam([delta], lr=0.5 / 255)
    errors = []
    for _ in range(steps):
        reading = objective.read((pixels + delta).clamp(0, 1), [0, 1])
        errors.append(reading.error.numpy())
        optimiser.zero_grad()
        (reading.loss.sum() * 1e3).backward()
        optimiser.step()
        with torch.no_grad():
            delta.clamp_(-16 / 255, 16 / 255)
    return errors[0], np.min(errors, axis=0)


@pytest.mark.parametrize("name", ["mpiigaze", "gaze-compact"])
def test_optimising_untrained_networks(name: str, victims: dict[str, NormalizedGaze], sample: Sample) -> None:
    before, after = optimise(victims[name], sample, 20)
    assert (after < 0.5 * before).all(), (before, after)


def test_optimising_mpiigaze(mpiigaze: NormalizedGaze, sample: Sample) -> None:
    before, after = optimise(mpiigaze, sample, 25)
    assert (before > 1.5).all()
    assert before.max() > 10
    assert (after < 1.0).all()


# ------------------------------------------------------------------------- export


@pytest.mark.parametrize("name", NAMES)
def test_export_specs_fit_the_networks(name: str, victims: dict[str, NormalizedGaze]) -> None:
    (spec,) = victims[name].export_specs().values()
    assert len(spec.inputs) == len(spec.input_names)
    assert all(len(tensor) == 2 for tensor in spec.inputs)
    outputs = victims[name].networks["gaze"](*spec.inputs)
    assert len(outputs) == len(spec.output_names) == 1
    assert outputs[0].shape == (2, 2)
    assert set(spec.dynamic_axes) == {*spec.input_names, *spec.output_names}


def test_reading_through_another_network(victims: dict[str, NormalizedGaze], sample: Sample) -> None:
    other = victims["eth-xgaze"].with_networks({"gaze": Says((0.0, 0.0))})
    ((gaze, angles),) = other.estimate(sample.frames[:1], [sample.landmarks[:1]], sample.camera)
    np.testing.assert_allclose(angles, [[0.0, 0.0]], atol=1e-7)
    pose = solve_head_pose(sample.landmarks[0], sample.camera)
    center = normalize_view(pose, GAZE_MODELS["eth-xgaze"].reference, sample.camera).center
    np.testing.assert_allclose(gaze[0], -center / np.linalg.norm(center), atol=1e-9)
    np.testing.assert_allclose(vector_to_angles(gaze[0]), vector_to_angles(-center), atol=1e-9)
