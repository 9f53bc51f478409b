"""Signals of readings whose blinks, yawns and glances were put there by hand."""

from __future__ import annotations

import csv
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow.parquet
import pytest

from drsf_cli import signals
from drsf_cli.app import main
from drsf_cli.measure.drowsiness import eyelids, perclos, yawns
from drsf_cli.measure.glances import PRESETS, glances, load_zones, zones_over_time
from drsf_cli.measure.records import to_records, write_observations
from drsf_cli.measure.signals import COLUMNS, write_signals
from drsf_cli.measure.timeline import Event, Timeline
from tests.drsf_cli.readings import clip, face
from victims.face import FrameObservation
from weights.errors import InputError, OutputError, UsageError


def timeline(count: int, fps: float) -> Timeline:
    found = Timeline.of(np.arange(count) / fps)
    assert found is not None
    return found


def spans(events: list[Event]) -> list[tuple[int, int]]:
    return [(event.first, event.last) for event in events]


# ---------------------------------------------------------------------------------------------------- runs


def test_a_run_lasts_until_the_next_row_and_not_across_a_gap() -> None:
    """Rows at 0.0 to 0.4, then 2.0 to 2.2 s, 0.1 s apart: the row at 0.4 stands for one interval."""
    times = np.array([0, 0.1, 0.2, 0.3, 0.4, 2.0, 2.1, 2.2])
    found = Timeline.of(times)
    assert found is not None
    assert found.ends == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.5, 2.1, 2.2, 2.3])
    events = found.runs(["a", "a", None, "b", "b", "b", "b", "a"])
    assert spans(events) == [(0, 1), (3, 4), (5, 6), (7, 7)]
    assert [event.duration for event in events] == pytest.approx([0.2, 0.2, 0.2, 0.1])
    assert events[0].middle == pytest.approx(0.1)


@pytest.mark.parametrize("times", [[0.0], [0.0, np.nan], [0.1, 0.1], [0.2, 0.1]])
def test_times_that_do_not_rise_are_no_timeline(times: list[float]) -> None:
    assert Timeline.of(np.array(times)) is None


def test_one_lost_frame_does_not_cut_a_run() -> None:
    times = np.delete(np.arange(10) / 10, 4)
    found = Timeline.of(times)
    assert found is not None
    assert spans(found.runs(np.ones(9, dtype=bool))) == [(0, 8)]


# ---------------------------------------------------------------------------------------------------- eyelids


def openness(count: int, level: float, shut: float, *events: tuple[int, int]) -> np.ndarray:
    values = np.full(count, level)
    for first, last in events:
        values[first : last + 1] = shut
    return values


def test_blinks_by_hand() -> None:
    """25 frames/s: 5 frames are 0.2 s, 12 are 0.48 s, 13 are 0.52 s and too long. The last one has no end."""
    eyes = openness(250, 0.3, 0.09, (20, 24), (60, 71), (120, 132), (247, 249))
    lids = eyelids(eyes, timeline(250, 25))
    assert spans(lids.blinks) == [(20, 24), (60, 71)]
    assert spans(lids.long_closures) == [(120, 132)]
    assert lids.shut_share == pytest.approx(0.3)
    assert lids.open_level == pytest.approx(np.full(250, 0.3))
    assert np.flatnonzero(lids.closed).tolist() == [*range(20, 25), *range(60, 72), *range(120, 133), 247, 248, 249]


def test_eyes_are_closed_below_half_way_to_shut() -> None:
    """Shut is 0.06 of 0.3, a share of 0.2: half-way is 0.6, an openness of 0.18. CLOSED_SHARE, 0.65, is 0.195."""
    eyes = openness(500, 0.3, 0.06, *((start, start + 4) for start in range(20, 400, 40)))
    eyes[450:454] = 0.2
    lids = eyelids(eyes, timeline(500, 25))
    assert len(lids.blinks) == 10
    eyes[450:454] = 0.19
    assert spans(eyelids(eyes, timeline(500, 25)).blinks)[-1] == (450, 453)


def test_an_aligner_that_hardly_follows_the_lids_still_shows_blinks_but_no_perclos() -> None:
    """Noise of 1 %, a head that turns slowly by 10 %, and eyes that shut to 87 % of open."""
    rng = np.random.default_rng(3)
    count = 2000
    eyes = 0.27 * (1 + 0.1 * np.sin(np.arange(count) / 90)) * (1 + 0.01 * rng.standard_normal(count))
    starts = np.arange(30, count - 30, 97)
    for start in starts:
        eyes[start : start + 5] *= 0.87
    lids = eyelids(eyes, timeline(count, 25))
    assert len(lids.blinks) == len(starts)
    assert all(abs(blink.first - start) <= 1 for blink, start in zip(lids.blinks, starts, strict=True))
    assert not lids.followed
    assert np.isnan(perclos(lids, timeline(count, 25))).all()


