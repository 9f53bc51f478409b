"""Video -> observations, as an authorised reader makes them."""

from __future__ import annotations

from pathlib import Path

from drsf_cli.media.reader import VideoReader
from drsf_cli.progress import Progress, Silent, runs
from drsf_cli.readers.models import Models
from drsf_cli.readers.rotation import turned
from victims.camera import Camera
from victims.face import FrameObservation


def infer(
    source: str | Path | VideoReader,
    models: Models,
    *,
    backend: str = "onnx",
    camera: str | Path | None = None,
    rotate: str = "0",
    batch_size: int = 8,
    progress: Progress | None = None,
) -> list[FrameObservation]:
    """Every face of every frame of `source`: a video, a picture, a folder of pictures, or a reader of a part of one.

    `backend` is `onnx` or `torch`; `camera` an OpenCV calibration file, for the frames as `rotate` turns them: 0, 90,
    180, 270 degrees clockwise or `auto` (drsf_cli/readers/rotation.py).

    Raises InputError for what cannot be read, UsageError, DeviceError.
    """
    progress = progress or Silent()
    source = source if isinstance(source, VideoReader) else VideoReader(source)
    reader = turned(source, rotate, models.reader(backend).detector)
    intrinsics = None if camera is None else Camera.load(Path(camera), reader.info.width, reader.info.height)
    observer = models.reader(backend, intrinsics)
    whole = reader.start is None and reader.end is None
    progress.begin(f"Reading {reader.path.name}", reader.info.frame_count if whole else None)
    observations: list[FrameObservation] = []
    for frames in runs(reader, batch_size):
        observations += observer.observe(frames, observations[-1] if observations else None)
        progress.advance(len(frames))
    return observations
