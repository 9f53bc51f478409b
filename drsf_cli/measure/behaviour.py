"""Blinks, PERCLOS, glances and the like, before and after: compares the signals of two readings of one clip.

Every figure has an interval (drsf_cli/measure/bootstrap.py) if the clip is long enough for one, and a reason if it
cannot be computed. Frames are paired by frame_id. A figure is computed over the frames in which both readings have the
values that it needs.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from drsf_cli.measure.agreement import cohens_kappa, correlation, f1, match_glances, match_times, ratio
from drsf_cli.measure.bootstrap import Statistic, interval
from drsf_cli.measure.drowsiness import FOLLOWED
from drsf_cli.measure.glances import LONG_GLANCE, Zones
from drsf_cli.measure.quantities import quantity
from drsf_cli.measure.signals import Measured, Signals, derive, measured
from drsf_cli.measure.timeline import Event, Timeline
from victims.face import Array, FrameObservation

WITHIN = 0.1
"""Seconds by which the middles of two matching blinks may differ."""
FEWEST = 10
"""The fewest frames from which a correlation or a kappa is computed."""
_ORIGINAL, _RECOVERED = "original", "recovered"


@dataclass(frozen=True)
class Figure:
    """One row of the table. Numbers in `unit`; None where there is none."""

    key: str
    title: str
    unit: str
    digits: int
    original: float | None = None
    recovered: float | None = None
    agreement: float | None = None
    """How well they agree: the measure that the title names, or recovered minus original."""
    interval: tuple[float, float] | None = None
    """95 % interval of the agreement."""
    reason: str | None = None
    """Why there is no agreement."""


@dataclass(frozen=True)
class Behaviour:
    """The table, and the confusion of the glance zones."""

    figures: tuple[Figure, ...]
    zones: tuple[str, ...]
    """Names of the confusion's rows and columns: the zones that occur."""
    confusion: NDArray[np.int64]
    """(k, k) frames, by the zone in the original and the zone in the other."""

    def __getitem__(self, key: str) -> Figure:
        return next(figure for figure in self.figures if figure.key == key)


def behaviour(original: Iterable[FrameObservation], recovered: Iterable[FrameObservation], zones: Zones) -> Behaviour:
    """Compare two readings. If one of them has no times, its frames get those of the other."""
    first, second = measured(original), measured(recovered)
    return compare_signals(derive(_timed(first, second), zones), derive(_timed(second, first), zones))


def compare_signals(original: Signals, recovered: Signals) -> Behaviour:
    """Compare two tables with the same zones."""
    pair = _Pair(original, recovered)
    figures = [
        *(figure for name in CONTINUOUS for figure in _continuous(pair, name)),
        *(_jitter(pair, name) for name in CONTINUOUS),
        _blinks(pair),
        _perclos(pair),
        _yawns(pair),
    ]
    confusion = _confusion(pair)
    figures += [_kappa(pair, confusion), *_glances(pair)]
    sums = confusion.sum(axis=0).astype(np.int64)
    seen = np.flatnonzero(sums.sum(axis=0) + sums.sum(axis=1))
    names = original.zones.names
    return Behaviour(tuple(figures), tuple(names[k] for k in seen), sums[np.ix_(seen, seen)])


def pooled(clips: Sequence[Behaviour]) -> Behaviour:
    """Several clips together: the mean of each figure over the clips that have it, and the zones of all frames."""
    figures = []
    for column in zip(*(clip.figures for clip in clips), strict=True):
        means: dict[str, float | None] = {}
        for key in ("original", "recovered", "agreement"):
            known = [value for figure in column if (value := getattr(figure, key)) is not None]
            means[key] = float(np.mean(known)) if known else None
        reason = None if means["agreement"] is not None else "no clip has it"
        figures.append(replace(column[0], **means, interval=None, reason=reason))
    names = tuple(dict.fromkeys(name for clip in clips for name in clip.zones))
    total = np.zeros((len(names), len(names)), dtype=np.int64)
    for clip in clips:
        at = [names.index(name) for name in clip.zones]
        total[np.ix_(at, at)] += clip.confusion
    return Behaviour(tuple(figures), names, total)


