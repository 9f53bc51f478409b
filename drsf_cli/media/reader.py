"""Video in: frames with their times, as displayed. drsf_cli/media/writer.py is the way out.

`VideoReader` reads a video file, a picture or a folder of pictures. Frames are uint8 (H, W, 3) RGB, turned as they are
displayed. Times are whole ticks of the stream's time base, so that nothing drifts at variable frame rates.

A frame that is skipped or concealed may hold a face that no detector looked at. So the reader stops (InputError) at a
packet that cannot be decoded, a frame that the decoder had to conceal, a file that breaks off, frames that the index
lists and the decoder does not give, and a size that changes half-way. `VideoReader.notes` tells the user about
assumptions that may be surprising.
"""

from __future__ import annotations

import contextlib
import copy
import math
from collections.abc import Generator, Iterator
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Self, cast

import numpy as np
from av.container import InputContainer
from av.error import FFmpegError
from av.video.frame import VideoFrame
from numpy.typing import NDArray

from attacks.codec import Converter
from drsf_cli.media.container import INDEXED, Seconds, decimal, is_one_of, open_container, pick_video, reason
from drsf_cli.media.decoding import decode, shown_packets
from drsf_cli.media.images import PictureNotes, read_image
from drsf_cli.media.probe import display_matrix, probe, turn
from drsf_cli.media.timing import Clock
from drsf_cli.settings import DeidSettings
from weights.errors import InputError, UsageError

_SEEK_WORTHWHILE = 1.0  # seconds


@dataclass(frozen=True, eq=False)
class Frame:
    """One frame as displayed."""

    index: int
    "0 for the first frame that the reader gives"
    pts: float
    "seconds on the file's own clock"
    pts_ticks: int
    "the same in ticks of VideoInfo.time_base; strictly rising"
    image: NDArray[np.uint8]
    "(H, W, 3) RGB"
    duration_ticks: int = 0
    "how long it is shown, 0 if the file does not say"


