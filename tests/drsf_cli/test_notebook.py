"""docs/demo.ipynb runs top to bottom, and what is committed of it shows nobody and no machine."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import nbformat
import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "docs"))

from make import NOTEBOOK, PICTURE, run_notebook  # noqa: E402

pytestmark = pytest.mark.slow


@pytest.mark.timeout(600)
def test_it_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    notebook = run_notebook(NOTEBOOK, tmp_path)
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    text = "".join(output.get("text", "") for output in outputs)
    assert "audit passed: True" in text
    assert "6 frames compared, 0 missed" in text
    gaze = re.search(r"gaze: ([\d.]+)° in the mean", text)
    assert gaze is not None
    assert float(gaze[1]) < 20
    missed = re.search(r"(\d) of 6 frames missed", text)
    assert missed is not None
    assert int(missed[1]) >= 4, "obscuring alone leaves little"
    kinds = {kind for output in outputs for kind in output.get("data", {})}
    assert {"image/png", "image/jpeg"} <= kinds
    assert list(tmp_path.iterdir()) == [], "it cleans up"


def test_what_is_committed_has_outputs_and_no_paths() -> None:
    text = NOTEBOOK.read_text("utf-8")
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbformat.validate(notebook)
    assert any(cell.get("outputs") for cell in notebook.cells)
    assert not re.search(r"/(home|root|tmp|work|usr|Users)/|site-packages", json.dumps(json.loads(text)))


def test_the_picture_is_small() -> None:
    assert PICTURE.stat().st_size < 200_000
