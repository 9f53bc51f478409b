"""Behaviour before and after, against numbers worked out by hand and against scipy and numpy."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import scipy.stats

from drsf_cli.app import main
from drsf_cli.measure.agreement import cohens_kappa, match_times
from drsf_cli.measure.behaviour import Behaviour, behaviour, figure_rows, pooled
from drsf_cli.measure.bootstrap import interval
from drsf_cli.measure.evaluation import evaluate_files
from drsf_cli.measure.glances import load_zones
from drsf_cli.measure.records import write_observations
from tests.drsf_cli.readings import clip, face
from victims.face import FrameObservation

ZONES = load_zones()


def compare(first: list[FrameObservation], second: list[FrameObservation]) -> Behaviour:
    return behaviour(first, second, ZONES)


def of(found: Behaviour, key: str) -> tuple[float | None, float | None, float | None]:
    figure = found[key]
    return figure.original, figure.recovered, figure.agreement


# ---------------------------------------------------------------------------------------------------- agreement


def test_kappa_by_hand() -> None:
    """Of 50: 20 and 15 agreed, 0.7; by chance 0.5 * 0.6 + 0.5 * 0.4 = 0.5: kappa 0.2 / 0.5."""
    assert float(cohens_kappa(np.array([[20.0, 5], [10, 15]]))) == pytest.approx(0.4)
    assert float(cohens_kappa(np.array([[0.0, 9], [9, 0]]))) == pytest.approx(-1)
    assert np.isnan(cohens_kappa(np.array([[9.0, 0], [0, 0]])))


def test_times_are_matched_one_to_one() -> None:
    assert match_times([1.0, 2.0, 3.0], [1.1, 1.05, 2.2, 3.1], 0.1) == [(0, 0), (2, 3)]
    assert match_times([1.0, 1.1], [1.05, 1.15], 0.1) == [(0, 0), (1, 1)]
    assert match_times([], [1.0], 0.1) == []


def test_continuous_figures_are_numpys_and_scipys() -> None:
    rng = np.random.default_rng(5)
    yaw, pitch, eyes, mouth = (
        np.stack([base := rng.normal(middle, spread, 60), base + rng.normal(0, spread / 3, 60)])
        for middle, spread in ((0, 8), (8, 4), (0.3, 0.03), (0.2, 0.05))
    )
    readings = [
        clip([face(*values) for values in zip(eyes[k], zip(yaw[k], pitch[k], strict=True), mouth[k], strict=True)])
        for k in (0, 1)
    ]
    found = compare(*readings)
    for name, values in (("yaw_deg", yaw), ("pitch_deg", pitch), ("eye_openness", eyes), ("mouth_openness", mouth)):
        assert found[f"{name}_correlation"].agreement == pytest.approx(
            scipy.stats.pearsonr(*values).statistic, abs=1e-9
        )
        assert found[f"{name}_difference"].agreement == pytest.approx(np.abs(values[0] - values[1]).mean())
        jitter = [float(np.abs(np.diff(one, 2)).mean()) for one in values]
        assert of(found, f"{name}_jitter") == pytest.approx((*jitter, jitter[1] - jitter[0]))


def test_a_steady_turn_has_no_jitter_and_a_trembling_one_has() -> None:
    """Yaw 0, 1, 0, 1, ...: second differences are 2. The lost frame 10 leaves out the three triples it is in."""
    steady = clip([face(gaze=(i, 10)) for i in range(20)])
    trembling = clip([None if i == 10 else face(gaze=(i % 2, 10)) for i in range(20)])
    assert of(compare(steady, trembling), "yaw_deg_jitter") == pytest.approx((0, 2, 2), abs=1e-9)


# ---------------------------------------------------------------------------------------------------- events


def blinking(*starts: int, count: int = 300) -> list[FrameObservation]:
    """Blinks of 5 frames, 0.2 s."""
    shut = {start + i for start in starts for i in range(5)}
    return clip([face(0.09 if i in shut else 0.3) for i in range(count)])


def test_blinks_count_where_their_middles_are_within_100_ms() -> None:
    """Moved by 2 frames, 0.08 s: found. By 3, 0.12 s: missed and made up. F1 = 2 * 2 / (2 * 2 + 2 + 2)."""
    found = compare(blinking(20, 80, 140, 200), blinking(20, 82, 143, 250))
    assert of(found, "blinks_f1") == (4, 4, pytest.approx(0.5))
    assert of(compare(blinking(20), blinking()), "blinks_f1") == (1, 0, 0)


def test_glances_are_counted_as_nhtsa_counts() -> None:
    """25 frames/s. Left for 20 frames (0.8 s) and lap for 60 (2.4 s): mean 1.6 s, half over 2 s, 3.2 s off the road.
    In the other reading the second ends 15 frames earlier."""

    def looks(end: int) -> list[FrameObservation]:
        gaze = [(-40, 8) if 50 <= i < 70 else (0, -30) if 100 <= i < end else (0, 10) for i in range(200)]
        return clip([face(gaze=one) for one in gaze])

    found = compare(looks(160), looks(145))
    assert of(found, "glances") == (2, 2, 0)
    assert of(found, "glance_mean") == pytest.approx((1.6, 1.3, -0.3))
    assert of(found, "glances_long") == (50, 0, -50)
    assert of(found, "eyes_off_road") == pytest.approx((3.2, 2.6, -0.6))
    assert found["glance_difference"].agreement == pytest.approx(0.3)
    assert found.zones == ("lap", "road", "left")
    assert found.confusion.tolist() == [[45, 15, 0], [0, 120, 0], [0, 0, 20]]
    # agreed 185 of 200; by chance (60 * 45 + 120 * 135 + 20 * 20) / 200² = 0.4825
    assert found["zones_kappa"].agreement == pytest.approx((0.925 - 0.4825) / (1 - 0.4825))


def test_perclos_and_yawns_before_and_after() -> None:
    """10 frames/s for 60 s: shut for 6 s, 10 %; in the other reading for 3 s. One yawn of 3 s, which is lost."""

    def tired(shut: int, yawn: int) -> list[FrameObservation]:
        faces = [face(0.06 if 100 <= i < 100 + shut else 0.3, mouth=0.7 if i < yawn else 0.1) for i in range(600)]
        return clip(faces, fps=10)

    found = compare(tired(60, 30), tired(30, 15))
    assert of(found, "perclos") == pytest.approx((10, 5, -5))
    assert of(found, "yawns") == (1, 0, -1)


# ---------------------------------------------------------------------------------------------------- intervals


def test_the_interval_is_scipys_over_blocks() -> None:
    """20 s at 50 rows/s of noise that lasts: the mean over rows is the mean over seconds, so scipy can draw seconds."""
    rng = np.random.default_rng(2)
    values = np.convolve(rng.standard_normal(1024), np.ones(25) / 5, "valid")
    times = np.arange(1000) / 50
    found = interval(
        np.stack([np.ones(1000), values], axis=1), times, lambda sums: np.asarray(sums[..., 1] / sums[..., 0])
    )
    seconds = values.reshape(20, 50).mean(axis=1)
    wanted = scipy.stats.bootstrap((seconds,), np.mean, method="percentile", n_resamples=20_000, rng=0)
    assert found == pytest.approx(tuple(wanted.confidence_interval), abs=0.1)
    alone = scipy.stats.bootstrap((values,), np.mean, method="percentile", n_resamples=2000, rng=0).confidence_interval
    assert found is not None
    assert found[1] - found[0] > 2 * (alone.high - alone.low), "rows drawn one by one would look too sure"


def test_a_clip_too_short_for_blocks_has_no_interval() -> None:
    rows = np.ones((225, 2))
    assert interval(rows, np.arange(225) / 25, lambda sums: np.asarray(sums[..., 1] / sums[..., 0])) is None
    assert compare(blinking(20), blinking(20))["blinks_f1"].interval == (1, 1)


# ---------------------------------------------------------------------------------------------------- reasons


def test_what_cannot_be_had_says_why() -> None:
    found = compare(clip([face(None, None)] * 30), clip([face()] * 30))
    assert found["yaw_deg_correlation"].reason == "no gaze in the original"
    assert found["mouth_openness_jitter"].reason == "no landmarks of the mouth in the original"
    assert found["zones_kappa"].reason == "no gaze in the original"
    same = compare(clip([face()] * 30), clip([face()] * 30))
    assert same["yaw_deg_correlation"].reason == "gaze yaw does not vary"
    assert same["blinks_f1"].reason == "no blink in either"
    assert same["zones_kappa"].reason == "both stay in one zone throughout"
    assert same["perclos"].reason == "needs a minute that is mostly read in both"
    assert same["glance_mean"].reason == "no glance in one of them"
    assert of(same, "eyes_off_road") == (0, 0, 0)
    for one in (found, same):
        assert all((figure.agreement is None) == (figure.reason is not None) for figure in one.figures)


def test_figures_as_people_read_them() -> None:
    rows = {row.title: row for row in figure_rows(compare(blinking(20, 80), blinking(20)))}
    assert rows["Blinks: F1 within 100 ms"].numbers == ("2", "1", "0.667")
    assert rows["Total eyes-off-road time"].numbers == ("0.00 s", "0.00 s", "+0.00 s")
    assert rows["Gaze yaw: correlation"].numbers == ("–", "–", "–")
    assert rows["Gaze yaw: correlation"].reason == "gaze yaw does not vary"


def test_times_of_one_reading_serve_both() -> None:
    untimed = [FrameObservation(one.index, float("nan"), one.faces) for one in blinking(20, 80)]
    assert of(compare(blinking(20, 80), untimed), "blinks_f1") == (2, 2, 1)
    assert compare(untimed, untimed)["blinks_f1"].reason == "the original's frames have no times that rise"


def test_several_clips_are_averaged() -> None:
    blink, none = compare(blinking(20), blinking(20)), compare(blinking(), blinking())
    half = compare(blinking(20, 80, 140), blinking(20))
    found = pooled([blink, none, half])
    assert of(found, "blinks_f1") == (pytest.approx(4 / 3), pytest.approx(2 / 3), pytest.approx(0.75))
    assert found["perclos"].reason == "no clip has it"
    assert found.confusion.tolist() == [[900]]


@pytest.mark.parametrize("kind", ["no gaze", "five frames", "no face", "one frame"])
def test_eval_prints_dashes_with_reasons_and_exits_with_0(
    kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    faces = {
        "no gaze": [face(gaze=None)] * 40,
        "five frames": [face()] * 5,
        "no face": [None] * 20,
        "one frame": [face()],
    }
    write_observations(tmp_path / "a.json", clip(faces[kind]))
    write_observations(tmp_path / "b.json", clip(faces[kind]))
    files = [str(tmp_path / name) for name in ("a.json", "b.json")]
    assert main(["eval", *files, "--json", str(tmp_path / "all.json")]) == 0
    said = capsys.readouterr().out
    assert "Behaviour" in said
    figures = json.loads((tmp_path / "all.json").read_text())["behaviour"]["figures"]
    wanted = {
        "no gaze": ("yaw_deg_correlation", "no gaze in the original"),
        "five frames": ("zones_kappa", "needs 10 frames, and 5 can be compared"),
        "no face": ("eye_openness_difference", "no landmarks of the eyes in the original"),
        "one frame": ("blinks_f1", "the original's frames have no times that rise"),
    }
    key, reason = wanted[kind]
    assert (figures[key]["agreement"], figures[key]["reason"]) == (None, reason)
    for row in figure_rows(evaluate_files(*files).behaviour):
        assert (row.numbers[2] == "–") == bool(row.reason)


@pytest.mark.slow
def test_eval_takes_zones_and_folders(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        for name in ("one.json", "two.json"):
            write_observations(tmp_path / folder / name, blinking(20, 80))
    summary = tmp_path / "all.json"
    command = ["eval", str(tmp_path / "a"), str(tmp_path / "b"), "--json", str(summary)]
    assert main([*command, "--zones", "a-pillar-rhd"]) == 0
    found = json.loads(summary.read_text())
    assert found["behaviour"]["figures"]["blinks_f1"]["agreement"] == 1
    assert found["behaviour"]["zones"] == ["right"]
    assert found["files"]["one.json"]["behaviour"]["figures"]["blinks_f1"]["original"] == 2
    assert main([*command, "--overwrite", "--zones", str(tmp_path / "none.toml")]) == 3
