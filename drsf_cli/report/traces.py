"""Original and recovered signals of a clip over time, as the page draws them.

Places are in percent of the drawing's width and height, so that the page can stretch drawings to any screen while
texts and lines keep their size.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from drsf_cli.measure.behaviour import CONTINUOUS, Behaviour, compare_signals
from drsf_cli.measure.glances import EYES_CLOSED, OTHER, Zones
from drsf_cli.measure.signals import Measured, Signals, derive
from drsf_cli.report.charts import Segments, axis, segments_of, ticks
from victims.face import Array

_MAX_POINTS = 1200
"""Points of one curve; of longer clips the least and the greatest of several frames."""
_COLOURS = 6
"""Of zones that a file may name, in the style sheet; more zones share them."""
READINGS = ("original", "recovered")


@dataclass(frozen=True)
class Line:
    """One reading of a trace."""

    name: str
    """"original" or "recovered"."""
    segments: Segments
    """Runs of frames that were read; x, y in percent."""


@dataclass(frozen=True)
class Panel:
    """One signal."""

    key: str
    title: str
    unit: str
    lines: tuple[Line, ...]
    y_ticks: tuple[tuple[float, str], ...]


@dataclass(frozen=True)
class Stretch:
    """A stay in a zone; places in percent of the width."""

    left: float
    width: float
    zone: str


@dataclass(frozen=True)
class LegendEntry:
    """A zone of gaze in the legend."""

    zone: str
    colour: str
    """Class of the style sheet."""
    shares: tuple[str, str]
    """Of the frames whose zone is known, in the original and in the recovered reading."""


@dataclass(frozen=True)
class Traces:
    """All of a clip's signals."""

    panels: tuple[Panel, ...]
    strips: tuple[tuple[str, tuple[Stretch, ...]], ...]
    """Name of the reading, and its zones over time; none where no gaze was read."""
    legend: tuple[LegendEntry, ...]
    colours: Mapping[str, str]
    """Zone -> class of the style sheet."""
    x_ticks: tuple[tuple[float, str], ...]
    x_unit: str
    """"s", or "frame" where times are not known."""
    behaviour: Behaviour


def make_traces(frames: Sequence[Mapping[str, Any]], zones: Zones) -> Traces | None:
    """Of a report's frames; None where none has signals, as in reports of older versions."""
    rows = sorted((frame for frame in frames if frame.get("signals")), key=lambda frame: frame["frame_id"])
    if not rows:
        return None
    tables = [derive(_measured(rows, which), zones) for which in READINGS]
    timed = tables[0].timeline is not None
    places = tables[0].time_s if timed else tables[0].frame_id
    x_of = axis(float(places[0]), float(places[-1]), 0.0, 100.0)
    panels = [panel for key in CONTINUOUS if (panel := _panel(key, tables, places, x_of)) is not None]
    own = [name for name in zones.names if name not in (OTHER, EYES_CLOSED)]
    colours = {name: f"zone-{number % _COLOURS}" for number, name in enumerate(own)}
    colours |= {OTHER: "zone-other", EYES_CLOSED: "zone-shut"}
    seen = any(zone is not None for table in tables for zone in table.zone)
    return Traces(
        panels=tuple(panels),
        strips=tuple((which, _strip(table, places, x_of)) for which, table in zip(READINGS, tables, strict=True))
        if seen
        else (),
        legend=_legend(tables, colours) if seen else (),
        colours=colours,
        x_ticks=tuple((round(x_of(x), 2), f"{x:g}") for x in ticks(float(places[0]), float(places[-1]), 5)),
        x_unit="s" if timed else "frame",
        behaviour=compare_signals(*tables),
    )


def _measured(rows: Sequence[Mapping[str, Any]], which: str) -> Measured:
    def column(key: str) -> Array:
        values = [(row["signals"].get(which) or {}).get(key) for row in rows]
        return np.array([np.nan if value is None else value for value in values], dtype=np.float64)

    unknown = np.full(len(rows), np.nan)
    times = [np.nan if row.get("pts") is None else row["pts"] for row in rows]
    eyes = column("eye_openness")
    return Measured(
        frame_id=np.array([row["frame_id"] for row in rows], dtype=np.float64),
        time_s=np.array(times, dtype=np.float64),
        yaw_deg=column("yaw_deg"),
        pitch_deg=column("pitch_deg"),
        head_x_deg=unknown,
        head_y_deg=unknown,
        head_z_deg=unknown,
        eye_openness_left=eyes,  # a report keeps the mean of both
        eye_openness_right=eyes,
        mouth_openness=column("mouth_openness"),
    )


def _panel(key: str, tables: Sequence[Signals], places: Array, x_of: Callable[[float], float]) -> Panel | None:
    title, unit, _ = CONTINUOUS[key]
    columns = [getattr(table, key) for table in tables]
    known = np.concatenate([column[np.isfinite(column)] for column in columns])
    if not len(known):
        return None
    low, high = float(known.min()), float(known.max())
    room = max(0.05 * (high - low), 0.5 if unit else 0.005)
    low, high = low - room, high + room
    y_of = axis(low, high, 100.0, 0.0)
    lines = [
        Line(which, segments_of(_points(column, places, x_of, y_of)))
        for which, column in zip(READINGS, columns, strict=True)
    ]
    marks = tuple((round(y_of(y), 2), f"{y:g}") for y in ticks(low, high, 4))
    return Panel(key, title, unit, tuple(lines), marks)


def _points(
    values: Array, places: Array, x_of: Callable[[float], float], y_of: Callable[[float], float]
) -> Iterator[tuple[float, float] | None]:
    """Known values, None in gaps; of long clips the extremes of each group of frames, so that no blink is lost."""
    every = max(1, -(-2 * len(values) // _MAX_POINTS)) if len(values) > _MAX_POINTS else 1
    for start in range(0, len(values), every):
        group = values[start : start + every]
        if not np.isfinite(group).any():
            yield None
            continue
        for row in sorted({int(np.nanargmin(group)), int(np.nanargmax(group))}):
            yield round(x_of(float(places[start + row])), 3), round(y_of(float(group[row])), 2)


def _strip(table: Signals, places: Array, x_of: Callable[[float], float]) -> tuple[Stretch, ...]:
    """Runs of one zone; each frame reaches to the next one."""
    stretches = []
    first = 0
    for row in range(1, len(places) + 1):
        if row < len(places) and table.zone[row] == table.zone[first]:
            continue
        zone = table.zone[first]
        left, right = x_of(float(places[first])), x_of(float(places[min(row, len(places) - 1)]))
        if zone is not None and right > left:
            stretches.append(Stretch(round(left, 3), round(right - left, 3), zone))
        first = row
    return tuple(stretches)


def _legend(tables: Sequence[Signals], colours: Mapping[str, str]) -> tuple[LegendEntry, ...]:
    entries = []
    for zone, colour in colours.items():
        counts = [sum(one == zone for one in table.zone) for table in tables]
        known = [sum(one is not None for one in table.zone) for table in tables]
        if any(counts):
            shares = [
                f"{100 * part / whole:.0f} %" if whole else "–" for part, whole in zip(counts, known, strict=True)
            ]
            entries.append(LegendEntry(zone, colour, (shares[0], shares[1])))
    return tuple(entries)