def behaviour_to_dict(found: Behaviour) -> dict[str, Any]:
    """For JSON."""
    rows = [asdict(figure) for figure in found.figures]
    return {
        "figures": {row.pop("key"): {key: value for key, value in row.items() if key != "digits"} for row in rows},
        "zones": list(found.zones),
        "confusion": found.confusion.tolist(),
    }


@dataclass(frozen=True)
class FigureRow:
    """A figure as people read it."""

    title: str
    numbers: tuple[str, str, str]
    """Original, recovered, agreement, with their unit; dashes where there is none."""
    interval: str
    reason: str


def figure_rows(found: Behaviour) -> list[FigureRow]:
    """The table's rows in words."""
    rows = []
    for figure in found.figures:
        own = (figure.original, figure.recovered, figure.agreement)
        counted = figure.key == "blinks_f1"  # these are events of each reading; the agreement is not their difference
        digits = (0 if counted else figure.digits,) * 2 + (figure.digits,)
        signs = ("", "", "" if counted or figure.original is None else "+")
        numbers = [
            "–" if value is None else quantity(value, figure.unit, places, sign)
            for value, places, sign in zip(own, digits, signs, strict=True)
        ]
        between = ""
        if figure.interval is not None:
            low, high = (quantity(value, "", figure.digits) for value in figure.interval)
            between = f"{low} to {high}"
        rows.append(FigureRow(figure.title, (numbers[0], numbers[1], numbers[2]), between, figure.reason or ""))
    return rows


# ---------------------------------------------------------------------------------------------------- pairing


def _timed(read: Measured, other: Measured) -> Measured:
    if np.any(np.isfinite(read.time_s)):
        return read
    times = dict(zip(other.frame_id, other.time_s, strict=True))
    return replace(read, time_s=np.array([times.get(index, np.nan) for index in read.frame_id], dtype=np.float64))


class _Pair:
    """Rows of the frames that both tables have."""

    def __init__(self, original: Signals, recovered: Signals) -> None:
        self.tables = {_ORIGINAL: original, _RECOVERED: recovered}
        self.ids, *self.rows = np.intersect1d(original.frame_id, recovered.frame_id, return_indices=True)
        self.times = original.time_s[self.rows[0]]
        self.timeline = Timeline.of(self.times)

    def columns(self, name: str) -> list[Array]:
        return [getattr(one, name)[rows] for one, rows in zip(self.tables.values(), self.rows, strict=True)]

    def lacking(self, *names: str, timed: bool = False) -> str | None:
        """Why there is nothing to compare; None where there is."""
        for which, table in self.tables.items():
            for name in names:
                if not np.any(np.isfinite(getattr(table, name))):
                    return f"no {_NEEDS[name]} in the {which}"
            if timed and table.timeline is None:
                return f"the {which}'s frames have no times that rise"
        return None

    def place(self, table: Signals, event: Event) -> int:
        """The paired row at which an event of `table` begins, or the next one."""
        found = int(np.searchsorted(self.ids, table.frame_id[event.first]))
        return min(found, len(self.ids) - 1)

    def interval(self, contributions: Array, statistic: Statistic) -> tuple[float, float] | None:
        return interval(contributions, self.times, statistic)


_NEEDS = {
    "yaw_deg": "gaze",
    "pitch_deg": "gaze",
    "eye_openness": "landmarks of the eyes",
    "mouth_openness": "landmarks of the mouth",
}
CONTINUOUS: Mapping[str, tuple[str, str, int]] = {
    "yaw_deg": ("Gaze yaw", "°", 2),
    "pitch_deg": ("Gaze pitch", "°", 2),
    "eye_openness": ("Eye openness", "", 3),
    "mouth_openness": ("Mouth openness", "", 3),
}
"""Column -> title, unit, digits."""


# ---------------------------------------------------------------------------------------------------- figures


def _value(statistic: Statistic, contributions: Array) -> float | None:
    value = float(statistic(contributions.sum(axis=0)))
    return value if math.isfinite(value) else None


