"""Signals for driving research, frame by frame: gaze, head pose, openness, blinks, PERCLOS, yawns, glance zones.

`signals` makes a table from a reading, with a row for each frame of the reading, ordered by frame_id, about the frame's
own face. Unknown values are NaN (None for the zone): a frame without a face stays a gap, and nothing is carried over.
The names of the columns include their units; docs/signals.md has the formulas and their sources.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, cast

import numpy as np
from typing_extensions import TypedDict

from drsf_cli.measure.drowsiness import eyelids, perclos, yawns
from drsf_cli.measure.glances import Glance, Zones, glances, load_zones, zones_over_time
from drsf_cli.measure.json_form import Number
from drsf_cli.measure.timeline import Event, Timeline
from victims.camera import vector_to_angles
from victims.face import Array, Face, FrameObservation
from victims.openness import eye_openness, mouth_openness
from weights.errors import OutputError, UsageError
from weights.files import write_atomically


@dataclass(frozen=True, eq=False)
class Measured:
    """The values read from each frame, (n,) each; NaN if they were not read."""

    frame_id: Array
    """Whole numbers, rising."""
    time_s: Array
    """Presentation time."""
    yaw_deg: Array
    """Gaze in the camera frame; > 0 looks to the left of the image."""
    pitch_deg: Array
    """Gaze in the camera frame; > 0 looks up."""
    head_x_deg: Array
    """Euler angles of the head in the camera frame, intrinsic X-Y-Z; a frontal head is 0, 0, 0."""
    head_y_deg: Array
    head_z_deg: Array
    eye_openness_left: Array
    """Eye aspect ratio of the person's left eye."""
    eye_openness_right: Array
    mouth_openness: Array
    """Mouth aspect ratio."""


@dataclass(frozen=True, eq=False)
class Signals(Measured):
    """The table. The fields down to `zone` are its columns, in this order after those of `Measured`."""

    eye_openness: Array
    """Mean of both eyes."""
    eye_open_level: Array
    """Openness of the person's open eyes around this time."""
    eyes_closed: Array
    """1 where the eyes are more than half closed, else 0."""
    blink: Array
    """Number of the blink, from 1; 0 outside of blinks."""
    perclos: Array
    """0..1: share of the last minute in which the eyes were at least 80 % closed."""
    yawn: Array
    """Number of the yawn, from 1; 0 outside of yawns."""
    zone: tuple[str | None, ...]
    """Zone of the gaze."""

    zones: Zones
    """The definition of the zones."""
    timeline: Timeline | None
    """None if times are not known or do not rise: then there are no blinks, PERCLOS, yawns or glances."""
    shut_share: float | None
    """Openness of shut eyes in units of the open level; None where the eyes never close."""
    blinks: tuple[Event, ...]
    yawns: tuple[Event, ...]
    glances: tuple[Glance, ...]
    """Away from the road."""

    def __len__(self) -> int:
        return len(self.frame_id)


class FaceSignals(TypedDict, total=False):
    """What driving research derives its measures from (docs/signals.md).

    Yaw and pitch of the gaze in degrees, openness of the eyes (mean of both) and the mouth; null for what is not known.
    """

    yaw_deg: Number | None
    pitch_deg: Number | None
    eye_openness: Number | None
    mouth_openness: Number | None


_WHOLE = ("frame_id", "eyes_closed", "blink", "yawn")
_FIELDS = [field.name for field in fields(Signals)]
COLUMNS: tuple[str, ...] = tuple(_FIELDS[: _FIELDS.index("zone") + 1])
"""In the order in which they are written."""


def signals(observations: Iterable[FrameObservation], zones: Zones | str | Path | None = None) -> Signals:
    """The table of a reading, as `read_observations` or `infer` gives it.

    `zones`: what `load_zones` takes or gives; None is a camera on the dashboard, left-hand drive. Raises InputError.
    """
    return derive(measured(observations), zones if isinstance(zones, Zones) else load_zones(zones))


def measured(observations: Iterable[FrameObservation]) -> Measured:
    """The values of the frames' own faces."""
    ordered = sorted(observations, key=lambda observation: observation.index)
    rows = [(one.index, one.pts, *_numbers(one.own)) for one in ordered]
    return Measured(*np.array(rows, dtype=np.float64).reshape(-1, len(fields(Measured))).T)


