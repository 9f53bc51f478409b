"""What a run writes does not depend on how many cores it works on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from attacks.effort import EffortName
from drsf_cli.deid.pipeline import deidentify
from drsf_cli.media.demo_clip import make_demo_clip
from drsf_cli.readers.models import Models
from drsf_cli.settings import DeidSettings

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module", autouse=True)
def sums_on_one_thread() -> Any:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("effort", ["fast", "normal"])
def test_the_same_file_and_report_on_one_core_and_on_three(effort: EffortName, tmp_path: Path) -> None:
    clip = make_demo_clip(tmp_path / "driver.mp4", seconds=0.2, size=(160, 120))
    written, reports = [], []
    for threads in (1, 3):
        settings = DeidSettings(device="cpu", threads=threads, effort=effort)
        output = tmp_path / "out.mp4"
        document: dict[str, Any] = dict(deidentify(clip, output, settings, models=Models.of(settings)))
        written.append(output.read_bytes())
        document["settings"]["threads"] = None
        reports.append({key: value for key, value in document.items() if key != "cost"})
        for file in tmp_path.glob("out*"):
            file.unlink()
    assert written[0] == written[1]
    assert reports[0] == reports[1]
