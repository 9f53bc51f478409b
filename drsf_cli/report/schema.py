"""The form of the report that `drsf deid` writes. It holds numbers, never pixels.

A report is a dict of the form `Report`, from the run that writes it to the page that shows it. `read_report` checks a
file, and `REPORT.schema()` is the JSON Schema (`drsf report --schema`, docs/schemas/report.schema.json).

Errors are against what was to be embedded: what is read of the original or, where `targets` is not null, the file that
was given; with the shape that the settings say. They are of the largest face of each frame that was embedded for;
`fidelity.other_faces` has the further ones. A number that was not measured is null or not there. All places are px of
the frames as they were turned, if `input.rotate` is not 0.

To add a section, write its form here and its content into drsf_cli/deid/sections.py.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, NotRequired, cast

import numpy as np
from pydantic import with_config
from typing_extensions import TypedDict

from attacks.obscure import Region
from drsf_cli.measure.json_form import CONFIG, Count, Form, Lengths, Number, read_json
from drsf_cli.measure.leakage_form import Leakage
from drsf_cli.measure.metrics import PLOTTED, Errors, ErrorStatistics, worst_by
from drsf_cli.measure.records import FrameRecord, from_records, to_records
from drsf_cli.measure.signals import FaceSignals
from victims.face import FrameObservation

SAMPLES = 12
"""Frames shown of one clip; of many clips fewer, so that the page stays small."""


class FileSection(TypedDict):
    """A file as it was when the report was written."""

    path: str
    sha256: str
    """In hex; of a folder, over its files and their names."""


class InputSection(FileSection):
    """The original."""

    frames: NotRequired[Count]
    width: NotRequired[Count]
    """px, of the frames as they were turned."""
    height: NotRequired[Count]
    fps: NotRequired[Number]
    notes: NotRequired[list[str]]
    """What was taken for granted when the file was read, a sentence each."""
    rotate: NotRequired[int]
    """Degrees clockwise by which frames were turned."""
    camera_sha256: NotRequired[str | None]
    """Of the calibration that was given."""


class OutputSection(FileSection):
    """The de-identified video."""

    bytes: NotRequired[Count]


class TargetsSection(FileSection):
    """The file of attributes that was embedded in place of what the original shows."""

    frames: Count
    """Frames with a face in that file."""
    faces: Count


class ModelSection(TypedDict):
    """A model and its weights."""

    name: NotRequired[str]
    weights: dict[str, str]
    """File name -> sha256 in hex."""


class Summary(ErrorStatistics):
    """Errors over frames."""

    frames: NotRequired[Count]
    """Frames in which both readings have the face."""
    missed: NotRequired[Count]
    """Frames in which only the original has it."""
    extra: NotRequired[Count]
    """Frames in which only the output has it."""
    missed_frames: NotRequired[list[Count]]
    """Frame ids."""


class TrackSection(ErrorStatistics):
    """Errors of one face, followed through the clip."""

    track: Count
    first_frame: Count
    last_frame: Count
    frames: Count
    missed: Count


class OtherFacesSection(ErrorStatistics):
    """Errors of the faces that are not the largest of their frame."""

    frames: NotRequired[Count]
    missed: NotRequired[Count]
    tracks: NotRequired[list[TrackSection]]
    """Of all faces."""


class FidelitySection(TypedDict):
    """How what was embedded is read back."""

    recovered: Summary
    """From the written file."""
    noise_floor: NotRequired[Summary | None]
    """From the untouched clip after the same codec."""
    obscured_only: NotRequired[Summary | None]
    """From the frames in `samples`, obscured and with nothing embedded."""
    other_faces: NotRequired[OtherFacesSection | None]


class FrameSignals(TypedDict, total=False):
    """The signals of the face that the frame's errors are of."""

    original: FaceSignals | None
    recovered: FaceSignals | None


class RegionSection(TypedDict):
    """A rectangle that was obscured."""

    rect: Annotated[list[int], Lengths((4,))]
    """x1, y1, x2, y2 px, half-open."""
    cell: int
    """Block size or sigma, px."""
    origin: Annotated[list[int], Lengths((2,))]
    """x, y px of a corner of the grid of blocks."""


