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
import stat
from collections.abc import Generator, Iterator
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self, cast

import numpy as np
from av.container import InputContainer
from av.error import FFmpegError
from av.sidedata.sidedata import SideDataContainer
from av.video.frame import VideoFrame
from av.video.stream import VideoStream
from numpy.typing import NDArray

from attacks.codec import (
    BT601,
    BT709,
    JPEG_RANGE,
    UNSPECIFIED,
    Colour,
    Converter,
    resolve_matrix,
)
from drsf_cli.media.container import INDEXED, Seconds, decimal, is_one_of, open_container, pick_video, reason, videos
from drsf_cli.media.decoding import decode, shown_packets
from drsf_cli.media.images import PictureNotes, grey_bits, image_size, is_image, list_images, read_image
from drsf_cli.media.integrity import find_flaw
from drsf_cli.media.timing import DEFAULT_RATE, Clock, is_bare, named_rate
from drsf_cli.settings import DeidSettings
from weights.errors import InputError, UsageError

_HDR = {16: "PQ", 18: "HLG"}
"""H.273 transfer characteristics."""

# matrix -> primaries and transfer that go with it, for sources that name none
_COMPANIONS = {BT709: (1, 1), BT601: (6, 6), 5: (5, 6), 7: (7, 7), 9: (9, 14), 10: (9, 14)}

_SEEK_WORTHWHILE = 1.0  # seconds


@dataclass(frozen=True)
class VideoInfo:
    """What is known of a source before its frames are read."""

    path: Path
    kind: Literal["video", "image", "image-sequence"]
    width: int
    "px, as displayed"
    height: int
    "px, as displayed"
    time_base: Fraction
    "seconds a tick"
    average_rate: Fraction
    "frames a second"
    frame_count: int | None
    "of the whole file; as the container says, else estimated, else None"
    duration: float | None
    "seconds, of the whole file, as the container says"
    rotation: int
    "degrees clockwise that the stored (if need be mirrored) picture is turned by for display: 0, 90, 180 or 270"
    sample_aspect_ratio: Fraction | None
    "width to height of a displayed pixel; None if not said"
    color_range: int
    "H.273/FFmpeg code points as stored: 0 unspecified, 1 limited, 2 full"
    colorspace: int
    "matrix as stored, 2 unspecified"
    color_primaries: int
    "as stored, 2 unspecified"
    color_trc: int
    "transfer as stored, 2 unspecified"
    colour: Colour
    "what the YUV is taken to be, and what output is written as"
    has_audio: bool
    codec: str
    "FFmpeg's name of the decoder"
    pixel_format: str
    container: str
    "FFmpeg's names of the container format, comma-separated; 'image2' for pictures"
    frame_names: tuple[str, ...] = ()
    "of a folder of pictures: the file names, by pts_ticks"


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


def _display_matrix(frame: VideoFrame) -> tuple[int, int, int, int]:
    """(a, b, c, d) of x' = a x + c y, y' = b x + d y in the picture plane (y down); each -1, 0 or 1.

    FFmpeg's display matrix, snapped to the nearest quarter turn.
    """
    # not `frame.side_data`: that refers to the frame and the frame to it, which keeps its picture for long
    side_data = cast(Any, SideDataContainer)(frame).get("DISPLAYMATRIX")
    if side_data is None:
        return 1, 0, 0, 1
    a, b, _, c, d = (int(value) for value in np.frombuffer(bytes(side_data), dtype=np.int32)[:5])
    if abs(a) + abs(d) >= abs(b) + abs(c):
        return (-1 if a < 0 else 1), 0, 0, (-1 if d < 0 else 1)
    return 0, (-1 if b < 0 else 1), (-1 if c < 0 else 1), 0


def _rotation(matrix: tuple[int, int, int, int]) -> int:
    """Degrees clockwise of a display matrix, after mirroring left to right where it mirrors."""
    a, b, c, d = matrix
    if a * d - b * c < 0:
        a, b = -a, -b
    return (0 if a > 0 else 180) if a else (90 if b > 0 else 270)


