"""The audit: is what was written what it should be? Everything here is measured on the *written file*, decoded again.

* Form: one video stream, sound only where it was asked for, no other stream, no tags; as many frames as the source, of
  its size, at its times.
* Hidden: inside every region the written picture is far from the source. Two measures:
  What came back: the source is obscured anew, and of the detail that this takes away, `returned_share` says how much
  the written file shows. The perturbation and the codec's noise bring back little; an open spot brings back all.
  Likeness: SSIM and the correlation of detail inside the blocks, tile by tile, with the source alone. It is coarser,
  and does not rest on the code that obscures being right.
* Uncovered: detectors that had no part in the covering (and those that had) look at one of `EVERY` frames of the
  source. A face of which more than `UNCOVERED` lies outside the regions is an exposed one.

Nothing of the source's pixels is kept; the contact sheet shows the written frames.
"""

from __future__ import annotations

import heapq
import io
import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import av
import cv2
import numpy as np
from av.error import FFmpegError
from PIL import Image as Picture

from attacks.obscure import Obscuring, Region, obscure, region_mask
from drsf_cli.measure.hidden import DETAIL_LIMIT, SSIM_LIMIT, compare_region, returned_share
from drsf_cli.media.reader import Frame, VideoReader
from drsf_cli.progress import with_last
from drsf_cli.readers.finders import FaceFinder
from drsf_cli.report.schema import AuditSection, ExposureSection, RegionCheckSection
from victims.base import Image
from victims.crew import Each
from victims.face import iou
from victims.track import CONFIRM_SCORE
from weights.errors import InputError

OPEN_SHARE = 0.25
"""A region is too close to the source when more than this share of its tiles are open."""
RETURNED_LIMIT = 0.88
"""... or when more than this share of the removed detail is back (drsf_cli/measure/hidden.py): a square of a sixth of
its shorter side, open, is enough. Of 420 hidden heads none came over 0.69 (with another face drawn in at 24 levels and
JPEG 75), of open ones none under 0.95 (JPEG 30; softened): docs/measurements/faults.md,
tests/benchmarks/audit_limits.py."""
UNCOVERED = 0.25
"""Of a face's box; a mask that hides three quarters of it hides eyes, nose and mouth."""
CONFIDENT = CONFIRM_SCORE
"""From this score on a detector is believed, as covering does of a single frame; below it, and for detectors without a
score, a second one must agree."""
AGREE_IOU = 0.3
SMALLEST = 4
"""px: in regions that are smaller there is nothing to compare."""
EVERY = 12
"""Frames from one that the detectors look at to the next."""
WORST = 12
"""Frames on the contact sheet."""

_TIME_SLACK = 0.0015  # s: half a tick of the coarsest time base that is in use, and rounding

# What a muxer writes of itself; anything else comes from somewhere
_OWN_TAGS = {
    "major_brand", "minor_version", "compatible_brands", "encoder", "handler_name", "vendor_id", "language", "duration",
}  # fmt: skip
_PICTURE_TAGS = {"jfif", "jfif_version", "jfif_unit", "jfif_density", "dpi", "srgb", "gamma"}


