"""What a run is made of, as its settings have it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from attacks import names
from attacks.codec import CODECS
from attacks.effort import EffortName
from drsf_cli.deid.work import Work
from drsf_cli.settings import DeidSettings, VictimNames
from tests.clips import make_clip
from weights.errors import UsageError


@pytest.mark.parametrize(("effort", "steps", "batch"), [("fast", 0, 8), ("normal", 0, 8), ("best", 5, 1)])
def test_an_effort_says_how_many_steps_and_frames_at_once(
    effort: EffortName, steps: int, batch: int, tmp_path: Path
) -> None:
    clip = make_clip(tmp_path / "grey.mp4", [np.full((64, 64, 3), 128, np.uint8)] * 2)
    work = Work.on(clip, DeidSettings(effort=effort, repel=("none",)))
    attack = work.settings.attack_settings
    assert attack is not None
    assert (attack.method, attack.steps, work.settings.frames_at_once) == ("sgd", steps, batch)
    assert DeidSettings(effort=effort, batch_size=3).frames_at_once == 3


def test_a_mesh_takes_more_steps() -> None:
    own, other = DeidSettings(), DeidSettings(victims=VictimNames.of_chain("mediapipe"))
    assert own.attack_settings is not None
    assert other.attack_settings is not None
    assert other.attack_settings.steps > own.attack_settings.steps
    drawn = DeidSettings(victims=VictimNames.of_chain("mediapipe"), effort="fast")
    assert not drawn.takes_steps


def test_what_can_be_completed_is_what_there_is() -> None:
    assert tuple(CODECS) == names.CODECS


def test_a_rule_of_steps_goes_with_steps() -> None:
    named = DeidSettings(effort="normal", attack="mi-fgsm").attack_settings
    assert named is not None
    assert (named.method, named.steps) == ("mi-fgsm", 3)
    assert DeidSettings(effort="fast", attack="none").attack_settings is None
    with pytest.raises(UsageError, match=r"attack \(--attack\): .*rule of steps; effort fast takes none"):
        DeidSettings(effort="fast", attack="mi-fgsm")
    with pytest.raises(UsageError, match="effort"):
        DeidSettings(effort="slow")  # type: ignore[arg-type]
