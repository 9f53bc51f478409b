"""What others can read: the figures by hand, the covering made again exactly, and every kind of model."""

from __future__ import annotations

import contextlib
import json
import math
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper
from safetensors.torch import load_file, save_file

from attacks.codec import DeliveryCodec
from attacks.obscure import Pixelate, Region
from drsf_cli.app import main
from drsf_cli.deid.pipeline import deidentify
from drsf_cli.measure.leakage import Covered, Readers, measure
from drsf_cli.media.demo_clip import make_demo_clip
from drsf_cli.media.reader import VideoReader
from drsf_cli.readers.models import Models
from drsf_cli.readers.outsiders import Outsider, named_outsiders, outsiders_at_hand, repelled_victims
from drsf_cli.readers.table import READERS, FinderDetector, find_reader
from drsf_cli.settings import DeidSettings, VictimNames
from tests.clips import make_clip
from victims.base import GazeEstimator
from victims.face import Detections, Face, FrameObservation
from victims.observe import Observer
from victims.registry import load_detector
from weights.catalog import catalog
from weights.errors import InputError, UsageError, WeightsError
from weights.store import default_store

FAN = default_store().path(catalog()["fan_compact.safetensors"])
GAZE = default_store().path(catalog()["gaze_compact.safetensors"])

# ------------------------------------------------------------------------------------------------- figures by hand

BOX = np.array([20.0, 20, 60, 60])
SHADES = {"original": 200, "written": 90}


def detections(*boxes):
    return Detections(np.array(boxes, dtype=float).reshape(-1, 4), np.full(len(boxes), 0.9))


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """Four frames of light grey and, as what was made of them, of dark grey."""
    folder = tmp_path_factory.mktemp("pair")
    paths = []
    for name, shade in SHADES.items():
        images = [np.full((80, 80, 3), shade, np.uint8) for _ in range(4)]
        paths.append(make_clip(folder / f"{name}.mp4", images))
    return paths


def run(pair, outsider, authorised_gaze=None, **more):
    original, written = pair
    truth = [FrameObservation(i, i / 25, (Face(BOX, 0.9, np.zeros((68, 2)), None, authorised_gaze),)) for i in range(4)]
    region = Region((10, 10, 70, 70), cell=12, origin=(10, 10))
    covered = Covered(lambda frames: [truth[one.index] for one in frames], [(region,)] * 4, Pixelate(5), None)
    authorised = Observer(FinderDetector("told", lambda image: detections(BOX)))
    readers = Readers(authorised, {outsider.name: outsider})
    document = measure(VideoReader(original), written, covered, readers, **more)
    return document["models"][1], document


class Counting:
    """A finder that answers by which video it is shown and how often it was: `boxes[column][k]`."""

    def __init__(self, boxes):
        self.boxes, self.turns = boxes, dict.fromkeys(boxes, 0)

    def __call__(self, image):
        # the obscured frame is the original's colour everywhere, so the order of reading tells the two apart
        bright = image[40, 40, 0] > 150
        column = "written" if not bright else self.bright()
        self.turns[column] += 1
        return self.boxes[column][self.turns[column] - 1]

    def bright(self):
        return "original" if self.turns["original"] < len(self.boxes["original"]) else "obscured"


def test_a_detector_by_hand(pair):
    """Seen in three of four frames of the original, in one and two of them afterwards.

    In the written video one box is the own one (IoU 1), the other moved by half its width (IoU 1/3): mean over the
    three frames (1 + 1/3 + 0) / 3. A box far from the driver's counts as nothing."""
    far, moved = np.array([0.0, 60, 15, 75]), BOX + np.array([20.0, 0, 20, 0])
    finder = Counting(
        {
            "original": [detections(BOX), detections(far, BOX), detections(BOX), detections(far)],
            "obscured": [detections(BOX), detections(far), detections(), detections(BOX)],
            "written": [detections(BOX), detections(moved, far), detections(), detections(BOX)],
        }
    )
    row, document = run(pair, Outsider("counting", FinderDetector("counting", finder)), batch_size=4)
    columns = row["columns"]
    assert columns["original"]["frames"] == 4
    assert columns["original"]["detected"] == pytest.approx(3 / 4)
    assert columns["written"]["frames"] == 3
    assert columns["obscured"]["detected"] == pytest.approx(1 / 3)
    assert columns["written"]["detected"] == pytest.approx(2 / 3)
    assert columns["written"]["iou"] == pytest.approx((1 + 1 / 3) / 3)
    assert row["leakage"]["detected"] == pytest.approx(1 / 3)
    assert row["leakage"]["iou"] == pytest.approx((1 / 3) / 3)
    assert columns["written"]["nme"] is None
    assert row["blind"] == dict.fromkeys(("detected", "iou", "nme", "gaze_deg", "diff_score")), "it reads boxes alone"
    assert document["frames_looked_at"] == 4


