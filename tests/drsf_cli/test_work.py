"""What a run is made of, as its settings have it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from drsf_cli.deid.work import Work
from drsf_cli.settings import DeidSettings
from tests.clips import make_clip


@pytest.mark.parametrize(
    ("settings", "steps", "passes"),
    [
        (DeidSettings(repel=("none",)), 3, 11.9),
        (DeidSettings(codec="ffv1", repel=("none",)), 6, None),
        (DeidSettings(warm_iter=1, repel=("none",)), 1, None),
        (DeidSettings(codec="ffv1", warm_iter=2, repel=("none",)), 2, None),
    ],
)
def test_frames_that_start_warm_take_what_their_passes_allow_unless_it_is_said(
    settings: DeidSettings, steps: int, passes: float | None, tmp_path: Path
) -> None:
    clip = make_clip(tmp_path / "grey.mp4", [np.full((64, 64, 3), 128, np.uint8)] * 2)
    work = Work.on(clip, settings)
    assert work.plan.attack is not None
    allowance = work.allowance()
    assert work.embedder(work.plan.attack, None, allowance).warm_steps == steps
    assert (None if allowance is None else allowance.mean) == passes
