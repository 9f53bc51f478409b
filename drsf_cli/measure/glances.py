"""Where a driver looks: zones of gaze, and glances away from the road.

Zones are ranges of yaw and pitch in the camera frame, in a TOML (drsf_cli/measure/zones has four to start from):

    road = "road"                 # the zone that is the road ahead
    [[zone]]
    name = "road"
    yaw = [-20, 20]               # degrees, from the first up to the second, which is not within;
    pitch = [2, inf]              # a range that is left out has no limits

A gaze is in the first zone that contains it, or in OTHER if none does. Yaw > 0 looks to the left of the image, which is
the driver's right; pitch > 0 looks up; 0, 0 looks straight into the camera.

A *glance* is gaze kept within one zone, as ISO 15007-1:2014 and NHTSA's "Visual-Manual NHTSA Driver Distraction
Guidelines for In-Vehicle Electronic Devices" (Docket NHTSA-2010-0053, 78 FR 24818, 26 April 2013) have it. Those
guidelines judge glances away from the road by their mean duration, the share that is longer than LONG_GLANCE, and their
sum, the total eyes-off-road time. Three rules make zones of frames into glances:

- During a blink the zone is the one before it: lids, not the eyes, moved.
- In a closure too long for a blink the zone is EYES_CLOSED. That is not a glance, because nothing is looked at.
- A stay shorter than SHORTEST_STAY belongs to the zone before it: fixations last 0.1 s or longer (ISO 15007-1:2014), so
  it is a saccade that passes through, or gaze pulled down by the lids at the ends of a blink.
"""

from __future__ import annotations

import math
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from drsf_cli.measure.timeline import Event, Timeline
from victims.face import Array
from weights.errors import InputError

EYES_CLOSED, OTHER = "eyes closed", "other"
SHORTEST_STAY = 0.1
"""s."""
LONG_GLANCE = 2.0
"""s; NHTSA's limit for one glance."""
PRESETS = ("dashboard-lhd", "dashboard-rhd", "a-pillar-lhd", "a-pillar-rhd")
"""Place of the camera, left- or right-hand drive."""
DEFAULT = PRESETS[0]
_FOLDER = Path(__file__).parent / "zones"
_Range = tuple[float, float]


@dataclass(frozen=True)
class Zone:
    """Gazes within both ranges."""

    name: str
    yaw: _Range
    """Degrees, from the first up to but not including the second."""
    pitch: _Range


@dataclass(frozen=True)
class Zones:
    """The zones of one car and camera, and which of them is the road."""

    road: str
    zones: tuple[Zone, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """Every zone a row may have, in the file's order."""
        return (*dict.fromkeys(zone.name for zone in self.zones), OTHER, EYES_CLOSED)

    def of(self, yaw: Array, pitch: Array) -> list[str | None]:
        """The zone of each gaze, (n,) degrees; None where it is not known."""
        found = np.full(len(yaw), OTHER, dtype=object)
        for zone in reversed(self.zones):
            inside = (zone.yaw[0] <= yaw) & (yaw < zone.yaw[1]) & (zone.pitch[0] <= pitch) & (pitch < zone.pitch[1])
            found[inside] = zone.name
        found[~(np.isfinite(yaw) & np.isfinite(pitch))] = None
        return list(found)


def load_zones(source: str | Path | None = None) -> Zones:
    """One of PRESETS, or a TOML file of the form above; None is DEFAULT. Raises InputError naming file and key."""
    name = DEFAULT if source is None else str(source)
    path = _FOLDER / f"{name}.toml" if name in PRESETS else Path(name)
    try:
        table = tomllib.loads(path.read_text("utf-8"))
    except OSError as error:
        raise InputError(
            f"{path}: cannot be read ({error.strerror}); give a TOML of zones, or one of {', '.join(PRESETS)}."
        ) from error
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise InputError(
            f"{path}: is not TOML ({error}); give ranges of yaw and pitch as docs/signals.md has them."
        ) from error
    return _parse(table, str(path))


def _parse(table: Mapping[str, Any], source: str) -> Zones:
    entries = table.get("zone")
    if not isinstance(entries, list) or not entries:
        raise InputError(f"{source}: has no [[zone]]; give each zone a name and ranges of yaw and pitch.")
    for key in table.keys() - {"zone", "road"}:
        raise InputError(f"{source}: {key} is unknown; it takes road and [[zone]].")
    zones = tuple(_zone(entry, f"{source}: zone {number}") for number, entry in enumerate(entries, 1))
    road = table.get("road", "road")
    if road not in {zone.name for zone in zones}:
        raise InputError(
            f'{source}: no zone is called "{road}"; set road to the name of the zone that is the road ahead.'
        )
    return Zones(road, zones)


def _zone(entry: object, place: str) -> Zone:
    if not isinstance(entry, dict) or not isinstance(entry.get("name"), str) or not entry["name"]:
        raise InputError(f"{place}: has no name; each [[zone]] needs one.")
    for key in entry.keys() - {"name", "yaw", "pitch"}:
        raise InputError(f"{place}: {key} is unknown; it takes name, yaw and pitch.")
    if entry["name"] in (OTHER, EYES_CLOSED):
        raise InputError(
            f'{place}: "{entry["name"]}" is what drsf calls gazes outside of all zones and shut eyes; rename it.'
        )
    return Zone(
        entry["name"], *(_range(entry.get(key, [-math.inf, math.inf]), f"{place}: {key}") for key in ("yaw", "pitch"))
    )


def _range(value: object, place: str) -> _Range:
    numbers = value if isinstance(value, list) else []
    if len(numbers) != 2 or not all(isinstance(v, int | float) and not isinstance(v, bool) for v in numbers):
        raise InputError(f"{place}: is not two numbers; give [from, to] in degrees.")
    low, high = map(float, numbers)
    if not low < high:
        raise InputError(f"{place}: {low:g} is not below {high:g}; give [from, to] in degrees.")
    return low, high


def zones_over_time(
    raw: Sequence[str | None], blinks: Sequence[Event], long_closures: Sequence[Event], timeline: Timeline
) -> list[str | None]:
    """The zone of each row by the three rules above, from the zone of its gaze (`Zones.of`).

    None stays None, except in a closure.
    """
    zones = list(raw)
    for event in long_closures:
        zones[event.rows] = [EYES_CLOSED] * (event.last - event.first + 1)
    for event in blinks:
        zones[event.rows] = [zones[event.first - 1]] * (event.last - event.first + 1)
    for event in timeline.runs(zones):
        before = zones[event.first - 1] if timeline.joined[event.first] else None
        if event.duration < SHORTEST_STAY - 1e-9 and before is not None and zones[event.first] != EYES_CLOSED:
            zones[event.rows] = [before] * (event.last - event.first + 1)
    return zones


@dataclass(frozen=True)
class Glance(Event):
    """Gaze kept away from the road, within one zone."""

    zone: str


def glances(zones: Sequence[str | None], road: str, timeline: Timeline) -> list[Glance]:
    """Glances away from the road, in order. If a gap or the clip's end cuts one off, the part that was seen counts."""
    return [
        Glance(event.first, event.last, event.start, event.end, zone)
        for event in timeline.runs(zones)
        if (zone := zones[event.first]) not in (road, EYES_CLOSED) and zone is not None
    ]
