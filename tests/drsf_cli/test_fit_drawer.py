"""`drsf weights fit`: a drawer for a chain of one's own."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from attacks.drawer import load_drawer
from attacks.fitting.faces import read_faces
from drsf_cli.app import main
from drsf_cli.media.demo_clip import demo_frames
from drsf_cli.readers.fit import chain_of, fit_drawer
from drsf_cli.settings import DeidSettings, VictimNames
from victims import registry
from victims.observe import Observer
from weights.errors import InputError, OutputError, UsageError


@pytest.fixture(scope="module")
def faces(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("faces")
    for number, frame in enumerate(demo_frames(seconds=1.8, fps=25)):
        Image.fromarray(frame).save(folder / f"{number:03}.jpg", quality=95)
    Image.new("RGB", (320, 240)).save(folder / "nobody.png")
    return folder


def test_chains_by_name_and_by_their_parts() -> None:
    assert chain_of("hcmus") == VictimNames("retinaface", "fan", "eth-xgaze")
    assert chain_of("mtcnn + fan-compact + none") == VictimNames("mtcnn", "fan-compact", None)
    for wrong in ("ours", "mtcnn+fan", "mtcnn++gaze-compact", ""):
        with pytest.raises(UsageError, match="DETECTOR"):
            chain_of(wrong)


def test_faces_are_what_the_chain_reads(faces: Path) -> None:
    """As the reader itself says of each picture; the one without a face is left out."""
    chain = Observer(
        registry.load_detector("mtcnn"),
        registry.load_aligner_named("fan-compact"),
        registry.load_gaze_named("gaze-compact"),
    )
    pictures = [np.asarray(Image.open(path)) for path in sorted(faces.iterdir())[-4:]]
    rows, found = read_faces(pictures, chain)
    assert rows.tolist() == [0, 1, 2]
    for row in rows:
        (seen,) = chain.observe([_Still(row, pictures[row])])
        face = seen.faces[0]
        np.testing.assert_allclose(found.boxes[row], face.box, atol=1e-3)
        np.testing.assert_allclose(found.landmarks[row], face.landmarks, atol=1e-2)
        np.testing.assert_allclose(found.gaze_angles[row], face.gaze_angle, atol=1e-3)


class _Still:
    pts = 0.0

    def __init__(self, index: int, image: np.ndarray) -> None:
        self.index, self.image = index, image


@pytest.mark.slow
def test_what_is_fitted_can_be_used(faces: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A tenth of a minute changes the weights, and leaves nothing else behind."""
    output = tmp_path / "ours.safetensors"
    arguments = ["weights", "fit", "default", "--data", str(faces), "-o", str(output), "--minutes", "0.1"]
    assert main(arguments) == 0
    assert [path.name for path in tmp_path.iterdir()] == [output.name]
    printed = capsys.readouterr().out
    assert "found" in printed
    assert "before" in printed
    with pytest.raises(Exception, match="not in the catalogue"):
        load_drawer("mtcnn", output)
    own, bundled = load_drawer("mtcnn", output, allow_unknown=True), load_drawer("mtcnn")
    changes = [
        float((a - b).abs().max()) for a, b in zip(own.network.parameters(), bundled.network.parameters(), strict=True)
    ]
    assert 0.0 < max(changes) < 0.5
    assert DeidSettings(drawer=output, allow_unknown_weights=True).drawer == output
    assert main(arguments) == 4
    assert "exists already" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("given", "error", "words"),
    [
        ({"chain": "ours"}, UsageError, "DETECTOR"),
        ({"minutes": 0.0}, UsageError, "--minutes 0 is out of range"),
        ({"minutes": float("nan")}, UsageError, "--minutes nan is out of range"),
        ({"repel": ("nothing",)}, UsageError, "--repel nothing is unknown: use one of mtcnn"),
        ({"repel": ("mtcnn",)}, UsageError, "--repel mtcnn is authorised"),
        (
            {"chain": "mtcnn+fan-compact+none", "repel": ("gaze-compact",)},
            UsageError,
            "--repel gaze-compact is no detector or aligner",
        ),
        ({"data": Path("nowhere")}, InputError, "--data nowhere is not a folder"),
        ({"output": Path("nowhere/out.safetensors")}, OutputError, "nowhere is not a folder"),
        ({}, InputError, "shows 0 faces where 40 or more are needed"),
    ],
)
def test_wrong_input_is_one_sentence(given: dict, error: type[Exception], words: str, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    arguments = {"chain": "default", "data": tmp_path / "empty", "output": tmp_path / "out.safetensors", **given}
    with pytest.raises(error, match=words):
        fit_drawer(**arguments)
    assert not (tmp_path / "out.safetensors").exists()
