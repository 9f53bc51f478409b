"""Training a drawer for a chain that reads meshes: what its scenes say, and one step."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from attacks.fitting.faces import ReadFaces
from attacks.fitting.loop import Chain, Settings, Training
from attacks.fitting.scenes import draw_scene, make_scene
from attacks.obscure import parse_obscuring
from drsf_cli.media.demo_clip import demo_frames
from victims.camera import Camera, angle_between_degrees
from victims.mediapipe.blazeface import MODELS, load_blazeface
from victims.mediapipe.facemesh import FILE, OUTPUTS, FaceMesh
from victims.mediapipe.graph import load_network
from victims.mediapipe.iris import IrisGaze
from victims.mediapipe.topology import landmarks_68
from victims.observe import Observer


@pytest.fixture(scope="module")
def chain(mediapipe_files: Path) -> Chain:
    short = load_blazeface("blazeface", mediapipe_files / MODELS["blazeface"].file)
    network = load_network(mediapipe_files / FILE, OUTPUTS)
    return Chain(Observer(short, FaceMesh(network, short, {}), IrisGaze(network, {})))


@pytest.fixture(scope="module")
def faces(chain: Chain) -> ReadFaces:
    """Frames of the demo clip as the chain reads them."""
    images = [frame for k, frame in enumerate(demo_frames(seconds=1.6, fps=25)) if k % 3 == 0]
    read = [chain.observer.read_faces([image], chain.observer.detector.detect([image]))[0][0] for image in images]

    def stacked(name: str) -> np.ndarray:
        return np.stack([getattr(face, name) for face in read])

    return ReadFaces(images, stacked("box"), stacked("landmarks"), stacked("gaze_angle"), stacked("mesh"))


@pytest.mark.parametrize("augmented", [False, True])
def test_attributes_are_those_of_the_mesh(chain: Chain, faces: ReadFaces, augmented: bool) -> None:
    """Landmarks, gaze and box of a tile belong to its mesh, and the mesh to what is seen."""
    random = np.random.default_rng(3)
    camera = Camera.default(800, 400)
    mosaic = parse_obscuring("pixelate_5")
    scene = make_scene(faces, np.arange(3), 160.0, camera, mosaic, chain.gaze, random, augmented)
    assert scene.meshes is not None
    np.testing.assert_allclose(scene.landmarks, landmarks_68(scene.meshes), atol=1e-6)
    for row, own in enumerate(scene.attributes):
        sides = own.box[2:] - own.box[:2]
        assert sides[0] == pytest.approx(sides[1], rel=0.02) or augmented
        # BlazeFace's box is about the mesh
        centre = scene.meshes[row, :468, :2].mean(axis=0)
        assert np.all((own.box[:2] < centre) & (centre < own.box[2:]))
        assert own.gaze_angle is not None
        if not augmented:  # the same face, larger: the gaze is nearly the same
            assert np.degrees(np.abs(own.gaze_angle - faces.gaze_angles[row])).max() < 8.0
        assert angle_between_degrees(scene.gaze[row], np.array([0.0, 0.0, -1.0])) < 60.0


def test_some_faces_are_to_be_followed(chain: Chain, faces: ReadFaces) -> None:
    """BlazeFace is to see nothing of them, whatever it saw of the picture, and the drawer is told by its last plane."""
    random, mosaic = np.random.default_rng(3), parse_obscuring("pixelate_5")
    camera, rows = Camera.default(800, 400), np.arange(60) % len(faces)
    scene = make_scene(faces, rows, 60.0, camera, mosaic, chain.gaze, random, augmented=True)
    followed = [one.followed for one in scene.attributes]
    assert 3 <= sum(followed) <= 18, "9 of 60 are expected"
    assert Training._inputs(scene)[:, -1, 0, 0].tolist() == [float(one) for one in followed]
    objectives = chain.objectives(scene)
    hidden = torch.from_numpy(np.stack(scene.covered)).permute(0, 3, 1, 2) / 255.0
    error = objectives["detector"].read(hidden, range(len(rows))).error
    assert torch.equal(error == 0.0, torch.tensor(followed)), "nothing is seen of heads that are only obscured"
    plain = make_scene(faces, rows, 60.0, camera, mosaic, chain.gaze, random, augmented=False)
    assert not any(one.followed for one in plain.attributes)


def test_a_batch_trains_the_drawer(chain: Chain, faces: ReadFaces) -> None:
    torch.manual_seed(0)
    training = Training(chain, faces, faces, Settings(minutes=60.0), 0)
    before = {name: value.clone() for name, value in training.network.state_dict().items()}
    scene = draw_scene(faces, chain.gaze, np.random.default_rng(0))
    objectives = chain.objectives(scene)
    assert set(objectives) == {"detector", "aligner", "gaze"}
    training.step()
    assert set(training.errors) >= {"detector", "aligner", "gaze"}
    assert all(np.isfinite(value) for value in training.errors.values())
    after = training.network.state_dict()
    assert any(not torch.equal(before[name], after[name]) for name in before)