def _continuous(pair: _Pair, name: str) -> list[Figure]:
    title, unit, digits = CONTINUOUS[name]
    related = Figure(f"{name}_correlation", f"{title}: correlation", "", 3)
    difference = Figure(f"{name}_difference", f"{title}: mean absolute difference", unit, digits)
    lack = pair.lacking(name)
    x, y = pair.columns(name)
    both = np.isfinite(x) & np.isfinite(y)
    count = int(both.sum())
    lack = lack or ("no frame has it in both" if count == 0 else None)
    if lack is not None:
        return [replace(related, reason=lack), replace(difference, reason=lack)]
    x, y = (np.where(both, values - values[both].mean(), 0.0) for values in (x, y))
    if count < FEWEST:
        related = replace(related, reason=f"needs {FEWEST} frames, and {count} can be compared")
    elif min(np.abs(x).max(), np.abs(y).max()) < 1e-9:
        related = replace(related, reason=f"{title.lower()} does not vary")
    else:
        rows = np.stack([both, x, y, x * x, y * y, x * y], axis=1).astype(np.float64)
        found = _value(correlation, rows)
        related = replace(related, agreement=found, interval=pair.interval(rows, correlation))
    raw = pair.columns(name)
    rows = np.stack([both, np.where(both, np.abs(raw[0] - raw[1]), 0.0)], axis=1)

    def mean(sums: Array) -> Array:
        return np.asarray(ratio(sums[..., 1], sums[..., 0]))

    return [related, replace(difference, agreement=_value(mean, rows), interval=pair.interval(rows, mean))]


def _between(figure: Figure, pair: _Pair, rows: Array, parts: Sequence[Statistic], empty: str) -> Figure:
    """A figure of each table, by its statistic of sums, and the difference of the two."""

    def difference(sums: Array) -> Array:
        return np.asarray(parts[1](sums) - parts[0](sums))

    original, recovered = (_value(part, rows) for part in parts)
    if original is None or recovered is None:
        return replace(figure, original=original, recovered=recovered, reason=empty)
    found = replace(figure, original=original, recovered=recovered, agreement=recovered - original)
    return replace(found, interval=pair.interval(rows, difference))


def _jitter(pair: _Pair, name: str) -> Figure:
    """Mean absolute second difference from frame to frame: a steady turn has none."""
    title, unit, digits = CONTINUOUS[name]
    figure = Figure(f"{name}_jitter", f"{title}: jitter", unit, digits + 1)
    lack = pair.lacking(name, timed=True)
    if lack is not None or pair.timeline is None:
        return replace(figure, reason=lack or "the frames in both have no times that rise")
    second = np.full((2, len(pair.ids)), np.nan)
    for row, values in zip(second, pair.columns(name), strict=True):
        row[1:-1] = np.abs(values[:-2] - 2 * values[1:-1] + values[2:])
    usable = np.isfinite(second).all(axis=0)
    usable[1:-1] &= pair.timeline.joined[1:-1] & pair.timeline.joined[2:]
    rows = np.stack([usable, *np.where(usable, second, 0.0)], axis=1).astype(np.float64)
    parts = [lambda sums, k=k: ratio(sums[..., k], sums[..., 0]) for k in (1, 2)]
    return _between(figure, pair, rows, parts, "no three frames in a row have it in both")


def _blinks(pair: _Pair) -> Figure:
    figure = Figure("blinks_f1", f"Blinks: F1 within {1000 * WITHIN:.0f} ms", "", 3)
    lack = pair.lacking("eye_openness", timed=True)
    if lack is not None or not len(pair.ids):
        return replace(figure, reason=lack or "no frame is in both")
    events = [table.blinks for table in pair.tables.values()]
    first, second = ([event.middle for event in own] for own in events)
    matched = match_times(first, second, WITHIN)
    rows = np.zeros((len(pair.ids), 3))
    for side, (table, own) in enumerate(zip(pair.tables.values(), events, strict=True)):
        found = {pair_of[side] for pair_of in matched}
        for number, event in enumerate(own):
            if number not in found:
                rows[pair.place(table, event), 1 + side] += 1
            elif side == 0:
                rows[pair.place(table, event), 0] += 1
    counts = [float(len(own)) for own in events]
    figure = replace(figure, original=counts[0], recovered=counts[1], agreement=_value(f1, rows))
    if figure.agreement is None:
        return replace(figure, reason="no blink in either")
    return replace(figure, interval=pair.interval(rows, f1))