class VideoReader:
    """Reads a video file, a picture (jpg, png, ...) or a folder of pictures of one size, in natural order.

    The first video stream of a file that is not a cover picture is read. Colours are converted with the stream's own
    matrix and range; if the stream names no matrix, BT.709 is used from 720 stored lines on, and BT.601 below.
    Interlaced frames are given as they are. A frame without a time follows the frame before it by a frame's length. A
    time that does not rise is moved to one tick after the time before it. If a clock starts anew, its times continue
    after those of the frames before. Frames that an edit list hides are not given. `fps`: frames a second of pictures
    and of streams without a clock, instead of the rate that these name or the default of 25.

    `start`, `end`: seconds on the file's own clock; frames with start <= pts < end are given. A reader can be iterated
    as often as needed: each iteration opens the file anew, and holds one frame at a time. Raises InputError, at once or
    while iterating, for anything that cannot be read completely.
    """

    def __init__(
        self, path: str | Path, start: Seconds | None = None, end: Seconds | None = None, *, fps: float | None = None
    ) -> None:
        self.path = Path(path)
        for flag, value in (("--start", start), ("--end", end)):
            if value is not None and not (math.isfinite(value) and value >= 0):
                raise UsageError(f"{flag} {value} is not a time; give seconds from 0 on.")
        if start is not None and end is not None and end <= start:
            raise UsageError(f"--end {end} is not after --start {start}; give a later end.")
        if fps is not None and not (math.isfinite(fps) and fps > 0):
            raise UsageError(f"--fps {fps} is not a rate; give frames a second, above 0.")
        self.start, self.end = decimal(start), decimal(end)
        self._open: set[InputContainer] = set()
        self._may_be_empty = False
        self.rotate = 0
        """Degrees clockwise by which frames are turned beyond what the file says; see `rotated`."""
        probed = probe(self.path, decimal(fps))
        self.info, self._bits = probed.info, probed.bits
        self._notes = dict(probed.notes)

    @property
    def notes(self) -> tuple[str, ...]:
        """Assumptions, one sentence each, about the file when it was probed and about the frames given so far."""
        return tuple(self._notes.values())

    def part(self, start: Fraction | None, end: Fraction | None) -> Self:
        """A reader of a part, which is not probed again and may have no frame.

        Frames are counted from the part's first. Decoding begins at the key frame before it or, without an index, at
        the file's start.
        """
        part = copy.copy(self)
        part.start, part.end, part._open, part._may_be_empty = start, end, set(), True
        return part

    def rotated(self, degrees: int) -> Self:
        """A reader whose frames are turned clockwise by 0, 90, 180 or 270 degrees more; it is not probed again."""
        turned = copy.copy(self)
        turned.rotate, turned._open = (self.rotate + degrees) % 360, set()
        if degrees % 180:
            aspect = self.info.sample_aspect_ratio
            turned.info = replace(
                self.info,
                width=self.info.height,
                height=self.info.width,
                sample_aspect_ratio=None if aspect is None else 1 / aspect,
            )
        return turned

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *raised: object) -> None:
        for container in self._open:
            container.close()
        self._open.clear()

    def __iter__(self) -> Iterator[Frame]:
        frames = self._video_frames() if self.info.kind == "video" else self._image_frames()
        count = 0
        for frame in frames:
            image = frame.image
            if self.rotate:
                image = np.ascontiguousarray(np.rot90(image, -self.rotate // 90))
            if image.shape[:2] != (self.info.height, self.info.width):
                raise InputError(
                    f"{self.path} changes its size from {self.info.width}x{self.info.height} to "
                    f"{image.shape[1]}x{image.shape[0]} at frame {count}; split it there."
                )
            yield replace(frame, image=image)
            count += 1
        if not count and not self._may_be_empty:
            raise InputError(f"{self.path} has no frame between --start and --end; choose other times.")

    # -- frames -------------------------------------------------------------------------------------------------

    def times(self) -> list[float]:
        """Seconds of the frames that will be given, without decoding them.

        Exact where each packet is a frame, as of H.264 and HEVC. Raises InputError.
        """
        base = self.info.time_base
        if self.info.kind != "video":
            return [float(ticks * base) for ticks in range(len(self.info.frame_names)) if self._wants(ticks * base)]
        with open_container(self.path) as container:
            stream = pick_video(container, self.path)
            clock = Clock(container, stream, base, self.info.average_rate)
            try:
                packets = [packet for packet, _ in shown_packets(container, stream, clock) if packet.size]
            except (FFmpegError, OSError) as error:
                raise InputError(f"{self.path} cannot be read ({reason(error)}).") from error
            places = [clock.place(packet) for packet in packets if not packet.is_discard]
            ticks = sorted(range(len(places)) if None in places else cast(list[int], places))
            hides = is_one_of(container, ("mov",))
        return [float(one * base) for one in ticks if self._wants(one * base) and not (hides and one < 0)]

    def _wants(self, seconds: Fraction) -> bool:
        return (self.start is None or seconds >= self.start) and (self.end is None or seconds < self.end)

    def _image_frames(self) -> Iterator[Frame]:
        folder = self.path if self.info.kind == "image-sequence" else self.path.parent
        base = self.info.time_base
        wanted = [(ticks, name) for ticks, name in enumerate(self.info.frame_names) if self._wants(ticks * base)]
        said = PictureNotes(self._bits)
        for index, (ticks, name) in enumerate(wanted):
            image = read_image(folder / name, said)
            self._notes |= said.sentences()
            yield Frame(index, float(ticks * base), ticks, image, 1)

    def _video_frames(self) -> Iterator[Frame]:
        time_base = self.info.time_base
        converter = Converter()
        index = 0
        with contextlib.closing(self._timed_frames()) as frames:
            for ticks, frame in frames:
                seconds = ticks * time_base
                if self.start is not None and seconds < self.start:
                    continue
                if self.end is not None and seconds >= self.end:
                    return
                image = turn(converter.to_rgb(frame), display_matrix(frame))
                yield Frame(index, float(seconds), ticks, image, frame.duration or 0)
                index += 1

    def _timed_frames(self) -> Generator[tuple[int, VideoFrame], None, None]:
        """(ticks, frame) from at or before `start` on."""
        if self.start is None or self.start < _SEEK_WORTHWHILE:
            yield from self._frames_from(None)
            return
        with contextlib.closing(self._frames_from(self.start)) as frames:
            # What cannot be decoded right after a jump need not be broken: it may refer to what was jumped over.
            try:
                first = next(frames, None)
            except InputError:
                first = None
            if first is not None and first[0] * self.info.time_base <= self.start:
                yield first
                yield from frames
                return
        yield from self._frames_from(None)

    def _frames_from(self, seconds: Fraction | None) -> Generator[tuple[int, VideoFrame], None, None]:
        """(ticks, frame) from the key frame before `seconds` on if the container has an index, else from the start."""
        container = open_container(self.path)
        self._open.add(container)
        try:
            stream = pick_video(container, self.path)
            time_base = self.info.time_base
            whole = seconds is None or not is_one_of(container, INDEXED)
            if not whole:
                try:
                    container.seek(math.floor(cast(Fraction, seconds) / time_base), stream=stream)
                except FFmpegError as error:
                    raise InputError(f"{self.path} cannot be searched ({reason(error)}).") from error
            clock = Clock(container, stream, time_base, self.info.average_rate)
            # what lies before zero an edit list hides; files in fragments have no index to mark it in
            hides = is_one_of(container, ("mov",))
            for frame in decode(self.path, container, stream, clock, whole=whole):
                ticks = clock.ticks(frame)
                if not (hides and ticks < 0):
                    self._note_restarts(clock)
                    yield ticks, frame
        finally:
            container.close()
            self._open.discard(container)

    def _note_restarts(self, clock: Clock) -> None:
        if clock.restarted:
            places = ", ".join(f"{float(ticks * self.info.time_base):.3f}" for ticks in clock.restarted[:8])
            self._notes["restarts"] = (
                f"The file's clock starts anew ({len(clock.restarted)} times, at {places} s): what follows was moved "
                "behind what came before."
            )


def open_source(path: str | Path, settings: DeidSettings) -> VideoReader:
    """A run's input, read as its settings say."""
    return VideoReader(path, settings.start, settings.end, fps=settings.fps)
