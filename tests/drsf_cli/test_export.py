"""`drsf export`: what it writes, prints and refuses."""

from __future__ import annotations

import re
from pathlib import Path

import onnx
import pytest

from drsf_cli.app import main
from drsf_cli.readers.export import export_victims
from tests.drsf_cli.many import Steps
from victims.registry import VICTIMS


def test_one_file_a_network_and_a_table_of_parity(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["export", "-d", "MTCNN", "-z", "gaze-compact", "-o", str(tmp_path / "out")]) == 0
    files = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert files == ["gaze-compact_gaze.onnx", "mtcnn_onet.onnx", "mtcnn_pnet.onnx", "mtcnn_rnet.onnx"]
    printed = capsys.readouterr().out
    for name in files:
        onnx.checker.check_model(onnx.load(tmp_path / "out" / name))
        (row,) = (line for line in printed.splitlines() if name in line)
        relative, limit = (float(text) for text in re.findall(r"\de-\d\d", row)[-2:])
        assert relative <= limit == 1e-4


@pytest.mark.slow
def test_it_tells_how_far_it_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Also of the victims that are left out; and in no terminal there is nothing but the table."""
    steps = Steps()
    rows, left_out = export_victims(tmp_path / "out", {}, everything=True, progress=steps)
    assert steps.told == [["Exporting", len(VICTIMS), len(VICTIMS)]]
    assert left_out
    assert {path.name for path in (tmp_path / "out").iterdir()} == {row.path.name for row in rows}
    assert main(["export", "-z", "gaze-compact", "-o", str(tmp_path / "quiet"), "--quiet"]) == 0
    assert capsys.readouterr() == ("", "")


@pytest.mark.slow
def test_all_names_what_is_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["export", "--all", "--fp16", "-o", str(tmp_path / "out")]) == 0
    exported = {path.name.split("_")[0] for path in (tmp_path / "out").iterdir()}
    assert exported == {"mtcnn", "fan-compact", "gaze-compact"}
    captured = capsys.readouterr()
    assert "1e-02" in captured.out
    for name in set(VICTIMS) - exported:
        file_of = "facemesh" if name == "iris" else name  # iris reads facemesh's mesh
        assert f"drsf weights pull {file_of}`" in captured.err


@pytest.mark.parametrize(
    ("flags", "code", "says"),
    [
        ([], 2, "name victims with --chain, -d, -a or -z, or give --all"),
        (["--all", "-d", "mtcnn"], 2, "not both"),
        (["-d", "fan"], 2, "-d: 'fan' is an aligner model, not detector; use one of mtcnn"),
        (["-a", "fan"], 5, "drsf weights pull fan"),
        (["-z", "gaze-compact", "--opset", "3"], 1, "cannot be exported with opset 3"),
    ],
)
def test_refusals_leave_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], flags: list[str], code: int, says: str
) -> None:
    assert main(["export", *flags, "-o", str(tmp_path / "out")]) == code
    assert says in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