class Told(GazeEstimator):
    """A gaze estimator that turns by an angle that depends on the video."""

    name = "told"

    def __init__(self):
        super().__init__({}, {})
        self.calls = 0
        self.degrees = {"original": 0.0, "obscured": 30.0, "written": 12.0}

    def estimate(self, images, landmarks, camera):
        column = ("original", "obscured", "written")[self.calls // 4]
        self.calls += 1
        angle = math.radians(self.degrees[column])
        return [(np.array([[math.sin(angle), 0, -math.cos(angle)]]), np.zeros((1, 2))) for _ in images]

    def objective(self, frames, windows, landmarks, gaze, camera):
        raise AssertionError

    def export_specs(self):
        return {}


def test_a_gaze_estimator_by_hand(pair):
    """30 degrees from its own reading when obscured, 12 when written: 18 leak. From the authorised one it is 60 off."""
    other = np.array([math.sin(math.radians(60)), 0, -math.cos(math.radians(60))])
    row, _ = run(pair, Outsider("told", Told()), authorised_gaze=other, batch_size=4)
    values = {column: figures["gaze_deg"] for column, figures in row["columns"].items()}
    assert values == pytest.approx({"original": 60, "obscured": 30, "written": 12})
    assert row["leakage"] == pytest.approx({"gaze_deg": 18})
    # its own reading of the original looks into the camera; the mean gaze is 1.2 degrees from there, the box's middle
    # half a pixel of 80
    assert row["blind"] == {"gaze_deg": pytest.approx(1.2, abs=0.5)}


def test_every_second_frame_only(pair):
    seen = []

    def find(image):
        seen.append(1)
        return detections(BOX)

    _, document = run(pair, Outsider("f", FinderDetector("f", find)), every=2)
    assert document["frames_looked_at"] == 2
    assert len(seen) == 6


def test_clips_that_do_not_belong_together(pair, tmp_path):
    short = make_clip(tmp_path / "s.mp4", [np.zeros((80, 80, 3), np.uint8)] * 3)
    small = make_clip(tmp_path / "t.mp4", [np.zeros((64, 80, 3), np.uint8)] * 4)
    outsider = Outsider("f", FinderDetector("f", lambda image: detections(BOX)))
    for other, word in ((short, "length"), (small, "80x64")):
        with pytest.raises(InputError, match=word):
            run((pair[0], other), outsider)


# ------------------------------------------------------------------------------------------------- the command


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    path = tmp_path_factory.mktemp("clip") / "driver.mp4"
    make_demo_clip(path, seconds=0.16, size=(320, 240))
    return path


@pytest.fixture(scope="module")
def obscured(clip, tmp_path_factory):
    """Obscured with settings that are not the defaults, and nothing embedded."""
    output = tmp_path_factory.mktemp("obscured") / "out.mkv"
    flags = ["--mask", "blur_14", "--region", "0,0,40,40", "--attack", "none", "--codec", "ffv1", "-q"]
    assert main(["deid", str(clip), "-o", str(output), *flags]) == 0
    return output


@pytest.mark.slow
def test_obscured_only_is_made_again_exactly(clip, obscured, tmp_path, capsys):
    """Where nothing was embedded and nothing lost, both columns are one video: every gap is exactly 0."""
    figures = tmp_path / "out.json"
    wanted = f"lbp-cascade,gaze-compact@{noisy(GAZE, tmp_path / 'g.safetensors')}"
    arguments = ["audit", str(clip), str(obscured), "--against", wanted, "--json", str(figures)]
    assert main([*arguments, "--allow-unknown-weights"]) == 0
    assert "What others can read" in capsys.readouterr().out
    document = json.loads(figures.read_text())
    own, lbp, gaze = document["models"]
    assert own["authorised"]
    assert own["columns"]["original"]["detected"] == 1
    for row in (own, lbp, gaze):
        assert row["columns"]["obscured"] == row["columns"]["written"]
        assert all(gap in (0, None) for gap in row["leakage"].values())
    assert gaze["columns"]["written"]["gaze_deg"] > 0.1
    assert "nothing follows for other models" in document["note"]
    # with another covering the two differ: the report's settings were used above
    assert main([*arguments, "--allow-unknown-weights", "--mask", "solid", "--overwrite"]) == 0
    assert any(
        row["columns"]["obscured"] != row["columns"]["written"] for row in json.loads(figures.read_text())["models"]
    )


def noisy(path: Path, target: Path, noise: float = 0.02) -> Path:
    """The same architecture with other weights: the released ones plus noise."""
    random = torch.Generator().manual_seed(1)
    state = {
        k: v + noise * v.std() * torch.randn(v.shape, generator=random) if v.ndim > 1 else v
        for k, v in load_file(path).items()
    }
    save_file(state, target)
    return target


@pytest.mark.parametrize(
    ("arguments", "code", "word"),
    [
        (["--against", "nobody"], 2, "nobody is unknown"),
        (["--against", "mtcnn"], 2, "authorised"),
        (["--against", "yunet@none.onnx"], 3, "no such file"),
        (["--recogniser", "none.onnx"], 3, "no such file"),
        (["--every", "0"], 2, "--every 0"),
        (["--far", "1"], 2, "--far 1"),
        (["--report", "none.json"], 3, "none.json: cannot be read"),
        (["--against", f"gaze-compact@{FAN}"], 5, "fan_compact"),
    ],
)
def test_what_cannot_be_used_is_said_in_a_sentence(clip, obscured, capsys, arguments, code, word):
    assert main(["audit", str(clip), str(obscured), *arguments]) == code
    assert word in " ".join(capsys.readouterr().err.split())


def test_the_report_of_another_clip_is_refused(clip, obscured, tmp_path, capsys):
    other = tmp_path / "other.mp4"
    other.write_bytes(clip.read_bytes() + b"\0")
    assert main(["audit", str(other), str(obscured)]) == 3
    assert "another original" in capsys.readouterr().err


@pytest.mark.slow
def test_obscured_only_has_its_heads_coded_as_the_file_has(clip, tmp_path, monkeypatch):
    output, coded = tmp_path / "out.mp4", []
    deidentify(clip, output, DeidSettings(attack="none", head_qp=-8))
    roundtrip = DeliveryCodec.roundtrip

    def watched(self, frames, pts_ticks=None, focus=None):
        coded.extend((self.settings.focus_qp, own) for own in focus or [None] * len(frames))
        return roundtrip(self, frames, pts_ticks, focus)

    monkeypatch.setattr(DeliveryCodec, "roundtrip", watched)
    assert main(["audit", str(clip), str(output), "--against", "lbp-cascade", "-q"]) == 0
    assert len(coded) == 4
    for qp, rects in coded:
        assert qp == -8
        ((x1, y1, x2, y2),) = rects
        assert x1 < 160 < x2
        assert y1 < 110 < y2


@pytest.mark.slow
def test_the_full_audit_and_repelling_are_in_the_report(clip, tmp_path, capsys):
    """A gaze estimator with other weights is repelled, is measured for it, and ends farther from its own reading than
    without; the authorised one still reads."""
    other = noisy(GAZE, tmp_path / "g.safetensors", 0.3)
    name = f"gaze-compact@{other}"
    found = {}
    # one step a frame moves a repelled model little
    plain = DeidSettings(codec="ffv1", effort="best", allow_unknown_weights=True, repel=("none",), audit="full")
    for label in ("plain", "repelled"):
        output = tmp_path / f"{label}.mkv"
        if label == "plain":
            deidentify(clip, output, plain)
        else:
            flags = ["--codec", "ffv1", "--effort", "best", "--allow-unknown-weights", "--repel", name]
            assert main(["deid", str(clip), "-o", str(output), *flags]) == 0
            assert "What others can read" in capsys.readouterr().out
        report = json.loads((tmp_path / f"{label}.mkv.report.json").read_text())
        names = [row["name"] for row in report["leakage"]["models"]]
        figures = tmp_path / f"{label}.json"
        arguments = ["audit", str(clip), str(output), "--against", name, "--json", str(figures), "-q"]
        assert main([*arguments, "--allow-unknown-weights"]) == 0
        row = json.loads(figures.read_text())["models"][1]
        found[label] = (report, names, row)
    report, names, row = found["plain"]
    assert "lbp-cascade" in names
    assert not row["repelled"]
    report, names, repelled = found["repelled"]
    assert names == ["authorised chain", name]
    assert report["leakage"]["models"][1]["repelled"]
    assert report["settings"]["repel"] == [name]
    assert repelled["repelled"]
    assert repelled["columns"]["written"]["gaze_deg"] > row["columns"]["written"]["gaze_deg"] + 3
    assert repelled["columns"]["written"]["gaze_deg"] > 7
    assert report["fidelity"]["recovered"]["gaze_deg"]["mean"] < 6
    # the audit of the file finds what the report says
    assert report["leakage"]["models"][1]["columns"] == repelled["columns"]


# ------------------------------------------------------------------------------------------------- kinds of models


@pytest.fixture(scope="module")
def models():
    return Models.load(VictimNames(), "cpu")


@pytest.mark.slow
def test_at_hand_are_those_that_are_not_authorised(models):
    found = outsiders_at_hand(models)
    assert "lbp-cascade" in found
    assert not {"mtcnn", "fan-compact", "gaze-compact"} & set(found)
    smaller = Models.load(VictimNames("mtcnn", None, None), "cpu")
    assert {"fan-compact", "gaze-compact"} <= set(outsiders_at_hand(smaller))


@pytest.mark.slow
def test_by_default_what_is_at_hand_is_repelled(clip, tmp_path, stored):
    """With weights of its own for gaze, the released ones are at hand and not authorised. MediaPipe's mesh is kept from
    reading though the chain has no mesh to keep it away from. Without a step nothing is repelled, and none is named."""
    stored("face_landmark_with_attention.tflite", "face_detection_short_range.tflite")
    output, own = tmp_path / "out.mkv", noisy(GAZE, tmp_path / "g.safetensors", 0.3)
    flags = ["--codec", "ffv1", "--allow-unknown-weights", "-q"]
    assert main(["deid", str(clip), "-o", str(output), "-z", f"gaze-compact@{own}", *flags]) == 0
    report = json.loads((tmp_path / "out.mkv.report.json").read_text())
    assert {"gaze-compact", "blazeface", "facemesh", "iris"} <= set(report["repelled"])
    assert not {"mtcnn", "fan-compact"} & set(report["repelled"])
    measured = {row["name"] for row in report["leakage"]["models"] if row["repelled"]}
    assert measured == set(report["repelled"])
    assert (
        main(["deid", str(clip), "-o", str(tmp_path / "fast.mkv"), "-z", "gaze-compact", "--effort", "fast", "-q"]) == 0
    )
    assert json.loads((tmp_path / "fast.mkv.report.json").read_text())["repelled"] == {}


@pytest.mark.slow
def test_what_can_be_repelled(models, tmp_path):
    other = noisy(FAN, tmp_path / "f.safetensors")
    assert list(repelled_victims([f"fan-compact@{other}", "none"], models, True)) == [f"fan-compact@{other}"]
    assert not any("cascade" in name for name in repelled_victims(["all"], models))
    with pytest.raises(UsageError, match="lbp-cascade"):
        repelled_victims(["lbp-cascade"], models)
    with pytest.raises(UsageError, match="authorised"):
        repelled_victims(["gaze-compact"], models)
    with pytest.raises(WeightsError, match="not in the catalogue"):
        repelled_victims([f"fan-compact@{other}"], models)


def test_an_exported_network_reads_as_its_torch_one(models, tmp_path):
    assert main(["export", "-z", "gaze-compact", "-o", str(tmp_path)]) == 0
    (path,) = tmp_path.glob("*.onnx")
    (outsider,) = named_outsiders([f"gaze-compact@{path}"], models).values()
    image = np.random.default_rng(0).integers(0, 255, (240, 320, 3)).astype(np.uint8)
    from victims.camera import FACE_MODEL_68, Camera

    camera = Camera.default(320, 240)
    points = (FACE_MODEL_68 + np.array([0, 0, 0.6])) @ camera.matrix.T
    landmarks = (points[:, :2] / points[:, 2:])[None]
    expected = models.torch_chain.gaze.estimate([image], [landmarks], camera)[0][0]
    np.testing.assert_allclose(outsider.victim.estimate([image], [landmarks], camera)[0][0], expected, atol=1e-4)
    with pytest.raises(InputError, match="not the form of fan-compact"):
        named_outsiders([f"fan-compact@{path}"], models)
    with pytest.raises(UsageError, match="several networks"):
        named_outsiders([f"mtcnn@{path}"], models)


def constants(path: Path, scores, boxes) -> Path:
    """A detector that answers the same to every picture of 32x24."""
    nodes = [
        helper.make_node(
            "Constant",
            [],
            ["scores"],
            value=helper.make_tensor("s", TensorProto.FLOAT, [1, len(scores), 2], np.ravel(scores)),
        ),
        helper.make_node(
            "Constant",
            [],
            ["boxes"],
            value=helper.make_tensor("b", TensorProto.FLOAT, [1, len(boxes), 4], np.ravel(boxes)),
        ),
    ]
    inputs = [helper.make_tensor_value_info("input", TensorProto.FLOAT, [1, 3, 24, 32])]
    outputs = [
        helper.make_tensor_value_info("scores", TensorProto.FLOAT, [1, len(scores), 2]),
        helper.make_tensor_value_info("boxes", TensorProto.FLOAT, [1, len(boxes), 4]),
    ]
    save(path, helper.make_graph(nodes, "g", inputs, outputs))
    return path


def save(path: Path, graph) -> None:
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)


