"""What a run is made of, as its settings have it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from drsf_cli.settings import DeidSettings, VictimNames
from drsf_cli.work import Work
from tests.clips import make_clip

DETECTOR_ONLY = VictimNames(aligner=None, gaze=None)


@pytest.mark.parametrize(
    ("settings", "steps"),
    [
        (DeidSettings(repel=("none",)), 4),  # 12 passes, 3 victims
        (DeidSettings(victims=VictimNames(gaze=None), repel=("none",)), 6),
        (DeidSettings(victims=DETECTOR_ONLY, repel=("fan-compact", "gaze-compact")), 4),
        (DeidSettings(victims=VictimNames(gaze=None), repel=("gaze-compact",)), 4),
        (DeidSettings(codec="ffv1", repel=("none",)), 6),
        (DeidSettings(warm_iter=1, repel=("none",)), 1),
    ],
)
def test_frames_that_start_warm_take_what_their_passes_allow(
    settings: DeidSettings, steps: int, tmp_path: Path
) -> None:
    clip = make_clip(tmp_path / "grey.mp4", [np.full((64, 64, 3), 128, np.uint8)] * 2)
    work = Work.on(clip, settings)
    assert work.plan.attack is not None
    assert work.embedder(work.plan.attack, None).warm_steps == steps


def test_repelled_models_leave_three_steps_at_least(tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "grey.mp4", [np.full((64, 64, 3), 128, np.uint8)] * 2)
    work = Work.on(clip, DeidSettings(repel=("none",)))
    work.repelled = dict.fromkeys(("one", "another"), work.models.torch_chain.detector)
    assert work.plan.attack is not None
    assert work.embedder(work.plan.attack, None).warm_steps == 3  # 12 passes among 5 would be 2