@dataclass
class AuditReport:
    """What the audit found. `problems` empty: passed."""

    problems: list[str] = field(default_factory=list)
    """One sentence each."""
    frames: int = 0
    regions_checked: int = 0
    worst_ssim: float = 0.0
    worst_detail: float = 0.0
    worst_returned: float = 0.0
    open_regions: list[RegionCheckSection] = field(default_factory=list)
    """At most `WORST` of them."""
    exposures: list[ExposureSection] = field(default_factory=list)
    detectors: list[str] = field(default_factory=list)
    frames_looked_at: int = 0
    every: int = 0
    streams: dict[str, int] = field(default_factory=dict)
    worst_frames: list[tuple[int, float]] = field(default_factory=list)
    """(frame, how near it is to failing) of those on the sheet, the nearest first."""
    sheet: bytes = field(default=b"", repr=False)
    """PNG: the frames nearest to failing, as written."""

    @property
    def passed(self) -> bool:
        """Whether nothing was found."""
        return not self.problems

    def add(self, found: AuditReport) -> None:
        """Add what was found in the next frame."""
        self.frames += 1
        self.frames_looked_at += found.frames_looked_at
        self.regions_checked += found.regions_checked
        self.worst_ssim = max(self.worst_ssim, found.worst_ssim)
        self.worst_detail = max(self.worst_detail, found.worst_detail)
        self.worst_returned = max(self.worst_returned, found.worst_returned)
        self.open_regions = (self.open_regions + found.open_regions)[:WORST]
        self.exposures += found.exposures

    def to_dict(self) -> AuditSection:
        """For the report, JSON-able, without the pictures."""
        return {
            "passed": self.passed,
            "problems": self.problems,
            "frames": self.frames,
            "regions_checked": self.regions_checked,
            "worst_ssim": round(self.worst_ssim, 4),
            "worst_detail": round(self.worst_detail, 4),
            "worst_returned": round(self.worst_returned, 4),
            "limits": {
                "returned": RETURNED_LIMIT,
                "ssim": SSIM_LIMIT,
                "detail": DETAIL_LIMIT,
                "open_share": OPEN_SHARE,
                "uncovered": UNCOVERED,
            },
            "open_regions": self.open_regions,
            "exposures": self.exposures,
            "detectors": self.detectors,
            "detectors_every": self.every,
            "frames_looked_at": self.frames_looked_at,
            "streams": self.streams,
            "worst_frames": [{"frame": index, "nearness": round(near, 4)} for index, near in self.worst_frames],
        }


def audit_file(
    source: VideoReader,
    written: Path,
    regions: Sequence[Sequence[Region]],
    obscuring: Obscuring,
    finders: dict[str, FaceFinder],
    *,
    keep_audio: bool = False,
    around: Sequence[bool] | None = None,
    each: Each = map,
) -> AuditReport:
    """Compare `written` with `source`, whose frame k had to hide `regions[k]`.

    `finders`: name -> what finds faces in an image; `drsf_cli.readers.finders.finders_around` gives those that look as
    hard as covering does. They look at the first frame, at those that come `EVERY` or more after the one before, and at
    the last. `around`: whether covering looked at each frame all around (drsf_cli/readers/watch.py); only such frames
    count, for what is no face and only seen there would fail the audit. `each` shares the frames among cores.
    A file that cannot be read raises InputError; what is wrong with one that can is in the report.
    """
    report = AuditReport(detectors=list(finders), every=EVERY)
    result = VideoReader(written)
    if result.info.kind == "video":  # which pictures may have become
        _check_streams(written, keep_audio, report)
    else:
        _check_pictures(written, report)
    if (result.info.width, result.info.height) != (source.info.width, source.info.height):
        report.problems.append(
            f"The frames are {result.info.width}x{result.info.height} where the source has "
            f"{source.info.width}x{source.info.height}."
        )
        return report
    worst: list[tuple[float, int, Image]] = []
    zero: float | None = None
    late = 0

    def looked() -> Iterator[tuple[Frame, Frame, float, AuditReport]]:
        for before, after, due in _looked_at(_pairs(source, result, report), around):
            found = AuditReport()  # the looks at one frame are shared among cores, so frames are not
            yield before, after, check_uncovered(before, _of(regions, before), finders, found) if due else 0.0, found

    def check(shown: tuple[Frame, Frame, float, AuditReport]) -> tuple[Frame, Frame, float, AuditReport]:
        before, after, badness, found = shown
        hidden = _check_hidden(before, after, _of(regions, before), obscuring, found)
        return before, after, max(badness, hidden), found

    for before, after, badness, found in each(check, looked()):
        zero = before.pts - after.pts if zero is None else zero
        late += abs(before.pts - after.pts - zero) > _TIME_SLACK
        _keep_worst(worst, badness, after, _of(regions, before))
        report.add(found)
    _judge(report, len(regions), late)
    worst.sort(key=lambda entry: (-entry[0], -entry[1]))
    report.worst_frames = [(-negative, badness) for badness, negative, _ in worst]
    report.sheet = _contact_sheet([image for _, _, image in worst])
    return report