class FrameSection(Errors):
    """One frame."""

    frame_id: Count
    pts: NotRequired[Number | None]
    """When it is shown, s."""
    missed: NotRequired[bool]
    """Whether the original has the face and the output does not."""
    passes: NotRequired[Count]
    """Passes of the victims that fitting the drawer and steps took in this frame."""
    steps: NotRequired[Count]
    """Steps of correction."""
    floor: NotRequired[Errors | None]
    """Errors of the untouched frame after the same codec."""
    signals: NotRequired[FrameSignals | None]
    regions: NotRequired[list[RegionSection]]
    """What was obscured."""


class SampleSection(TypedDict):
    """A frame to be shown on the page."""

    frame_id: Count
    regions: NotRequired[list[RegionSection]]
    original: NotRequired[FrameRecord | None]
    """What was to be embedded."""
    recovered: NotRequired[FrameRecord | None]
    """What is read of the output."""
    obscured_only: NotRequired[FrameRecord | None]
    """What is read of the frame obscured and with nothing embedded."""


class CostSection(TypedDict, total=False):
    """What the run took."""

    victim_passes_per_frame: Number
    victim_checks_per_frame: Number
    steps_per_frame: Number
    seconds_per_frame: Number
    peak_memory_mb: Number


class VisibilitySection(TypedDict):
    """What a person sees of the perturbation in faces' boxes: means over the faces that were embedded for."""

    rms: Number | None
    """Root mean square of the change, levels of 255."""
    rms_worst: Number | None
    """The largest of any face."""
    p95: Number | None
    """95th percentile of the absolute change, levels of 255."""
    at_eps: Number | None
    """Share of values that are changed by as much as is allowed."""
    ssim: Number | None
    """Structural similarity of the obscured and the perturbed face, before encoding; 1 is equal."""


class CoveringSection(TypedDict, total=False):
    """How heads were found."""

    detectors: list[ModelSection]
    frames_with_face: Count
    frames_covered: Count
    frames_filled_in: Count
    """Frames that were covered though no face was seen in them."""


class RegionCheckSection(TypedDict):
    """How close one region of one frame is to the source."""

    frame: Count
    rect: Annotated[list[int], Lengths((4,))]
    ssim: Number
    """Highest of the tiles with detail; 0 where there is none."""
    detail: Number
    """Highest correlation of detail of such tiles."""
    open_share: Number
    """Of the tiles with detail: those over both limits."""
    returned: Number
    """Of the removed detail: how much is back, 0 (nothing) to 1."""


class ExposureSection(TypedDict):
    """A face that is seen and not covered."""

    frame: Count
    detector: str
    box: Annotated[list[Number], Lengths((4,))]
    """x1, y1, x2, y2 px."""
    score: Number | None
    """Null for detectors that give none."""
    uncovered: Number
    """Share of the box outside all regions."""
    certain: bool
    """Whether the audit fails on it."""


class WorstFrameSection(TypedDict, total=False):
    """A frame that came near to failing."""

    frame: Count
    nearness: Number
    """How near it came: the share of open tiles or of returned detail; 2 for a face that is not covered."""


class AuditSection(TypedDict, total=False):
    """What the audit of the written file found."""

    passed: bool
    problems: list[str]
    """A sentence each."""
    frames: Count
    regions_checked: Count
    worst_ssim: Number
    worst_detail: Number
    worst_returned: Number
    limits: dict[str, Number]
    open_regions: list[RegionCheckSection]
    exposures: list[ExposureSection]
    detectors: list[str]
    detectors_every: Count
    frames_looked_at: Count
    streams: dict[str, int]
    worst_frames: list[WorstFrameSection]
    """Those on the contact sheet."""


