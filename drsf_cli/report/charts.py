"""Drawings of one measure over a clip's frames, in the units of an SVG."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from drsf_cli.measure.metrics import Metric, text_of

Segments = tuple[tuple[tuple[float, float], ...], ...]
_MAX_POINTS = 1500
"""Points of one curve; of longer clips each point is the worst of several frames."""


@dataclass(frozen=True)
class Curve:
    """One line of a chart."""

    name: str
    label: str
    segments: Segments
    """Runs of consecutive frames that were measured; x, y in the drawing's units."""
    mean_y: float | None = None
    """Where its mean lies, if a line is to be drawn there."""


@dataclass(frozen=True)
class Chart:
    """One drawing of 400 x 210 units."""

    measure: Metric
    summary: str
    curves: tuple[Curve, ...]
    missed: tuple[float, ...]
    """x of frames whose face was missed."""
    x_ticks: tuple[tuple[float, str], ...]
    y_ticks: tuple[tuple[float, str], ...]
    data: Mapping[str, Any]
    """For the reader's pointer: x of each point and its values as text."""

    LEFT, RIGHT, TOP, BOTTOM = 42.0, 392.0, 10.0, 176.0


def make_chart(frames: Sequence[Mapping[str, Any]], measure: Metric) -> Chart | None:
    """One measure over the frames with the codec's noise floor where it was measured; None if nothing was."""
    frames = sorted(frames, key=lambda frame: frame["frame_id"])
    own = [frame.get(measure.key) for frame in frames]
    floor = [(frame.get("floor") or {}).get(measure.key) for frame in frames]
    values = [value for value in own + floor if value is not None]
    if not values:
        return None
    every = math.ceil(len(frames) / _MAX_POINTS)
    ids = [frame["frame_id"] for frame in frames]
    # Bars of `every` frames are as bad as their worst frame; a missed frame hides nothing.
    pick: Callable[[list[float]], float] = min if measure.higher_is_better else max
    groups = [range(start, min(start + every, len(ids))) for start in range(0, len(ids), every)]

    def thinned(series: list[float | None]) -> list[float | None]:
        kept = [[v for v in (series[i] for i in group) if v is not None] for group in groups]
        return [pick(group) if group else None for group in kept]

    xs = [ids[group[0]] for group in groups]
    x_of = axis(xs[0], xs[-1], Chart.LEFT, Chart.RIGHT)
    low, high, y_marks = _y_range(values, measure)
    y_of = axis(low, high, Chart.BOTTOM, Chart.TOP)
    curves = []
    texts: dict[str, list[str]] = {}
    for name, label, series in (("recovered", "recovered", own), ("floor", "codec's noise floor", floor)):
        thin = thinned(series)
        known = [value for value in series if value is not None]
        if not known:
            continue
        mean_y = round(y_of(sum(known) / len(known)), 2) if name == "floor" else None
        points = (
            None if value is None else (round(x_of(x), 2), round(y_of(value), 2))
            for x, value in zip(xs, thin, strict=True)
        )
        curves.append(Curve(name, label, segments_of(points), mean_y))
        texts[name] = [
            (nothing(frames[group[0]]) if name == "recovered" else "–") if value is None else text_of(value, measure)
            for group, value in zip(groups, thin, strict=True)
        ]
    missed = tuple(round(x_of(frame["frame_id"]), 2) for frame in frames if frame.get("missed"))
    known_own = [value for value in own if value is not None]
    summary = f"{measure.title} of {len(known_own)} frames"
    if known_own:
        worst = min(known_own) if measure.higher_is_better else max(known_own)
        mean = sum(known_own) / len(known_own)
        summary += f": mean {text_of(mean, measure)}, worst {text_of(worst, measure)}"
    if every > 1:
        summary += f"; each point is the worst of {every} frames"
    return Chart(
        measure=measure,
        summary=summary,
        curves=tuple(curves),
        missed=missed,
        x_ticks=tuple((round(x_of(x), 2), f"{x:g}") for x in ticks(xs[0], xs[-1], 5) if x == int(x)),
        y_ticks=tuple((round(y_of(y), 2), f"{y:g}") for y in y_marks),
        data={"x": [round(x_of(x), 2) for x in xs], "frame": xs, **texts},
    )


def axis(low: float, high: float, start: float, stop: float) -> Callable[[float], float]:
    """What puts low to start and high to stop, and where they are one, all in the middle."""
    if high == low:
        return lambda value: (start + stop) / 2
    return lambda value: start + (value - low) / (high - low) * (stop - start)


def _y_range(values: Sequence[float], measure: Metric) -> tuple[float, float, list[float]]:
    if measure.higher_is_better:
        low, high = min(0.95, math.floor(min(values) * 20 - 1e-9) / 20), 1.0
        return low, high, ticks(low, high, 4)
    high = max(max(values) * 1.05, 10.0**-measure.digits)
    step = ticks(0, high, 4)
    top = step[-1] if step[-1] >= high else step[-1] + (step[1] - step[0])
    return 0.0, top, ticks(0, top, 4)


def ticks(low: float, high: float, count: int) -> list[float]:
    """Round numbers from low to high, about `count` of them."""
    span = high - low
    if span <= 0:
        return [low]
    raw = span / count
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= raw * 0.999)
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    return [round(index * step, 10) for index in range(first, last + 1)]


def segments_of(points: Iterable[tuple[float, float] | None]) -> Segments:
    """Runs of points (x, y) that follow one another; None stands between two."""
    segments: list[list[tuple[float, float]]] = [[]]
    for point in points:
        if point is None:
            segments.append([])
        else:
            segments[-1].append(point)
    return tuple(tuple(segment) for segment in segments if segment)


def nothing(frame: Mapping[str, Any]) -> str:
    """Why a frame has no errors."""
    return "missed" if frame.get("missed") else "no face"
