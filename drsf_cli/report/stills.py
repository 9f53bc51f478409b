"""The pictures of a report's page: a few frames of the output, read again when the page is made."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image as Picture

from attacks.obscure import obscure, parse_obscuring, region_mask
from drsf_cli.measure.metrics import PLOTTED, text_of
from drsf_cli.media.files import digest
from drsf_cli.media.reader import VideoReader
from drsf_cli.progress import Progress
from drsf_cli.report.charts import nothing
from drsf_cli.report.drawing import draw
from drsf_cli.report.schema import FileSection, FrameSection, Report, SampleSection, reading, regions_of, sample_ids
from victims.base import Image
from victims.camera import Camera
from victims.face import FrameObservation
from weights.errors import DrsfError

_PANEL_WIDTH = 520
_WEBP_QUALITY = 78


@dataclass(frozen=True)
class Still:
    """One picture of a sample frame."""

    title: str
    data_uri: str
    width: int
    height: int


@dataclass(frozen=True)
class Sample:
    """A frame that the page shows."""

    frame_id: int
    caption: str
    stills: tuple[Still, ...]


def stills_of(
    report: Report, folder: Path, count: int, include_original: bool, progress: Progress
) -> tuple[list[Sample], list[str]]:
    """Pictures of at most `count` samples, and why any are left out, one sentence each.

    These are 2 * `count` parts of the progress: each sample is read from the output and from the input.
    """
    notes: list[str] = []
    entries = {entry["frame_id"]: entry for entry in report.get("samples") or []}
    ids = list(entries) if entries else sample_ids(report["frames"])
    ids = sorted(set(np.array(ids)[np.linspace(0, len(ids) - 1, min(count, len(ids))).round().astype(int)].tolist()))
    output = _unchanged(report["output"], folder, notes)
    if output is None or not ids:
        progress.advance(2 * count)
        return [], notes
    wants_source = include_original or any(entries[i].get("regions") for i in ids if i in entries)
    source = _unchanged(report["input"], folder, notes) if wants_source else None
    settings = report["settings"]
    written = dict(_pick(VideoReader(output), ids, progress))
    originals = dict(_pick(_source_reader(source, report), ids, progress)) if source is not None else {}
    progress.advance(2 * count - len(written) - len(originals))
    samples = []
    for index in ids:
        if index not in written:
            notes.append(f"Frame {index} is not in {output.name}.")
            continue
        entry = entries.get(index, {"frame_id": index})
        camera = _camera(settings, written[index])
        pictures = _panels(entry, written[index], originals.get(index), settings, include_original)
        window = _window(entry, written[index])
        stills = tuple(
            _encode(title, draw(image, seen, camera, label=False) if seen is not None else image, window)
            for title, image, seen in pictures
        )
        samples.append(Sample(index, _caption(report["frames"], index), stills))
    return samples, notes


def _panels(
    entry: SampleSection, written: Image, original: Image | None, settings: Mapping[str, Any], include_original: bool
) -> list[tuple[str, Image, FrameObservation | None]]:
    """(title, picture, what is drawn in it): the original only where it was asked for."""
    target, recovered, weak = (reading(entry, kind, kind) for kind in ("original", "recovered", "obscured_only"))
    hidden = None
    mask = settings.get("mask")
    if original is not None and original.shape == written.shape and entry.get("regions") and isinstance(mask, str):
        # Only the rectangles come from the input: what a report fails to name can then not come to light.
        regions = regions_of(entry)
        covered = region_mask(regions, *written.shape[:2])
        hidden = np.where(covered[..., None], obscure(original, regions, parse_obscuring(mask)), written)
    changed = settings.get("targets") is not None or settings.get("shape", "own") != "own"
    panels: list[tuple[str, Image, FrameObservation | None]] = []
    if include_original and original is not None:
        title = "Original, with what is to be read" if changed else "Original, read by the victims"
        panels.append((title, original, target))
    elif target is not None:
        where = written if hidden is None else hidden
        title = "What is to be read" if changed else "What the original reads"
        panels.append((f"{title}, drawn on the obscured frame", where, target))
    if hidden is not None and (weak is not None or include_original):
        panels.append(("Obscured only" + _read(weak), hidden, weak))
    panels.append(("Output: obscured and perturbed" + _read(recovered), written, recovered))
    return panels


def _read(seen: FrameObservation | None) -> str:
    """How a picture's title goes on."""
    if seen is None:
        return ""
    return ", as it is read" if seen.faces else ": no face is read"


