"""Video -> observations, as an authorised reader makes them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from drsf_cli.media.reader import Frame, VideoReader
from drsf_cli.progress import SILENT, Progress, counted, runs
from drsf_cli.readers.models import Models
from drsf_cli.readers.rotation import turned
from victims.camera import Camera
from victims.crew import Each
from victims.face import Face, FrameObservation
from victims.observe import Observer


def infer(
    source: str | Path | VideoReader,
    models: Models,
    *,
    backend: str = "onnx",
    camera: str | Path | None = None,
    rotate: str = "0",
    batch_size: int = 8,
    progress: Progress = SILENT,
) -> list[FrameObservation]:
    """Every face of every frame of `source`: a video, a picture, a folder of pictures, or a reader of a part of one.

    `backend` is `onnx` or `torch`; `camera` an OpenCV calibration file, for the frames as `rotate` turns them: 0, 90,
    180, 270 degrees clockwise or `auto` (drsf_cli/readers/rotation.py).

    Raises InputError for what cannot be read, UsageError, DeviceError.
    """
    source = source if isinstance(source, VideoReader) else VideoReader(source)
    reader = turned(source, rotate, models.reader(backend).detector)
    intrinsics = None if camera is None else Camera.load(Path(camera), reader.info.width, reader.info.height)
    observer = models.reader(backend, intrinsics)
    whole = reader.start is None and reader.end is None
    progress.begin(f"Reading {reader.path.name}", reader.info.frame_count if whole else None)
    return list(counted(observed(reader, observer, batch_size, models.each), progress))


def observed(
    frames: Iterable[Frame], observer: Observer, batch_size: int, each: Each = map
) -> Iterator[FrameObservation]:
    """What is read of each frame of a clip, `batch_size` of them at once; `each` shares the work."""

    def read(run: list[Frame]) -> tuple[list[Frame], list[tuple[Face, ...]]]:
        return run, observer.read([frame.image for frame in run])

    before: tuple[Face, ...] = ()
    for run, seen in each(read, runs(frames, batch_size)):
        for frame, faces in zip(run, observer.follow([frame.image for frame in run], seen, before), strict=True):
            before = faces
            yield FrameObservation(frame.index, frame.pts, faces)