@with_config(CONFIG)
class Report(TypedDict):
    """What a run of `drsf deid` measured."""

    drsf: NotRequired[str]
    """The version that wrote it."""
    input: InputSection
    output: OutputSection
    settings: dict[str, Any]
    """The run's `DeidSettings`."""
    targets: NotRequired[TargetsSection | None]
    victims: dict[str, ModelSection | None]
    """The authorised models by role."""
    drawer: NotRequired[dict[str, str] | None]
    """The weights of the drawer, before it was fitted to the clip: file name -> sha256."""
    repelled: NotRequired[dict[str, ModelSection] | None]
    """Models that were made to read nothing, by the name they were given with."""
    providers: NotRequired[dict[str, list[str]]]
    """Victim -> ONNX Runtime's providers that ran it."""
    versions: dict[str, str]
    fidelity: FidelitySection
    tolerances: NotRequired[dict[str, Number]]
    """Errors that are good enough, by role: 1 - IoU, landmark distance over sqrt(w·h), degrees."""
    frames: list[FrameSection]
    samples: NotRequired[list[SampleSection] | None]
    visibility: NotRequired[VisibilitySection | None]
    """Null where nothing was embedded."""
    cost: NotRequired[CostSection]
    covering: NotRequired[CoveringSection]
    audit: NotRequired[AuditSection | None]
    leakage: NotRequired[Leakage | None]
    """What models that were not authorised read."""


REPORT = Form(Report, "Report of drsf deid", "give a report that `drsf deid` wrote.")


def read_report(path: str | Path) -> Report:
    """A report. Raises InputError naming the place that is not of the form."""
    return check_report(read_json(Path(path), REPORT.advice), str(path))


def check_report(report: object, source: str) -> Report:
    """`report`, if it is one. Raises InputError naming the first place that is not of the form."""
    REPORT.check(report, source)
    known = cast(Report, report)
    for position, entry in enumerate(known.get("samples") or []):
        for kind in ("original", "recovered", "obscured_only"):
            reading(entry, kind, f"{source}: samples[{position}].{kind}")
    return known


def sample_ids(frames: Sequence[Mapping[str, Any]], count: int = SAMPLES) -> list[int]:
    """At most `count` frame ids to be shown, rising: the worst by each plotted metric, the others evenly spread."""
    ids = sorted(frame["frame_id"] for frame in frames)
    if len(ids) <= count:
        return ids
    worst = [table[0]["frame_id"] for table in (worst_by(frames, metric) for metric in PLOTTED) if table]
    chosen = set(worst[:count])
    for index in np.linspace(0, len(ids) - 1, count).round().astype(int):
        if len(chosen) < count:
            chosen.add(ids[index])
    return sorted(chosen)


def sample(
    frame_id: int,
    regions: Sequence[Region],
    original: FrameObservation | None,
    recovered: FrameObservation | None,
    obscured_only: FrameObservation | None = None,
) -> SampleSection:
    """An entry of `samples`.

    It has what was read from the original, from the output, and from the obscured frame without a perturbation, and the
    rectangles that were obscured.
    """
    readings = {"original": original, "recovered": recovered, "obscured_only": obscured_only}
    read = {kind: to_records([one])[0] for kind, one in readings.items() if one is not None}
    return cast(SampleSection, {"frame_id": int(frame_id), "regions": regions_section(regions), **read})


def reading(entry: Mapping[str, Any], kind: str, place: str) -> FrameObservation | None:
    """What an entry of `samples` says was read of `kind`: "original", "recovered" or "obscured_only"."""
    record = entry.get(kind)
    return None if record is None else from_records([record], place)[0]


def regions_section(regions: Sequence[Region]) -> list[RegionSection]:
    """What a frame hides, as the report has it."""
    return [
        {"rect": [int(v) for v in r.rect], "cell": int(r.cell), "origin": [int(v) for v in r.origin]} for r in regions
    ]


def regions_of(entry: FrameSection | SampleSection) -> tuple[Region, ...]:
    """What an entry of `frames` or `samples` says was obscured; nothing where it does not say."""
    regions = []
    for one in entry.get("regions", []):
        x1, y1, x2, y2 = one["rect"]
        x, y = one["origin"]
        regions.append(Region((x1, y1, x2, y2), one["cell"], (x, y)))
    return tuple(regions)