def _unchanged(file: FileSection, folder: Path, notes: list[str]) -> Path | None:
    """The file of a report, where it is still what it was; else None and a note."""
    named = Path(file["path"])
    for path in (named, folder / named, folder / named.name):
        if path.exists():
            break
    else:
        notes.append(f"{named.name} is not where the report says, so frames of it are not shown.")
        return None
    if path.is_file() and digest(path) != file["sha256"]:
        notes.append(f"{named.name} has changed since the report was written, so frames of it are not shown.")
        return None
    return path


def _source_reader(path: Path, report: Report) -> VideoReader:
    """The input as the run read it: from --start on, and turned."""
    settings = report["settings"]
    start, end, fps = (_number(settings.get(key)) for key in ("start", "end", "fps"))
    rotate = report["input"].get("rotate")
    return VideoReader(path, start, end, fps=fps).rotated(rotate if rotate in (90, 180, 270) else 0)


def _number(value: object) -> float | None:
    """A setting, which a report need not have as drsf writes it."""
    return value if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) else None


def _pick(reader: VideoReader, ids: Sequence[int], progress: Progress) -> Iterator[tuple[int, Image]]:
    """(index, frame) of `ids` (rising); each is a part of the progress."""
    wanted = set(ids)
    frames = iter(reader)
    with reader:
        for frame in frames:
            if frame.index in wanted:
                progress.advance()
                yield frame.index, frame.image
            if frame.index >= max(ids):
                return


def _camera(settings: Mapping[str, Any], image: Image) -> Camera | None:
    """The run's camera file where it can still be read; else the default, which only tilts arrows a little."""
    path = settings.get("camera")
    if not isinstance(path, str):
        return None
    try:
        return Camera.load(path, image.shape[1], image.shape[0])
    except DrsfError:
        return None


def _window(entry: SampleSection, image: Image) -> tuple[int, int, int, int]:
    """x1, y1, x2, y2 px: what is shown of the frame, of its own shape: the head with its surroundings."""
    height, width = image.shape[:2]
    seen = reading(entry, "original", "original") or reading(entry, "recovered", "recovered")
    face = None if seen is None else seen.own
    if face is None:
        return 0, 0, width, height
    x1, y1, x2, y2 = face.box
    share = min(1.0, 3.5 * max((x2 - x1) / width, (y2 - y1) / height))
    shown = (max(share * width, min(width, 320.0)), max(share * height, min(height, 320.0 * height / width)))
    left = min(max(0.0, (x1 + x2) / 2 - shown[0] / 2), width - shown[0])
    top = min(max(0.0, (y1 + y2) / 2 - shown[1] / 2), height - shown[1])
    return round(left), round(top), round(left + shown[0]), round(top + shown[1])


def _encode(title: str, image: Image, window: tuple[int, int, int, int]) -> Still:
    x1, y1, x2, y2 = window
    cut = np.ascontiguousarray(image[y1:y2, x1:x2])
    scale = _PANEL_WIDTH / cut.shape[1]
    if scale < 1:
        size = (_PANEL_WIDTH, max(1, round(cut.shape[0] * scale)))
        cut = np.asarray(cv2.resize(cut, size, interpolation=cv2.INTER_AREA), dtype=np.uint8)
    buffer = io.BytesIO()
    Picture.fromarray(cut).save(buffer, "WEBP", quality=_WEBP_QUALITY, method=4)
    return Still(
        title, f"data:image/webp;base64,{base64.b64encode(buffer.getvalue()).decode()}", cut.shape[1], cut.shape[0]
    )


def _caption(frames: Sequence[FrameSection], index: int) -> str:
    frame: Mapping[str, Any] = next((frame for frame in frames if frame["frame_id"] == index), {})
    parts = [f"frame {index}"]
    if frame.get("pts") is not None:
        parts.append(f"{frame['pts']:.2f} s")
    values = [f"{m.title} {text_of(frame[m.key], m)}" for m in PLOTTED if frame.get(m.key) is not None]
    return " · ".join([*parts, *(values or [nothing(frame)])])
