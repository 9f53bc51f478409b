"""What the commands do with MediaPipe's chain and with RetinaFace, once their weights are here."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from drsf_cli.app import main
from drsf_cli.media.demo_clip import make_demo_clip
from drsf_cli.readers import checkup
from victims.chains import CHAINS
from victims.mediapipe.blazeface import MODELS
from victims.mediapipe.facemesh import FILE
from victims.mediapipe.topology import landmarks_68

pytestmark = pytest.mark.slow

FILES = (*(model.file for model in MODELS.values()), FILE)


def test_doctor_finds_what_was_pulled(stored: Callable[..., None], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkup, "cuda_problem", lambda: "none here")
    stored(*FILES, "retinaface_mobilenet0.25.pth")
    usable = {check.name for check in checkup.examine() if check.kind == "victim" and check.usable}
    assert usable >= {"retinaface", "blazeface", "blazeface-full", "facemesh", "iris", *CHAINS["default"]}


def test_infer_writes_the_mesh_when_it_is_asked_for(stored: Callable[..., None], tmp_path: Path) -> None:
    stored(*FILES)
    clip = make_demo_clip(tmp_path / "demo.mp4", seconds=0.08)
    read = []
    for name, flags in (("plain", []), ("whole", ["--mesh"])):
        file = tmp_path / f"{name}.json"
        command = ["infer", str(clip), "-o", str(file), "--chain", "mediapipe", "--backend", "torch", "-q"]
        assert main([*command, *flags]) == 0
        read.append(json.loads(file.read_text()))
    plain, whole = read
    assert len(plain) == len(whole) == 2
    for short, long in zip(plain, whole, strict=True):
        assert "mesh" not in short
        mesh = np.array(long.pop("mesh"))
        assert mesh.shape == (478, 3)
        np.testing.assert_allclose(landmarks_68(mesh), long["landmarks"], atol=0.01)
        assert long == short, "nothing else differs"
        assert np.linalg.norm(long["gaze_vector"]) == pytest.approx(1.0, abs=1e-3)


def test_the_chain_is_exported(stored: Callable[..., None], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Which checks each file against torch, and fails where one differs."""
    stored(*FILES)
    assert main(["export", "--chain", "mediapipe", "-o", str(tmp_path / "out"), "-q"]) == 0
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert {name.split("_")[0] for name in names} == {"blazeface", "facemesh", "iris"}
    assert main(["export", "-d", "blazeface-full", "-o", str(tmp_path / "full"), "-q"]) == 0
    assert [path.suffix for path in (tmp_path / "full").iterdir()] == [".onnx"]
