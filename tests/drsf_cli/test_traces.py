"""Signals over time on the report's page."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from drsf_cli.deid.fidelity import frame_row
from drsf_cli.measure.evaluation import FrameErrors
from drsf_cli.measure.glances import load_zones
from drsf_cli.report.page import render_html
from drsf_cli.report.schema import check_report
from drsf_cli.report.traces import make_traces
from tests.drsf_cli.readings import face
from weights.errors import InputError

ZONES = load_zones()


def signals(yaw: float, eyes: float = 0.3) -> dict[str, float]:
    return {"yaw_deg": yaw, "pitch_deg": 10.0, "eye_openness": eyes, "mouth_openness": 0.1}


def frames(count: int = 101, missed: int | None = 30) -> list[dict[str, Any]]:
    """10 frames/s; the original looks left in frames 40 to 59, the other in frames 42 to 59."""
    return [
        {
            "frame_id": i,
            "pts": i / 10,
            "missed": i == missed,
            "signals": {
                "original": signals(-40.0 if 40 <= i < 60 else 0.0),
                "recovered": None if i == missed else signals(-40.0 if 42 <= i < 60 else 0.0),
            },
        }
        for i in range(count)
    ]


def report(rows: list[dict[str, Any]]) -> dict[str, Any]:
    file = {"path": "a.mp4", "sha256": "ab"}
    return {
        "input": file,
        "output": file,
        "settings": {},
        "victims": {},
        "versions": {},
        "fidelity": {"recovered": {"frames": len(rows), "missed": 1}},
        "frames": rows,
    }


def test_curves_and_strips_lie_where_the_frames_say() -> None:
    """101 frames: frame i lies at i percent. Yaw goes from -40 to 0 with a twentieth of that to spare: -42 to 2."""
    traces = make_traces(frames(), ZONES)
    assert traces is not None
    yaw = traces.panels[0]
    assert (yaw.key, [line.name for line in yaw.lines]) == ("yaw_deg", ["original", "recovered"])
    original, recovered = yaw.lines
    assert len(original.segments) == 1
    assert original.segments[0][50] == (50, pytest.approx(100 * 42 / 44, abs=0.01))
    assert original.segments[0][0] == (0, pytest.approx(100 * 2 / 44, abs=0.01))
    assert [len(segment) for segment in recovered.segments] == [30, 70]
    assert yaw.y_ticks == ((pytest.approx(100 * 42 / 44, abs=0.01), "-40"), (50, "-20"), (pytest.approx(4.55), "0"))
    strips = {name: [(s.left, s.width, s.zone) for s in stretches] for name, stretches in traces.strips}
    assert strips["original"] == [(0, 40, "road"), (40, 20, "left"), (60, 40, "road")]
    assert strips["recovered"] == [(0, 30, "road"), (31, 11, "road"), (42, 18, "left"), (60, 40, "road")]
    assert traces.x_ticks[1] == (20, "2")
    assert {entry.zone: entry.shares for entry in traces.legend} == {"road": ("80 %", "82 %"), "left": ("20 %", "18 %")}
    assert traces.behaviour["glance_difference"].agreement == pytest.approx(0.2)


def test_a_blink_is_seen_in_a_long_clip() -> None:
    rows = frames(6000, missed=None)
    rows[4001]["signals"]["original"]["eye_openness"] = 0.05
    traces = make_traces(rows, ZONES)
    assert traces is not None
    eyes = traces.panels[2].lines[0].segments
    assert sum(map(len, eyes)) <= 1200
    lowest = max(place for segment in eyes for place in segment if place[1] > 90)
    assert lowest[0] == pytest.approx(100 * 4001 / 5999, abs=0.01)


def test_reports_without_signals_or_gaze_still_make_a_page() -> None:
    old = [{"frame_id": 0, "pts": 0.0}]
    assert make_traces(old, ZONES) is None
    assert "Behaviour" not in render_html([(Path("a.json"), report(old))])
    rows = frames()
    for row in rows:
        for one in filter(None, row["signals"].values()):
            one |= {"yaw_deg": None, "pitch_deg": None}
    page = render_html([(Path("a.json"), report(rows))])
    assert "no gaze in the original" in page
    assert 'data-strip="' not in page
    assert re.findall(r'data-signal="(\w+)"', page) == ["eye_openness", "mouth_openness"]


def test_the_page_draws_them_in_the_zones_asked_for() -> None:
    page = render_html([(Path("a.json"), report(frames()))], zones="dashboard-rhd")
    assert re.findall(r'data-signal="(\w+)"', page) == ["yaw_deg", "pitch_deg", "eye_openness", "mouth_openness"]
    strip = page.split('data-strip="recovered"')[1].split("</div>")[0]
    assert re.findall(r'left:([\d.]+)%;width:([\d.]+)%" title="(\w+)"', strip)[2] == ("42.0", "18.0", "mirror")
    assert "Zones of gaze: dashboard-rhd." in page
    assert '<th scope="row">Glances off the road</th><td>1</td><td>1</td><td>+0</td>' in page


def test_a_row_of_the_report_keeps_what_was_read() -> None:
    row = FrameErrors(3, 0.1, True, True, {"iou": 0.9})
    kept = frame_row(row, [], None, (face((0.2, 0.4), (-40, 8), mouth=0.25), None))["signals"]
    wanted = {"yaw_deg": -40, "pitch_deg": 8, "eye_openness": 0.3, "mouth_openness": 0.25}
    assert kept == {"original": pytest.approx(wanted), "recovered": None}
    blind = frame_row(row, [], None, (face(None, None), None))["signals"]["original"]
    assert blind == dict.fromkeys(wanted)


@pytest.mark.parametrize(
    ("change", "place"),
    [([], "signals"), ({"original": 3}, "signals.original"), ({"original": {"yaw_deg": "left"}}, "original.yaw_deg")],
)
def test_signals_that_are_not_of_the_form_are_named(change: object, place: str) -> None:
    rows = frames(3, None)
    check_report(report(rows), "a.json")
    rows[1]["signals"] = change
    with pytest.raises(InputError, match=rf"a.json: frames\[1\]\..*{place}"):
        check_report(report(rows), "a.json")