def _turn(image: NDArray[np.uint8], matrix: tuple[int, int, int, int]) -> NDArray[np.uint8]:
    """The stored picture as displayed."""
    a, b, c, d = matrix
    if a:
        turned = image[::d, ::a]
    else:
        turned = image.transpose(1, 0, 2)[::b, ::c]
    return np.ascontiguousarray(turned)


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
        self._fps = decimal(fps)
        self._open: set[InputContainer] = set()
        self._may_be_empty = False
        self._notes: dict[str, str] = {}
        self._bits: int | None = None
        self.rotate = 0
        """Degrees clockwise by which frames are turned beyond what the file says; see `rotated`."""
        self.info = self._probe()

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

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for container in self._open:
            container.close()
        self._open.clear()

    def __iter__(self) -> Iterator[Frame]:
        frames = self._video_frames() if self.info.kind == "video" else self._image_frames()
        count = 0
        for frame in frames:
            if self.rotate:
                upright = np.ascontiguousarray(np.rot90(frame.image, -self.rotate // 90))
                frame = replace(frame, image=upright)
            if frame.image.shape[:2] != (self.info.height, self.info.width):
                raise InputError(
                    f"{self.path} changes its size from {self.info.width}x{self.info.height} to "
                    f"{frame.image.shape[1]}x{frame.image.shape[0]} at frame {count}; split it there."
                )
            yield frame
            count += 1
        if not count and not self._may_be_empty:
            raise InputError(f"{self.path} has no frame between --start and --end; choose other times.")

    # -- what is there ------------------------------------------------------------------------------------------

    def _probe(self) -> VideoInfo:
        try:
            kind = self.path.stat().st_mode
            if stat.S_ISDIR(kind):
                return self._probe_folder()
            if not stat.S_ISREG(kind):  # to open one may wait for ever
                raise InputError(
                    f"{self.path} is a pipe or a device, and drsf reads its input several times; save a file."
                )
            with self.path.open("rb") as file:
                if not file.read(1):
                    raise InputError(f"{self.path} is empty; check the file.")
        except FileNotFoundError as error:
            if str(self.path) == "-":
                raise InputError(
                    "- is not a file, and drsf reads its input several times; save standard input as a file first."
                ) from error
            raise InputError(f"{self.path} does not exist; check the name.") from error
        except OSError as error:
            raise InputError(f"{self.path} cannot be opened ({reason(error)}).") from error
        if is_image(self.path):
            width, height = image_size(self.path)
            return self._image_info("image", width, height, (self.path.name,))
        if flaw := find_flaw(self.path):
            raise InputError(f"{self.path} {flaw}; copy or record it again.")
        return self._probe_video()

    def _probe_folder(self) -> VideoInfo:
        paths = list_images(self.path)
        if not paths:
            raise InputError(f"{self.path} is a folder without pictures; name a video, a picture or a folder of them.")
        sizes = [image_size(path) for path in paths]
        for path, size in zip(paths, sizes, strict=True):
            if size != sizes[0]:
                raise InputError(
                    f"{path} is {size[0]}x{size[1]} and {paths[0].name} is {sizes[0][0]}x{sizes[0][1]}; "
                    "the pictures of a folder must be of one size."
                )
        return self._image_info("image-sequence", *sizes[0], tuple(path.name for path in paths))

    def _image_info(
        self, kind: Literal["image", "image-sequence"], width: int, height: int, names: tuple[str, ...]
    ) -> VideoInfo:
        rate = self._fps or DEFAULT_RATE
        folder = self.path if kind == "image-sequence" else self.path.parent
        # of all pictures alike, so that a folder of them does not flicker
        self._bits = grey_bits([folder / name for name in names])
        if self._bits is not None and self._bits < 16:
            self._notes["bits"] = (
                f"The grey pictures use {self._bits} of their 16 bits: white is taken to be {2**self._bits - 1}."
            )
        return VideoInfo(
            path=self.path,
            kind=kind,
            width=width,
            height=height,
            time_base=1 / rate,
            average_rate=rate,
            frame_count=len(names),
            duration=float(len(names) / rate),
            rotation=0,
            sample_aspect_ratio=None,
            color_range=JPEG_RANGE,
            colorspace=0,
            color_primaries=UNSPECIFIED,
            color_trc=UNSPECIFIED,
            colour=Colour(),
            has_audio=False,
            codec="image",
            pixel_format="rgb24",
            container="image2",
            frame_names=names,
        )

    def _probe_video(self) -> VideoInfo:
        with open_container(self.path) as container:
            stream = pick_video(container, self.path)
            context = stream.codec_context
            rate, time_base = self._clockwork(container, stream)
            frames = decode(self.path, container, stream, Clock(container, stream, time_base, rate), whole=True)
            first = next(frames, None)
            if first is None:
                raise InputError(f"{self.path} holds no frame that can be decoded; check the file.")
            self._note_depth(first)
            if len(videos(container)) > 1:
                self._notes["streams"] = "The file holds several videos: the first of them was read."
            matrix = _display_matrix(first)
            height, width = _turn(np.empty((first.height, first.width, 1), np.uint8), matrix).shape[:2]
            if stream.duration and not is_bare(container):
                duration: float | None = float(stream.duration * time_base)
            else:
                duration = container.duration / 1e6 if container.duration else None
            count = stream.frames or (round(duration * rate) if duration else None)
            if is_one_of(container, ("mov",)) and stream.frames and len(stream.index_entries):
                count = sum(not entry.is_discard for entry in stream.index_entries)
            aspect = stream.sample_aspect_ratio or context.sample_aspect_ratio or None
            return VideoInfo(
                path=self.path,
                kind="video",
                width=width,
                height=height,
                time_base=time_base,
                average_rate=rate,
                frame_count=count,
                duration=duration,
                rotation=_rotation(matrix),
                sample_aspect_ratio=1 / aspect if aspect and not matrix[0] else aspect,
                color_range=first.color_range,
                colorspace=first.colorspace,
                color_primaries=first.color_primaries,
                color_trc=first.color_trc,
                colour=_output_colour(first),
                has_audio=bool(container.streams.audio),
                codec=context.name,
                pixel_format=first.format.name,
                container=container.format.name,
            )

    def _clockwork(self, container: InputContainer, stream: VideoStream) -> tuple[Fraction, Fraction]:
        """(frames a second, seconds a tick)."""
        if not is_bare(container):
            if self._fps is not None:
                raise UsageError(
                    f"--fps is for streams without a clock, and {self.path} says itself when each frame is shown; "
                    "leave it out."
                )
            rate = stream.average_rate or stream.guessed_rate or DEFAULT_RATE
            return rate, stream.time_base or Fraction(1, 90000)
        named = self._fps or named_rate(stream)
        if named is None:
            self._notes["rate"] = (
                f"The stream names no frame rate: {DEFAULT_RATE} frames a second are taken; --fps says another."
            )
        rate = named or DEFAULT_RATE
        return rate, 1 / rate

    def _note_depth(self, frame: VideoFrame) -> None:
        """Note the depth of samples that have more than 8 bits: 8 bits of each are read."""
        bits = max(component.bits for component in frame.format.components)
        transfer = _HDR.get(frame.color_trc)
        if bits > 8 or transfer:
            kind = "" if transfer is None else f" of {transfer} (HDR)"
            self._notes["depth"] = f"The samples have {bits} bits{kind}: 8 bits of each were read and written."

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
                image = _turn(converter.to_rgb(frame), _display_matrix(frame))
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


def _output_colour(frame: VideoFrame) -> Colour:
    """The complete colour description of the frame's YUV; RGB and grey pictures are written as limited-range BT.709."""
    full = frame.color_range == JPEG_RANGE or frame.format.name.startswith("yuvj")
    if frame.format.is_rgb or len(frame.format.components) < 3:
        matrix, full = BT709, False
    else:
        matrix = resolve_matrix(frame.colorspace, frame.height)
    primaries, transfer = _COMPANIONS.get(matrix, (UNSPECIFIED, UNSPECIFIED))
    if frame.color_primaries not in (0, UNSPECIFIED):
        primaries = frame.color_primaries
    if frame.color_trc not in (0, UNSPECIFIED):
        transfer = frame.color_trc
    return Colour(matrix=matrix, full_range=full, primaries=primaries, transfer=transfer)