def test_noise_alone_is_no_blink() -> None:
    eyes = 0.3 * (1 + 0.02 * np.random.default_rng(1).standard_normal(3000))
    lids = eyelids(eyes, timeline(3000, 25))
    assert lids.blinks == []
    assert lids.long_closures == []


def test_a_blink_that_a_gap_cuts_off_is_none() -> None:
    eyes = openness(200, 0.3, 0.09, (50, 54), (100, 104), (150, 154))
    eyes[102] = np.nan
    lids = eyelids(eyes, timeline(200, 25))
    assert spans(lids.blinks) == [(50, 54), (150, 154)]
    assert not lids.closed[102]


def test_closures_with_less_than_a_tenth_of_a_second_between_them_are_one() -> None:
    """25 frames/s: two frames are 0.08 s, three are 0.12 s; a frame without a reading may have been an open eye."""
    two, three, unread = (50, 54), (100, 106), (150, 156)
    eyes = openness(200, 0.3, 0.09, two, three, unread)
    eyes[52:54] = eyes[102:105] = 0.3
    eyes[153] = np.nan
    assert spans(eyelids(eyes, timeline(200, 25)).blinks) == [two, (100, 101), (105, 106)]


def test_a_closure_of_less_than_a_twentieth_of_a_second_is_no_blink() -> None:
    """One frame is 0.04 s at 25 frames/s, and 0.07 s at 15."""
    eyes = openness(200, 0.3, 0.09, (50, 54), (100, 100), (150, 151))
    assert spans(eyelids(eyes, timeline(200, 25)).blinks) == [(50, 54), (150, 151)]
    assert spans(eyelids(eyes, timeline(200, 15)).blinks) == [(50, 54), (100, 100), (150, 151)]


def test_eyes_that_stay_shut_for_seconds_are_one_long_closure() -> None:
    lids = eyelids(openness(1000, 0.3, 0.09, (100, 104), (500, 649)), timeline(1000, 25))
    assert spans(lids.long_closures) == [(500, 649)]


def test_perclos_is_the_share_of_the_last_minute() -> None:
    """10 rows/s for 100 s, shut from 30 to 36 s and half shut (0.18: 57 % closed, not 80) from 40 to 46 s."""
    eyes = openness(1000, 0.3, 0.09, (300, 359))
    eyes[400:460] = 0.18
    clock = timeline(1000, 10)
    found = perclos(eyelids(eyes, clock), clock)
    assert np.isnan(found[:599]).all()
    assert found[599] == pytest.approx(0.1)
    assert found[899] == pytest.approx(0.1)
    assert found[929] == pytest.approx(0.05)
    assert found[-1] == pytest.approx(0)


def test_perclos_needs_half_a_minute_that_was_read_and_counts_no_gap() -> None:
    eyes = openness(700, 0.3, 0.09, (0, 29))
    eyes[100:340] = np.nan
    clock = timeline(700, 10)
    found = perclos(eyelids(eyes, clock), clock)
    assert found[599] == pytest.approx(3 / 36)
    eyes[100:410] = np.nan
    assert np.isnan(perclos(eyelids(eyes, clock), clock)[599])


def test_yawns_by_hand() -> None:
    """10 rows/s: 20 rows are 2 s; speech opens the mouth for less."""
    mouth = openness(200, 0.05, 0.6, (10, 14), (40, 58), (100, 119))
    mouth[110] = 0.5
    assert spans(yawns(mouth, timeline(200, 10))) == [(100, 119)]


# ---------------------------------------------------------------------------------------------------- zones


def test_a_gaze_is_in_the_first_zone_that_fits(tmp_path: Path) -> None:
    path = tmp_path / "zones.toml"
    path.write_text(
        'road = "ahead"\n[[zone]]\nname = "down"\npitch = [-inf, -10]\n'
        '[[zone]]\nname = "ahead"\nyaw = [-20, 20]\npitch = [-30, 30]\n'
    )
    zones = load_zones(path)
    yaw = np.array([0.0, 0, 0, 19.9, 20, -20, np.nan])
    pitch = np.array([0.0, -10, -10.1, 0, 0, 0, 0])
    assert zones.of(yaw, pitch) == ["ahead", "ahead", "down", "ahead", "other", "ahead", None]
    assert (zones.road, zones.names) == ("ahead", ("down", "ahead", "other", "eyes closed"))


