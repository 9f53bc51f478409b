"""Identity: the figures by hand, the crops against references, and recognisers as ONNX files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from facenet_pytorch import InceptionResnetV1, fixed_image_standardization
from onnx import TensorProto, helper
from PIL import Image
from skimage.transform import SimilarityTransform

from drsf_cli.measure.identity import (
    ARCFACE_POINTS,
    Gallery,
    IdentityMeter,
    Recogniser,
    aligned_crop,
    box_crop,
    facenet,
    find_recogniser,
    onnx_recogniser,
    read_gallery,
    threshold_at,
)
from victims.face import Detections, Face
from victims.observe import Observer
from weights.errors import InputError, WeightsError

FACE = Face(np.array([2.0, 2, 10, 10]), 1.0)


def angle(degrees: float) -> np.ndarray:
    return np.array([np.cos(np.radians(degrees)), np.sin(np.radians(degrees))])


def pointer() -> Recogniser:
    """Embeds a picture as the direction (in degrees) that its first pixel says."""

    def run(crops):
        return torch.from_numpy(angle(float(crops[0, 0, 0, 0]) * 128 + 127.5))[None]

    return Recogniser("pointer", {}, run, lambda image, face: image)


def picture(degrees: int) -> np.ndarray:
    return np.full((4, 4, 3), degrees, np.uint8)


def test_cosines_by_hand():
    """Two frames of the original at 0 and 20 degrees, each enrolled from the other; written at 80 and 100."""
    meter = IdentityMeter(pointer())
    for original, obscured, written in ((0, 90, 80), (20, 90, 100)):
        meter.look({"original": picture(original), "obscured": picture(obscured), "written": picture(written)}, FACE)
    columns = meter.to_dict("original")["columns"]
    assert columns["original"]["cosine"] == pytest.approx(np.cos(np.radians(20)))
    assert columns["obscured"]["cosine"] == pytest.approx((np.cos(np.radians(70)) + 0) / 2, abs=1e-6)
    assert columns["written"]["cosine"] == pytest.approx((np.cos(np.radians(60)) + np.cos(np.radians(100))) / 2)
    assert columns["written"]["rank1"] is None


def test_rank_and_rate_by_hand():
    """Two others, at 60 and 120 degrees, and the driver enrolled at 0. Written at 20 and 40: the first is nearest to
    the driver, the second to the one at 60."""
    gallery = Gallery(("a", "b"), np.stack([angle(60), angle(60), angle(120)]), (0, 0, 1))
    np.testing.assert_allclose(gallery.impostor_scores, [0.5, 0.5])
    meter = IdentityMeter(pointer(), gallery, far=0.5)
    for written in (20, 40):
        meter.look({"original": picture(0), "written": picture(written)}, FACE)
    document = meter.to_dict("original")
    assert document["columns"]["original"]["rank1"] == 1.0
    assert document["columns"]["written"]["rank1"] == 0.5
    assert document["threshold"] == pytest.approx(0.5)
    assert document["columns"]["written"]["tar"] == 1.0


def test_threshold_at_a_rate():
    scores = np.arange(100) / 100
    assert threshold_at(scores, 0.01) == pytest.approx(0.98)
    assert (scores > threshold_at(scores, 0.05)).sum() == 5
    assert threshold_at(scores[:50], 0.01) is None


def test_the_box_is_cropped_as_facenet_pytorch_does():
    from facenet_pytorch.models.utils.detect_face import extract_face

    image = np.random.default_rng(0).integers(0, 256, (120, 160, 3)).astype(np.uint8)
    box = np.array([30.6, 20.2, 110.9, 99.5])
    crop = box_crop(64)(image, Face(box, 1.0))
    expected = extract_face(image, box, image_size=64, margin=0).permute(1, 2, 0).numpy()
    np.testing.assert_allclose(crop, expected, atol=1)


def test_five_points_land_on_arcfaces():
    rng = np.random.default_rng(0)
    turn = SimilarityTransform(scale=1.7, rotation=0.3, translation=(40, 20))
    points = np.zeros((68, 2))
    five = turn(ARCFACE_POINTS)
    points[36:42], points[42:48], points[30], points[48], points[54] = five
    image = rng.integers(0, 256, (300, 300, 3)).astype(np.uint8)
    for x, y in five:
        image[round(y) - 4 : round(y) + 5, round(x) - 4 : round(x) + 5] = (255, 0, 0)
    crop = aligned_crop(112)(image, Face(np.array([0.0, 0, 9, 9]), 1.0, points))
    assert crop.shape == (112, 112, 3)
    for x, y in ARCFACE_POINTS:
        np.testing.assert_allclose(crop[round(y), round(x)].astype(int), [255, 0, 0], atol=2)


def mean_colour(path: Path, size: int = 16) -> Path:
    """A recogniser whose embedding is the mean colour of its crop, (1, 3)."""
    nodes = [helper.make_node("GlobalAveragePool", ["x"], ["m"]), helper.make_node("Flatten", ["m"], ["y"])]
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, size, size])]
    graph = helper.make_graph(nodes, "g", inputs, [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 3])])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
    return path


def test_an_onnx_recogniser(tmp_path):
    recogniser = onnx_recogniser(mean_colour(tmp_path / "r.onnx"), "cpu")
    image = np.zeros((20, 20, 3), np.uint8)
    image[:] = (255, 127, 0)
    vector = recogniser.embed(image, FACE)
    expected = (np.array([255, 127, 0]) - 127.5) / 128
    np.testing.assert_allclose(vector, expected / np.linalg.norm(expected), atol=1e-5)
    (tmp_path / "bad.onnx").write_bytes(b"no graph")
    with pytest.raises(InputError, match="is not an ONNX graph"):
        onnx_recogniser(tmp_path / "bad.onnx", "cpu")


def test_a_gallery_of_pictures(tmp_path):
    recogniser = onnx_recogniser(mean_colour(tmp_path / "r.onnx"), "cpu")
    folder = tmp_path / "gallery"
    (folder / "two").mkdir(parents=True)
    red, green, darker, black = (250, 0, 0), (0, 250, 0), (0, 240, 0), (0, 0, 0)
    for name, colour in (("one.png", red), ("two/a.png", green), ("two/b.png", darker), ("dark.png", black)):
        Image.fromarray(np.full((20, 20, 3), colour, np.uint8)).save(folder / name)

    from drsf_cli.readers.table import FinderDetector

    def find(image):
        return Detections(np.zeros((0, 4)) if image.max() == 0 else FACE.box[None], np.ones(int(image.max() > 0)))

    gallery = read_gallery(folder, Observer(FinderDetector("f", find)), recogniser)
    assert gallery.people == ("one", "two")
    assert gallery.owners == (0, 1, 1)
    assert len(gallery.impostor_scores) == 2
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="0 people"):
        read_gallery(tmp_path / "empty", Observer(FinderDetector("f", find)), recogniser)


@pytest.mark.slow
def test_facenet_with_weights_of_its_form(tmp_path):
    """Random weights in the published file's form, with its classifier; the embedding is the network's own."""
    torch.manual_seed(0)
    network = InceptionResnetV1(classify=False)
    classifier = {"logits.weight": torch.zeros(8, 512), "logits.bias": torch.zeros(8)}
    state = {**network.state_dict(), **classifier}
    torch.save(state, tmp_path / "facenet.pt")
    with pytest.raises(WeightsError, match="not in the catalogue"):
        facenet(tmp_path / "facenet.pt")
    recogniser = facenet(tmp_path / "facenet.pt", allow_unknown=True)
    image = np.random.default_rng(0).integers(0, 256, (160, 160, 3)).astype(np.uint8)
    vector = recogniser.embed(image, Face(np.array([0.0, 0, 160, 160]), 1.0))
    with torch.no_grad():
        expected = network.eval()(fixed_image_standardization(torch.from_numpy(image).permute(2, 0, 1).float())[None])
    np.testing.assert_allclose(vector, expected[0].numpy(), atol=1e-5)


def test_without_weights_there_is_no_recogniser_and_it_says_why(monkeypatch):
    monkeypatch.setattr("drsf_cli.measure.identity.model_file", lambda name: None)
    recogniser, why = find_recogniser(None)
    assert recogniser is None
    assert "drsf weights pull facenet" in why