def _of(regions: Sequence[Sequence[Region]], frame: Frame) -> Sequence[Region]:
    """What had to be hidden in a frame; nothing in one too many."""
    return regions[frame.index] if frame.index < len(regions) else ()


def _looked_at(
    pairs: Iterable[tuple[Frame, Frame]], around: Sequence[bool] | None
) -> Iterator[tuple[Frame, Frame, bool]]:
    """Each pair, and whether the detectors look at it, as `audit_file` says."""
    due = 0
    for (before, after), last in with_last(pairs):
        ready = around is None or before.index >= len(around) or around[before.index]
        looked_at = last or (before.index >= due and ready)
        due = before.index + EVERY if looked_at else due
        yield before, after, looked_at


def _judge(report: AuditReport, planned: int, late: int) -> None:
    """Say what is wrong with what was counted; `late` frames are shown at other times than in the source."""
    if report.frames != planned:
        report.problems.append(f"{planned} frames were planned and {report.frames} are there.")
    if late:
        report.problems.append(f"{late} frames are shown at other times than in the source.")
    if report.open_regions:
        first = report.open_regions[0]
        report.problems.append(
            f"Frame {first['frame']} shows too much of the source in the region {tuple(first['rect'])} "
            f"({first['returned']:.0%} of the hidden detail is back, SSIM {first['ssim']:.2f})."
        )
    certain = next((one for one in report.exposures if one["certain"]), None)
    if certain is not None:
        report.problems.append(
            f"Frame {certain['frame']} shows a face that is not covered, at {tuple(round(v) for v in certain['box'])} "
            f"({certain['detector']}); cover it with --region."
        )


def _check_hidden(
    before: Frame, after: Frame, regions: Sequence[Region], obscuring: Obscuring, report: AuditReport
) -> float:
    badness = 0.0
    hidden = obscure(before.image, regions, obscuring)
    for region in regions:
        x1, y1, x2, y2 = region.rect
        if min(x2 - x1, y2 - y1) < SMALLEST:
            continue
        returned = returned_share(before.image, hidden, after.image, region.rect)
        ssim, detail, share = compare_region(before.image, after.image, region, obscuring, regions)
        report.regions_checked += 1
        report.worst_ssim = max(report.worst_ssim, ssim)
        report.worst_detail = max(report.worst_detail, detail)
        report.worst_returned = max(report.worst_returned, returned)
        badness = max(badness, share, returned)
        if (share > OPEN_SHARE or returned > RETURNED_LIMIT) and len(report.open_regions) < WORST:
            report.open_regions.append(
                {
                    "frame": before.index,
                    "rect": list(region.rect),
                    "ssim": ssim,
                    "detail": detail,
                    "open_share": share,
                    "returned": returned,
                }
            )
    return badness


def check_uncovered(
    frame: Frame, regions: Sequence[Region], finders: dict[str, FaceFinder], report: AuditReport
) -> float:
    """Look for faces outside `regions` in a written frame; the problems go into `report`."""
    height, width = frame.image.shape[:2]
    mask = region_mask(regions, height, width)
    report.frames_looked_at += 1
    seen = {name: find(frame.image) for name, find in finders.items()}
    badness = 0.0
    for name, found in seen.items():
        for box, score in zip(found.boxes, found.scores, strict=True):
            x1, y1, x2, y2 = (int(v) for v in (*np.floor(box[:2]), *np.ceil(box[2:])))
            inside = mask[max(0, y1) : max(0, y2), max(0, x1) : max(0, x2)]
            uncovered = float(1.0 - inside.mean()) if inside.size else 0.0
            if uncovered <= UNCOVERED:
                continue
            certain = bool(score >= CONFIDENT) or any(
                iou(box, other) >= AGREE_IOU for n, o in seen.items() if n != name for other in o.boxes
            )
            report.exposures.append(
                {
                    "frame": frame.index,
                    "detector": name,
                    "box": [float(side) for side in box],
                    "score": None if np.isnan(score) else float(score),
                    "uncovered": uncovered,
                    "certain": certain,
                }
            )
            badness = max(badness, 2.0 if certain else 0.5)
    return badness


