"""Blinks and glances of a clip whose truth is known, read by the default models."""

from __future__ import annotations

import numpy as np
import pytest

from drsf_cli import Models, VictimNames, infer, signals
from drsf_cli.measure.signals import Signals
from tests.behaviour_clip import ROAD, TWENTY_SECONDS, ZONES, Behaviour, Glance, against_truth, make_behaviour_clip

pytestmark = pytest.mark.slow

SHORT = Behaviour(3.2, (0.6, 2.6), (Glance(1.2, 2.0, "left"),))


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Signals:
    clip = make_behaviour_clip(tmp_path_factory.mktemp("clip") / "clip.mp4", SHORT)
    return signals(infer(clip, Models.load(VictimNames(), "cpu", False)))


def test_blinks_and_glances_are_told_as_they_were_drawn(table: Signals) -> None:
    assert len(table) == 80
    found = against_truth(table, SHORT)
    assert found["blinks_f1"] == 1
    assert found["glances_f1"] == 1
    assert found["glance_difference_s"] <= 0.04 + 1e-9
    assert found["zones_kappa"] > 0.9
    assert abs(np.median(table.yaw_deg[table.frame_id < 25])) < 8
    assert table.yaw_deg[40] == pytest.approx(ZONES["left"][0], abs=10)


def test_the_long_clip_does_what_it_says() -> None:
    assert (len(TWENTY_SECONDS.blinks), len(TWENTY_SECONDS.glances)) == (12, 8)
    assert [TWENTY_SECONDS.closing(2.1 + offset) for offset in (-0.13, 0, 0.03, 0.2)] == [0, 1, 1, 0]
    assert TWENTY_SECONDS.gaze(0.5) == ROAD
    assert TWENTY_SECONDS.gaze(3.0) == pytest.approx(ZONES["left"])
    assert TWENTY_SECONDS.gaze(2.52) == pytest.approx(((ROAD[0] - 34) / 2, (ROAD[1] + 8) / 2))
    assert [TWENTY_SECONDS.zone(time) for time in (2.5, 2.52, 3.1, 3.12)] == ["road", "left", "left", "road"]
    first = TWENTY_SECONDS.until(4.6)
    assert (first.seconds, first.blinks) == (4.6, (0.6, 2.1, 3.4))
    assert [glance.zone for glance in first.glances] == ["mirror", "left"], "the saccade back from the third is cut off"