def _perclos(pair: _Pair) -> Figure:
    figure = Figure("perclos", "PERCLOS P80, mean of all minutes", "%", 1)
    lack = pair.lacking("eye_openness", timed=True)
    shut = max(table.shut_share or 0.0 for table in pair.tables.values())
    if lack is None and shut > FOLLOWED:
        lack = f"the aligner's lids of shut eyes stay at {100 * shut:.0f} % of open ones"
    if lack is not None:
        return replace(figure, reason=lack)
    values = np.stack(pair.columns("perclos"))
    both = np.isfinite(values).all(axis=0)
    rows = np.stack([both, *np.where(both, 100 * values, 0.0)], axis=1).astype(np.float64)
    parts = [lambda sums, k=k: ratio(sums[..., k], sums[..., 0]) for k in (1, 2)]
    return _between(figure, pair, rows, parts, "needs a minute that is mostly read in both")


def _yawns(pair: _Pair) -> Figure:
    figure = Figure("yawns", "Yawns", "", 0)
    lack = pair.lacking("mouth_openness", timed=True)
    if lack is not None:
        return replace(figure, reason=lack)
    counts = [float(len(table.yawns)) for table in pair.tables.values()]
    return replace(figure, original=counts[0], recovered=counts[1], agreement=counts[1] - counts[0])


def _confusion(pair: _Pair) -> Array:
    """(n, k, k) one-hot: the zone of each frame in the original and in the other."""
    original, recovered = pair.tables.values()
    names = {name: number for number, name in enumerate(original.zones.names)}
    rows = np.zeros((len(pair.ids), len(names), len(names)))
    for row, (a, b) in enumerate(zip(*pair.rows, strict=True)):
        left, right = original.zone[a], recovered.zone[b]
        if left is not None and right is not None:
            rows[row, names[left], names[right]] = 1
    return rows


def _kappa(pair: _Pair, confusion: Array) -> Figure:
    figure = Figure("zones_kappa", "Glance zones: Cohen's kappa", "", 3)
    count = int(confusion.sum())
    lack = pair.lacking("yaw_deg")
    if lack is not None or count < FEWEST:
        return replace(figure, reason=lack or f"needs {FEWEST} frames, and {count} can be compared")
    size = confusion.shape[1]

    def kappa(sums: Array) -> Array:
        return cohens_kappa(sums.reshape(*sums.shape[:-1], size, size))

    rows = confusion.reshape(len(confusion), -1)
    found = _value(kappa, rows)
    if found is None:
        return replace(figure, reason="both stay in one zone throughout")
    return replace(figure, agreement=found, interval=pair.interval(rows, kappa))


def _glances(pair: _Pair) -> list[Figure]:
    """Count, mean duration, share over LONG_GLANCE, and total eyes-off-road time, as NHTSA's guidelines count them."""
    figures = [
        Figure("glances", "Glances off the road", "", 0),
        Figure("glance_mean", "Mean glance", "s", 2),
        Figure("glances_long", f"Glances over {LONG_GLANCE:g} s", "%", 0),
        Figure("eyes_off_road", "Total eyes-off-road time", "s", 2),
        Figure("glance_difference", "Same glance: median difference of duration", "s", 3),
    ]
    lack = pair.lacking("yaw_deg", timed=True)
    if lack is not None or not len(pair.ids):
        return [replace(figure, reason=lack or "no frame is in both") for figure in figures]
    rows = np.zeros((len(pair.ids), 2, 3))
    for side, table in enumerate(pair.tables.values()):
        for glance in table.glances:
            rows[pair.place(table, glance), side] += (1, glance.duration, 100 * (glance.duration > LONG_GLANCE + 1e-9))
    sums = rows.reshape(len(rows), -1)
    *four, last = figures
    recipes = [(0, None), (1, 0), (2, 0), (1, None)]
    found = [
        _between(figure, pair, sums, _parts(*recipe), "no glance in one of them")
        for figure, recipe in zip(four, recipes, strict=True)
    ]
    apart = [abs(a.duration - b.duration) for a, b in match_glances(*(table.glances for table in pair.tables.values()))]
    if not apart:
        return [*found, replace(last, reason="no glance is in both")]
    return [*found, replace(last, agreement=float(np.median(apart)))]


def _parts(above: int, below: int | None) -> list[Statistic]:
    """For each table: one of its three sums, divided by another if one is named."""

    def part(first: int) -> Statistic:
        if below is None:
            return lambda sums: np.asarray(sums[..., first + above])
        return lambda sums: np.asarray(ratio(sums[..., first + above], sums[..., first + below]))

    return [part(0), part(3)]