@pytest.mark.parametrize("name", PRESETS)
def test_presets_give_every_gaze_a_zone(name: str) -> None:
    yaw, pitch = (axis.ravel() for axis in np.meshgrid(np.arange(-90.0, 91, 5), np.arange(-60.0, 61, 5)))
    assert set(load_zones(name).of(yaw, pitch)) == {"road", "left", "right", "mirror", "cluster", "lap"}


def test_presets_by_hand() -> None:
    """A driver on the left looks at the road: 10 degrees above a camera on the dashboard, and past a camera at the left
    pillar 35 degrees to the driver's right, which is the left of the image. On the right it is the mirror image."""
    assert load_zones("dashboard-lhd").of(np.array([0.0, 35, -40]), np.array([10.0, 20, 8])) == [
        "road",
        "mirror",
        "left",
    ]
    assert load_zones("a-pillar-lhd").of(np.array([35.0, 0, 70]), np.array([5.0, 5, 15])) == ["road", "left", "mirror"]
    swap = {"left": "right", "right": "left"}
    yaw, pitch = (axis.ravel() for axis in np.meshgrid(np.arange(-88.0, 89, 5), np.arange(-58.0, 59, 5)))
    for place in ("dashboard", "a-pillar"):
        left, right = (load_zones(f"{place}-{drive}") for drive in ("lhd", "rhd"))
        mirrored = [swap.get(str(zone), zone) for zone in right.of(-yaw, pitch)]
        assert left.of(yaw, pitch) == mirrored


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "has no [[zone]]"),
        ("zone = 3", "has no [[zone]]"),
        ("[[zone]\n", "is not TOML"),
        ("[[zone]]\nyaw = [0, 1]", "zone 1: has no name"),
        ('[[zone]]\nname = "road"\nyaw = [1, 0]', "zone 1: yaw: 1 is not below 0"),
        ('[[zone]]\nname = "road"\nyaw = [nan, 0]', "zone 1: yaw: nan is not below 0"),
        ('[[zone]]\nname = "road"\nyaw = 3', "zone 1: yaw: is not two numbers"),
        ('[[zone]]\nname = "road"\nroll = [0, 1]', "zone 1: roll is unknown"),
        ('[[zone]]\nname = "eyes closed"', 'zone 1: "eyes closed" is what drsf calls'),
        ('[[zone]]\nname = "a"', 'no zone is called "road"'),
        ('color = 1\n[[zone]]\nname = "road"', "color is unknown"),
        (None, "cannot be read"),
    ],
)
def test_zones_that_are_not_of_the_form_are_refused(tmp_path: Path, text: str | None, message: str) -> None:
    path = tmp_path / "zones.toml"
    if text is not None:
        path.write_text(text)
    with pytest.raises(InputError) as caught:
        load_zones(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert message in str(caught.value)


def test_lids_and_saccades_do_not_make_glances() -> None:
    """20 rows/s. A blink over lap keeps the road; one row of cluster on the way to left is 0.05 s and the road's."""
    raw = ["road"] * 10 + ["lap"] * 4 + ["road"] * 6 + ["cluster"] + ["left"] * 10 + ["road"] * 9
    clock = timeline(40, 20)
    zones = zones_over_time(raw, [Event(10, 13, 0.5, 0.7)], [Event(35, 39, 1.75, 2.0)], clock)
    assert zones == ["road"] * 21 + ["left"] * 10 + ["road"] * 4 + ["eyes closed"] * 5
    [glance] = glances(zones, "road", clock)
    assert (glance.zone, glance.start, glance.duration) == ("left", pytest.approx(1.05), pytest.approx(0.5))


def test_gaps_end_a_glance_and_have_no_zone() -> None:
    zones = zones_over_time(["left"] * 5 + [None] * 2 + ["left"] * 3, [], [], timeline(10, 10))
    assert zones[5:7] == [None, None]
    assert [(g.first, g.last) for g in glances(zones, "road", timeline(10, 10))] == [(0, 4), (7, 9)]


# ---------------------------------------------------------------------------------------------------- the table


@pytest.fixture
def reading() -> list[FrameObservation]:
    """4 s: a blink in frames 20 to 24, frame 40 without a face, a glance to the left in frames 50 to 69."""
    faces = [face(0.09 if 20 <= i < 25 else 0.3, (-40, 8) if 50 <= i < 70 else (0, 10)) for i in range(100)]
    return clip([None if i == 40 else own for i, own in enumerate(faces)])


def test_the_table_has_a_row_a_frame_in_order_and_gaps_stay_gaps(reading: list[FrameObservation]) -> None:
    table = signals(reversed(reading))
    assert table.frame_id.tolist() == list(range(100))
    assert table.time_s[10] == pytest.approx(0.4)
    assert table.yaw_deg[60] == pytest.approx(-40)
    assert table.pitch_deg[[0, 60]] == pytest.approx([10, 8])
    assert table.eye_openness[[0, 22]] == pytest.approx([0.3, 0.09])
    assert table.mouth_openness[0] == pytest.approx(0.1)
    assert np.flatnonzero(table.blink == 1).tolist() == [20, 21, 22, 23, 24]
    assert table.zone[60] == "left"
    assert [(g.zone, g.first, g.last) for g in table.glances] == [("left", 50, 69)]
    for name in COLUMNS[2:]:
        gap = getattr(table, name)[40]
        assert name == "eye_open_level" or gap is None or np.isnan(gap)


def test_both_eyes_are_averaged_and_left_is_the_persons() -> None:
    table = signals(clip([face((0.2, 0.4)), face((0.2, 0.4))]))
    assert (table.eye_openness_left[0], table.eye_openness_right[0]) == pytest.approx((0.2, 0.4))
    assert table.eye_openness[0] == pytest.approx(0.3)


def test_infers_json_has_openness_for_every_face(reading: list[FrameObservation]) -> None:
    both = FrameObservation(0, 0.0, (face((0.25, 0.3), mouth=0.4), face(0.1)))
    [record] = to_records([both])
    assert record["eye_openness"] == pytest.approx([0.25, 0.3])
    assert record["mouth_openness"] == pytest.approx(0.4)
    assert record["faces"][0]["eye_openness"] == pytest.approx([0.1, 0.1])
    [blind] = to_records([FrameObservation(0, 0.0, (face(None),))])
    assert "eye_openness" not in blind
    shut = face()
    assert shut.landmarks is not None
    shut.landmarks[39] = shut.landmarks[36]
    assert to_records([FrameObservation(0, 0.0, (shut,))])[0]["eye_openness"] == [pytest.approx(0.3), None]


def test_csv_and_parquet_hold_the_same_numbers(reading: list[FrameObservation], tmp_path: Path) -> None:
    table = signals(reading)
    write_signals(tmp_path / "a.csv", table)
    write_signals(tmp_path / "a.parquet", table)
    with (tmp_path / "a.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    stored = pyarrow.parquet.read_table(tmp_path / "a.parquet").to_pylist()
    assert [tuple(row) for row in (rows[0], stored[0])] == [COLUMNS, COLUMNS]
    assert len(rows) == len(stored) == 100
    assert (rows[40]["frame_id"], rows[40]["time_s"], rows[40]["zone"], rows[40]["blink"]) == ("40", "1.6", "", "")
    assert (stored[40]["zone"], stored[40]["eye_openness"], stored[40]["blink"]) == (None, None, None)
    assert (rows[60]["zone"], stored[60]["zone"]) == ("left", "left")
    for text, value in zip(rows, stored, strict=True):
        for name in set(COLUMNS) - {"zone"}:
            assert (text[name] == "") == (value[name] is None)
            assert text[name] == "" or float(text[name]) == pytest.approx(value[name], rel=1e-8)


def test_times_that_are_not_known_leave_events_empty() -> None:
    table = signals([FrameObservation(i, float("nan"), (face(0.09 if i == 3 else 0.3),)) for i in range(9)])
    assert table.timeline is None
    assert table.zone[0] == "road"
    assert np.isnan(table.blink).all()
    assert table.eye_openness[3] == pytest.approx(0.09)
    assert len(signals([])) == 0


def test_the_command_writes_the_table_and_says_what_is_in_it(
    reading: list[FrameObservation], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_observations(tmp_path / "a.json", reading)
    command = ["signals", str(tmp_path / "a.json"), "-o", str(tmp_path / "a.csv")]
    assert main([*command, "--zones", "dashboard-rhd"]) == 0
    said = capsys.readouterr().out
    assert "100 frames: 1 blinks, 0 yawns, 1 glances off the road." in said
    rows = list(csv.DictReader((tmp_path / "a.csv").read_text().splitlines()))
    assert rows[60]["zone"] == "mirror"
    assert {b["frame_id"] > a["frame_id"] for a, b in pairwise(rows[1:10])} == {True}
    assert main(command) == OutputError.exit_code
    assert main([*command[:-1], str(tmp_path / "a.txt")]) == UsageError.exit_code
    assert main([*command, "--overwrite", "--zones", "nowhere"]) == InputError.exit_code