def _pairs(source: VideoReader, result: VideoReader, report: AuditReport) -> Iterator[tuple[Frame, Frame]]:
    extra = {"source": 0, "written": 0}
    for before, after in itertools.zip_longest(source, result):
        if before is None or after is None:
            extra["written" if before is None else "source"] += 1
            continue
        yield before, after
    if extra["written"]:
        report.problems.append(f"The written file has {extra['written']} frames that the source does not have.")
    if extra["source"]:
        report.problems.append(f"The written file lacks {extra['source']} frames of the source.")


def _check_streams(written: Path, keep_audio: bool, report: AuditReport) -> None:
    try:
        with av.open(str(written.absolute())) as container:
            kinds: dict[str, int] = {}
            tags = {f"{key}={value}" for key, value in container.metadata.items() if key.lower() not in _OWN_TAGS}
            for stream in container.streams:
                kinds[stream.type] = kinds.get(stream.type, 0) + 1
                tags |= {f"{key}={value}" for key, value in stream.metadata.items() if key.lower() not in _OWN_TAGS}
            chapters = len(container.chapters())
    except (FFmpegError, OSError) as error:
        raise InputError(f"{written} cannot be read back ({error}); write it again.") from error
    report.streams = kinds
    if kinds.get("video", 0) != 1:
        report.problems.append(f"There are {kinds.get('video', 0)} video streams where one is wanted.")
    others = sorted(kind for kind in kinds if kind != "video" and not (kind == "audio" and keep_audio))
    if others:
        report.problems.append(f"There are streams that nobody asked for: {', '.join(others)}.")
    if tags:
        report.problems.append(f"There are tags that say something of the source: {', '.join(sorted(tags))}.")
    if chapters:
        report.problems.append(f"There are {chapters} chapter marks.")


def _check_pictures(written: Path, report: AuditReport) -> None:
    files = sorted(path for path in written.iterdir() if path.is_file()) if written.is_dir() else [written]
    report.streams = {"pictures": len(files)}
    for path in files:
        with Picture.open(path) as picture:
            kept = {str(key) for key in picture.info} - _PICTURE_TAGS
            if kept or picture.getexif():
                report.problems.append(f"{path.name} holds tags: {', '.join(sorted(kept)) or 'EXIF'}.")


def _keep_worst(worst: list[tuple[float, int, Image]], badness: float, frame: Frame, regions: Sequence[Region]) -> None:
    entry = (badness, -frame.index)
    if len(worst) == WORST and worst[0][:2] >= entry:
        return
    image = frame.image.copy()
    for region in regions:
        x1, y1, x2, y2 = region.rect
        cv2.rectangle(image, (x1, y1), (x2 - 1, y2 - 1), (255, 220, 0), max(1, image.shape[1] // 400))
    scale = min(1.0, 480 / image.shape[1])
    small = cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    cv2.putText(small, f"{frame.index}", (6, 18), cv2.FONT_HERSHEY_SIMPLEX, 0.5, (255, 255, 255), 1, cv2.LINE_AA)
    heapq.heappush(worst, (*entry, np.asarray(small, dtype=np.uint8)))
    if len(worst) > WORST:
        heapq.heappop(worst)


def _contact_sheet(images: Sequence[Image]) -> bytes:
    """The images in rows of four, as PNG; nothing when there are none."""
    if not images:
        return b""
    height, width = images[0].shape[:2]
    columns = min(4, len(images))
    rows = -(-len(images) // columns)
    sheet = np.zeros((rows * height, columns * width, 3), dtype=np.uint8)
    for k, image in enumerate(images):
        y, x = (k // columns) * height, (k % columns) * width
        sheet[y : y + height, x : x + width] = image
    buffer = io.BytesIO()
    Picture.fromarray(sheet).save(buffer, format="PNG")
    return buffer.getvalue()