def face_signals(face: Face) -> FaceSignals:
    """What a report keeps of a face."""
    yaw, pitch, *_, left, right, mouth = _numbers(face)
    values = {"yaw_deg": yaw, "pitch_deg": pitch, "eye_openness": (left + right) / 2, "mouth_openness": mouth}
    rounded = {key: round(float(value), 5) if np.isfinite(value) else None for key, value in values.items()}
    return cast(FaceSignals, rounded)


def _numbers(face: Face | None) -> tuple[float, ...]:
    """yaw, pitch; x, y, z; left, right, mouth: the columns of `Measured` after the time."""
    gaze = head = np.full(3, np.nan)
    openness: tuple[float | None, ...] = (None, None, None)
    if face is not None:
        openness = (*eye_openness(face.landmarks), mouth_openness(face.landmarks))
        gaze = gaze if face.gaze is None else face.gaze
        head = head if face.euler_angles is None else face.euler_angles
    pitch, yaw = np.degrees(vector_to_angles(gaze))
    return (yaw, pitch, *head, *(np.nan if value is None else value for value in openness))


def derive(read: Measured, zones: Zones) -> Signals:
    """The table that follows from the values read."""
    eyes = (read.eye_openness_left + read.eye_openness_right) / 2
    timeline = Timeline.of(read.time_s)
    columns: dict[str, Any] = {field.name: getattr(read, field.name) for field in fields(Measured)}
    columns |= {"eye_openness": eyes, "zones": zones, "timeline": timeline}
    zone = zones.of(read.yaw_deg, read.pitch_deg)
    if timeline is None:
        names = ("eye_open_level", "eyes_closed", "blink", "perclos", "yawn")
        columns |= dict.fromkeys(names, np.full(len(eyes), np.nan))
        return Signals(**columns, zone=tuple(zone), shut_share=None, blinks=(), yawns=(), glances=())
    lids = eyelids(eyes, timeline)
    yawned = yawns(read.mouth_openness, timeline)
    if any(zone):
        zone = zones_over_time(zone, lids.blinks, lids.long_closures, timeline)
    return Signals(
        **columns,
        eye_open_level=lids.open_level,
        eyes_closed=np.where(np.isfinite(lids.share), lids.closed, np.nan),
        blink=_numbered(lids.blinks, lids.share),
        perclos=perclos(lids, timeline),
        yawn=_numbered(yawned, read.mouth_openness),
        zone=tuple(zone),
        shut_share=lids.shut_share,
        blinks=tuple(lids.blinks),
        yawns=tuple(yawned),
        glances=tuple(glances(zone, zones.road, timeline)),
    )


def _numbered(events: Iterable[Event], known: Array) -> Array:
    """(n,) number of the event of each row, 0 outside; NaN where `known` is."""
    numbers = np.where(np.isfinite(known), 0.0, np.nan)
    for number, event in enumerate(events, 1):
        numbers[event.rows] = number
    return numbers


# ---------------------------------------------------------------------------------------------------- writing


def write_signals(path: str | Path, table: Signals) -> None:
    """Write CSV with empty cells for unknown values, or Parquet with nulls if the name ends in .parquet.

    The file is written completely or not at all. Raises OutputError, and UsageError for another name or if pyarrow is
    missing.
    """
    path = Path(path)
    writers: dict[str, Callable[[Signals], str | bytes]] = {".csv": _csv, ".parquet": _parquet}
    if path.suffix.lower() not in writers:
        raise UsageError(f"{path}: signals are written as CSV or Parquet; give a name that ends in .csv or .parquet.")
    if not path.parent.is_dir():
        raise OutputError(f"{path.parent} is not a folder; make it first.")
    write_atomically(path, writers[path.suffix.lower()](table))


def _csv(table: Signals) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    cells = [[_cell(value) for value in getattr(table, name)] for name in COLUMNS]
    writer.writerows(zip(*cells, strict=True))
    return text.getvalue()


def _cell(value: str | float | None) -> str:
    if isinstance(value, str):
        return value
    return "" if value is None or np.isnan(value) else f"{value:.10g}"


def _parquet(table: Signals) -> bytes:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:
        raise UsageError("Parquet needs pyarrow; pip install 'drsf[parquet]', or write CSV.") from error
    arrays = {}
    for name in COLUMNS:
        values = getattr(table, name)
        if name == "zone":
            arrays[name] = pyarrow.array(values, pyarrow.string())
        else:
            kind = pyarrow.int64() if name in _WHOLE else pyarrow.float64()
            arrays[name] = pyarrow.array(values, mask=np.isnan(values)).cast(kind)
    buffer = io.BytesIO()
    parquet.write_table(pyarrow.table(arrays), buffer)
    return buffer.getvalue()
