"""What ONNX Runtime leaves behind when it reports to its makers: a mark of the session, and a number for the device."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT

LOADS = """
from export.session import authorised
from victims.registry import load_detector
authorised(load_detector("mtcnn"))
"""


def left_by(code: str, folder: Path) -> list[str]:
    """Marks of ONNX Runtime's that `code` leaves in a home and a folder for temporary files of its own."""
    # in a build farm ONNX Runtime reports nothing, and the test would see nothing
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("ORT_", "CI", "GITHUB_"))}
    home, temporary = folder / "home", folder / "temporary"
    home.mkdir(parents=True)
    temporary.mkdir()
    places = {"HOME": str(home), "TMPDIR": str(temporary), "XDG_CACHE_HOME": str(home / "cache")}
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environment | places, check=True)
    return sorted(p.name for p in folder.rglob("*") if p.name == ".ses" or "onnxruntime" in p.name.lower())


@pytest.mark.slow
@pytest.mark.parametrize("code", ["import drsf_cli, onnxruntime", LOADS])
def test_nothing_is_told_to_anybody(code: str, tmp_path: Path) -> None:
    if left_by("import onnxruntime", tmp_path / "without") == []:
        pytest.skip("this build of ONNX Runtime reports nothing")
    assert left_by(code, tmp_path / "with") == []