def test_an_ultraface_detector(models, tmp_path):
    """Corners in shares of the picture's size; the second box is suppressed by the first, the third is unlikely."""
    scores = [[0.05, 0.95], [0.2, 0.8], [0.9, 0.1], [0.25, 0.75]]
    boxes = [[0.1, 0.2, 0.5, 0.6], [0.12, 0.2, 0.52, 0.6], [0, 0, 1, 1], [0.7, 0.7, 0.9, 0.9]]
    path = constants(tmp_path / "u.onnx", scores, boxes)
    (outsider,) = named_outsiders([f"ultraface@{path}"], models).values()
    (found,) = outsider.victim.detect([np.zeros((100, 200, 3), np.uint8)])
    np.testing.assert_allclose(found.boxes, [[20, 20, 100, 60], [140, 70, 180, 90]], atol=1e-4)
    np.testing.assert_allclose(found.scores, [0.95, 0.75], atol=1e-6)
    with pytest.raises(InputError, match="FaceDetectorYN"):
        named_outsiders([f"yunet@{path}"], models)


def test_every_reader_is_what_the_table_says():
    """Its role; and a file that is missing is named."""
    loaded = []
    for name, spec in READERS.items():
        if spec.file == "must":
            with pytest.raises(InputError, match=f"{name}@none.onnx: there is no such file"):
                spec.load(Path("none.onnx"), False)
            continue
        with contextlib.suppress(WeightsError):  # of models that are not installed here
            assert spec.load(None, False).role == spec.role
            loaded.append(name)
    assert {"mtcnn", "fan-compact", "gaze-compact", "lbp-cascade"} <= set(loaded)
    with pytest.raises(UsageError, match="lbp-cascade@x is unknown"):
        find_reader("lbp-cascade@x", "--against")


def test_a_cascade_in_the_place_of_a_detector_cannot_be_attacked(models):
    (outsider,) = named_outsiders(["lbp-cascade"], models).values()
    with pytest.raises(UsageError, match="no gradient"):
        outsider.victim.objective([], [], np.zeros((0, 4)))
    assert load_detector("mtcnn").role == outsider.role
