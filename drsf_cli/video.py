"""Video in and out: frames with their times, as displayed, and output that is whole or not there.

`VideoReader` reads a video file, a picture or a folder of pictures. `open_writer` gives the writer that fits what
was read and where it goes. Frames are uint8 (H, W, 3) RGB, turned as they are displayed. Times are whole ticks of
the stream's time base, so that nothing drifts at variable frame rates.

What makes a reader stop (InputError), since a frame that is skipped or concealed is a face that nobody looked at:
a packet that cannot be decoded, a frame that the decoder had to conceal, a file that breaks off, frames that the
index lists and the decoder does not give, a size that changes half-way.
"""

from __future__ import annotations

import contextlib
import copy
import itertools
import math
import os
import threading
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Protocol, Self, cast

import av
import numpy as np
from av.audio.stream import AudioStream
from av.container import InputContainer, OutputContainer
from av.error import FFmpegError
from av.format import Flags as FormatFlags
from av.packet import Packet
from av.sidedata.sidedata import SideDataContainer
from av.stream import Discard, Disposition, Stream
from av.video.frame import VideoFrame
from av.video.stream import VideoStream
from numpy.typing import NDArray

from attacks.codec import (
    BT601,
    BT709,
    CODECS,
    JPEG_RANGE,
    UNSPECIFIED,
    Codec,
    Colour,
    Converter,
    EncoderSettings,
    Focus,
    Rect,
    find_codec,
    resolve_matrix,
)
from drsf_cli.atomic import AtomicOutput
from drsf_cli.images import IMAGE_SUFFIXES, image_size, is_image, list_images, read_image, writable_suffix, write_image
from drsf_cli.integrity import find_flaw
from weights.errors import InputError, OutputError, UsageError

# Frame threads also make the decoder report what it had to conceal; the frames do not depend on their number.
DECODER_THREADS = 4

# Pictures have no clock; a folder of them plays at this rate.
IMAGE_RATE = 25

# suffix -> FFmpeg's muxer
_MUXERS = {".mp4": "mp4", ".m4v": "mp4", ".mov": "mov", ".mkv": "matroska"}

# Containers whose index can be trusted to find the key frame at or before a time
_INDEXED = ("mov", "matroska")

# Codecs and containers in which each sample is one frame to be displayed
_SAMPLE_IS_FRAME = ("h264", "hevc")
_SAMPLES_APART = (*_INDEXED, "avi")

# matrix -> primaries and transfer that go with it, for sources that name none
_COMPANIONS = {BT709: (1, 1), BT601: (6, 6), 5: (5, 6), 7: (7, 7), 9: (9, 14), 10: (9, 14)}

# Decoders that conceal a slice whose checksum is wrong, and only log it
_LOGS_DAMAGE = ("ffv1",)

# Formats whose frames lie in other files: a text file with names in it must not choose what is read
_PLAYLISTS = ("concat", "hls", "dash", "imf", "sdp", "webm_dash_manifest")

_SEEK_WORTHWHILE = 1.0  # seconds

Seconds = float | Fraction


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


def _decimal(seconds: Seconds | None) -> Fraction | None:
    """0.2 as the fifth that is meant, not as the binary number beside it."""
    return None if seconds is None else Fraction(str(seconds))


def _reason(error: Exception) -> str:
    return str(getattr(error, "strerror", None) or error).rstrip(".")


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


def _open_container(path: Path) -> InputContainer:
    try:
        # An absolute path is never taken for a protocol; a playlist in disguise may not reach out to the network.
        container = av.open(str(path.absolute()), "r", options={"protocol_whitelist": "file"})
    except (FFmpegError, OSError, ValueError) as error:
        raise InputError(f"{path} is not a video that can be read ({_reason(error)}); check the file.") from error
    if container.format.name in _PLAYLISTS:
        container.close()
        raise InputError(f"{path} is a playlist; name the videos themselves.")
    return container


def _pick_video(container: InputContainer, path: Path) -> VideoStream:
    """The first video stream that is neither a cover picture nor a thumbnail; all other streams are discarded."""
    pictures = Disposition.attached_pic | Disposition.timed_thumbnails
    streams = [stream for stream in container.streams.video if not stream.disposition & pictures]
    if not streams:
        held = "only sound" if container.streams.audio else "no video stream"
        raise InputError(f"{path} holds {held}; a video or a picture is needed.")
    chosen = streams[0]
    if chosen.codec_context is None:
        raise InputError(f"{path} uses a video codec that cannot be decoded here; convert it to H.264 first.")
    if chosen.codec_context.name == "ansi":  # FFmpeg draws text files as pictures
        raise InputError(f"{path} is a text file; a video or a picture is needed.")
    _discard_others(container, [chosen])
    return chosen


def _discard_others(container: InputContainer, wanted: list[Any]) -> None:
    for stream in container.streams:
        if stream not in wanted:
            stream.discard = Discard.all


def _origin(container: InputContainer) -> Fraction:
    """Seconds to take off all times: transport streams start their clock anywhere, other containers at zero."""
    if not container.format.flags & cast(int, FormatFlags.ts_discont.value):
        return Fraction(0)
    streams: list[Stream] = [*container.streams.video, *container.streams.audio]
    starts = [s.start_time * s.time_base for s in streams if s.start_time is not None and s.time_base]
    return min(starts, default=Fraction(0))


def _decode(path: Path, container: InputContainer, stream: VideoStream, *, whole: bool) -> Iterator[VideoFrame]:
    """Every displayed frame of the stream, or InputError. `whole`: read from the very start, so the count is known."""
    context = stream.codec_context
    context.thread_type = "AUTO"
    # What is logged is heard in this thread only.
    logs_damage = context.name in _LOGS_DAMAGE
    context.thread_count = 1 if logs_damage else DECODER_THREADS
    hearing = _logged_errors if logs_damage else _nothing_logged
    context.options = {"err_detect": "explode"}
    shown = given = 0
    packets = container.demux(stream)
    while True:
        try:
            packet = next(packets, None)
            with hearing() as errors:
                frames = [] if packet is None else packet.decode()
        except (FFmpegError, OSError, ValueError) as error:
            raise InputError(
                f"{path} cannot be decoded after frame {given} ({_reason(error)}); repair or re-encode it."
            ) from error
        if packet is None:
            break
        if errors or (packet.size and packet.is_corrupt):
            raise InputError(f"{path} is damaged after frame {given}; repair or re-encode it.")
        shown += bool(packet.size) and not packet.is_discard
        for frame in frames:
            if frame.is_corrupt:
                raise InputError(f"{path} is damaged at frame {given}; repair or re-encode it.")
            given += 1
            yield frame
    countable = context.name in _SAMPLE_IS_FRAME and _is_one_of(container, _SAMPLES_APART)
    if whole and countable and given < shown:
        raise InputError(f"{path} gives only {given} of its {shown} frames; repair or re-encode it.")


_HEARING = threading.Lock()


@contextlib.contextmanager
def _nothing_logged() -> Iterator[list[tuple[int, str, str]]]:
    yield []


@contextlib.contextmanager
def _logged_errors() -> Iterator[list[tuple[int, str, str]]]:
    """The errors that FFmpeg logs in this thread meanwhile."""
    # The level is the process's: were it left on, decoders with threads of their own could wait for Python's lock while
    # it is held by whoever waits for them; were it switched off by another thread, errors would go unheard.
    with _HEARING:
        before = av.logging.get_level()
        av.logging.set_level(av.logging.ERROR)
        try:
            with av.logging.Capture() as messages:
                yield messages
        finally:
            av.logging.set_level(before)


def _is_one_of(container: InputContainer, formats: Sequence[str]) -> bool:
    return any(name in formats for name in container.format.name.split(","))


class VideoReader:
    """Reads a video file, a picture (jpg, png, ...) or a folder of pictures of one size, in natural order.

    Of a file the first video stream that is no cover picture is read. Colours are converted by the stream's own
    matrix and range; where it names no matrix by BT.709 from 720 stored lines on, else BT.601. Interlaced frames
    are given as they are. Frames without a time follow the one before by a frame's length; times that do not rise
    are moved to one tick after the one before.

    `start`, `end`: seconds on the file's own clock; frames with start <= pts < end are given. Iterate as often as
    needed: each iteration opens the file anew, and holds one frame at a time. Raises InputError (one sentence) on
    anything that cannot be read whole, at once or while iterating.
    """

    def __init__(self, path: str | Path, start: Seconds | None = None, end: Seconds | None = None) -> None:
        self.path = Path(path)
        for flag, value in (("--start", start), ("--end", end)):
            if value is not None and not (math.isfinite(value) and value >= 0):
                raise UsageError(f"{flag} {value} is not a time; give seconds from 0 on.")
        if start is not None and end is not None and end <= start:
            raise UsageError(f"--end {end} is not after --start {start}; give a later end.")
        self.start, self.end = _decimal(start), _decimal(end)
        self._open: set[InputContainer] = set()
        self._may_be_empty = False
        self.info = self._probe()

    def part(self, start: Fraction | None, end: Fraction | None) -> Self:
        """A reader of a part, which is not probed again and may have no frame. Frames are counted from the part's
        first; to get there costs decoding from the key frame before, or, without an index, from the file's start."""
        part = copy.copy(self)
        part.start, part.end, part._open, part._may_be_empty = start, end, set(), True
        return part

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
            if self.path.is_dir():
                return self._probe_folder()
            with self.path.open("rb") as file:
                if not file.read(1):
                    raise InputError(f"{self.path} is empty; check the file.")
        except FileNotFoundError as error:
            raise InputError(f"{self.path} does not exist; check the name.") from error
        except OSError as error:
            raise InputError(f"{self.path} cannot be opened ({_reason(error)}).") from error
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
        return VideoInfo(
            path=self.path,
            kind=kind,
            width=width,
            height=height,
            time_base=Fraction(1, IMAGE_RATE),
            average_rate=Fraction(IMAGE_RATE),
            frame_count=len(names),
            duration=len(names) / IMAGE_RATE,
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
        with _open_container(self.path) as container:
            stream = _pick_video(container, self.path)
            context = stream.codec_context
            frames = _decode(self.path, container, stream, whole=False)
            first = next(frames, None)
            if first is None:
                raise InputError(f"{self.path} holds no frame that can be decoded; check the file.")
            matrix = _display_matrix(first)
            height, width = _turn(np.empty((first.height, first.width, 1), np.uint8), matrix).shape[:2]
            time_base = stream.time_base or Fraction(1, 90000)
            rate = stream.average_rate or stream.guessed_rate or Fraction(25)
            if stream.duration:
                duration: float | None = float(stream.duration * time_base)
            else:
                duration = container.duration / 1e6 if container.duration else None
            count = stream.frames or (round(duration * rate) if duration else None)
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

    # -- frames -------------------------------------------------------------------------------------------------

    def _image_frames(self) -> Iterator[Frame]:
        folder = self.path if self.info.kind == "image-sequence" else self.path.parent
        wanted = [
            (ticks, name)
            for ticks, name in enumerate(self.info.frame_names)
            if (self.start is None or ticks >= self.start * IMAGE_RATE)
            and (self.end is None or ticks < self.end * IMAGE_RATE)
        ]
        for index, (ticks, name) in enumerate(wanted):
            yield Frame(index, ticks / IMAGE_RATE, ticks, read_image(folder / name), 1)

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
        container = _open_container(self.path)
        self._open.add(container)
        try:
            stream = _pick_video(container, self.path)
            time_base = self.info.time_base
            origin = math.floor(_origin(container) / time_base)
            step = max(1, round(1 / (self.info.average_rate * time_base)))
            whole = seconds is None or not _is_one_of(container, _INDEXED)
            if not whole:
                try:
                    container.seek(math.floor(cast(Fraction, seconds) / time_base), stream=stream)
                except FFmpegError as error:
                    raise InputError(f"{self.path} cannot be searched ({_reason(error)}).") from error
            last: int | None = None
            for frame in _decode(self.path, container, stream, whole=whole):
                if frame.pts is not None:
                    ticks = frame.pts - origin
                else:
                    ticks = 0 if last is None else last + step
                if last is not None and ticks <= last:
                    ticks = last + 1
                last = ticks
                yield ticks, frame
        finally:
            container.close()
            self._open.discard(container)


def _output_colour(frame: VideoFrame) -> Colour:
    """What the frame's YUV means, in full; RGB and grey pictures are written as limited-range BT.709."""
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


# -- writing ----------------------------------------------------------------------------------------------------


def encoder_settings(
    info: VideoInfo, codec: str | Codec = "h264", crf: int = 23, preset: str = "medium", focus_qp: int = 0
) -> EncoderSettings:
    """How frames of this source are encoded; also what `attacks.codec.DeliveryCodec` takes."""
    record = find_codec(codec) if isinstance(codec, str) else codec
    odd = info.width % 2 or info.height % 2
    return EncoderSettings(
        codec=record,
        crf=crf,
        preset=preset,
        pixel_format=record.odd_pixel_format if odd else record.pixel_format,
        colour=info.colour,
        time_base=info.time_base,
        rate=info.average_rate,
        sample_aspect_ratio=info.sample_aspect_ratio,
        focus_qp=focus_qp,
    )


class Writer(Protocol):
    """What all writers have in common. Leaving the context without `publish` leaves nothing behind."""

    frames_written: int
    shift_ticks: int
    "taken off every pts: that of the first frame when a part of the source is written, else 0"

    @property
    def temporary(self) -> Path:
        """Where the output is until it is published; whole and readable after `finish`."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    def write(
        self, image: NDArray[np.uint8], pts_ticks: int, duration_ticks: int = 0, focus: Sequence[Rect] = ()
    ) -> None:
        """Append a frame: (H, W, 3) uint8 RGB of the source's size, `pts_ticks` as the reader gave it; `focus`: what a
        lossy encoder is to code more finely."""

    def begin_afresh(self) -> None:
        """What follows is coded without knowledge of the frames before."""

    def finish(self) -> Path:
        """Complete the temporary file and flush it; returns its path, to be read back and judged."""

    def publish(self) -> Path:
        """Put the output under its final name; finishes it first if needed."""


def open_writer(
    path: str | Path,
    info: VideoInfo,
    *,
    codec: str = "h264",
    crf: int = 23,
    preset: str = "medium",
    focus_qp: int = 0,
    keep_audio_from: Path | None = None,
    start: float | None = None,
    end: float | None = None,
    overwrite: bool = False,
) -> Writer:
    """The writer for what was read and where it goes: a picture for a picture, a folder of PNG for a folder of
    pictures, unless the output is named like a video; else a video. `start`, `end`: as given to the reader.
    """
    path = Path(path)
    if info.kind != "video" and path.suffix.lower() not in _MUXERS:
        return ImageWriter(path, info, overwrite=overwrite)
    return VideoWriter(
        path,
        info,
        codec=codec,
        crf=crf,
        preset=preset,
        focus_qp=focus_qp,
        keep_audio_from=keep_audio_from,
        start=start,
        end=end,
        overwrite=overwrite,
    )


class _WriterBase:
    """Temporary output, and the rule that only `publish` keeps it."""

    def __init__(self, info: VideoInfo, output: AtomicOutput) -> None:
        self.info = info
        self.frames_written = 0
        self.shift_ticks = 0
        self._output = output
        self._finished = False

    @property
    def temporary(self) -> Path:
        return self._output.temporary

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self._close()
        finally:
            self._output.discard()

    def begin_afresh(self) -> None:
        """Nothing to do where each frame stands for itself."""

    def finish(self) -> Path:
        if not self._finished:
            if not self.frames_written:
                raise OutputError(f"{self._output.final} would hold no frame; check the input.")
            self._complete()
            self._finished = True
        return self.temporary

    def publish(self) -> Path:
        self.finish()
        return self._output.publish()

    def _check(self, image: NDArray[np.uint8]) -> None:
        expected = (self.info.height, self.info.width, 3)
        if image.shape != expected or image.dtype != np.uint8:
            raise ValueError(f"a frame of {image.shape} {image.dtype} where {expected} uint8 is needed")

    def _complete(self) -> None:
        """Write what is still held back and close."""

    def _close(self) -> None:
        """Let go of everything that is open, whatever state it is in."""


class VideoWriter(_WriterBase):
    """Encodes frames into a video file that holds this one stream and, if asked, the source's sound.

    codec: 'h264' (default; 4:2:0 and browsers play it, 4:4:4 for odd sizes), 'h264-rgb' or 'ffv1' (lossless). Times,
    size, pixel shape (not with FFV1), colour matrix and range are the source's; nothing else of it is copied. MP4 and
    MOV keep times exactly, MKV to the millisecond. `keep_audio_from` copies the sound of that file unchanged and in
    step; with `start` and `end` (seconds, as given to the reader) only the packets that begin between the first frame
    and `end`, and all times are moved so that the first frame is at zero (`shift_ticks`).

    Raises OutputError and UsageError before any work if this cannot be written there, OutputError if writing fails.
    """

    def __init__(
        self,
        path: str | Path,
        info: VideoInfo,
        *,
        codec: str = "h264",
        crf: int = 23,
        preset: str = "medium",
        focus_qp: int = 0,
        keep_audio_from: Path | None = None,
        start: float | None = None,
        end: float | None = None,
        overwrite: bool = False,
    ) -> None:
        path = Path(path)
        self.settings = encoder_settings(info, codec, crf, preset, focus_qp)
        suffixes = self.settings.codec.suffixes
        if path.suffix.lower() not in suffixes:
            raise UsageError(f"{path} cannot hold --codec {codec}; name the output {' or '.join(suffixes)}.")
        inputs = [info.path] if keep_audio_from is None else [info.path, keep_audio_from]
        super().__init__(info, AtomicOutput(path, overwrite=overwrite, inputs=inputs))
        self._from_start = start is None
        self._end = _decimal(end)
        self._last_ticks: int | None = None
        self._first_ticks = 0
        self._first_dts: int | None = None
        self._end_ticks = 0
        self._held: Packet[Any] | None = None
        self._durations: dict[int, int] = {}
        self._converter = Converter()
        self._focus = Focus(self.settings)
        self._container: OutputContainer | None = None
        self._audio: _AudioCopy | None = None
        try:
            self._open_streams(keep_audio_from)
        except BaseException:
            self.__exit__(None, None, None)
            raise

    def _open_streams(self, keep_audio_from: Path | None) -> None:
        muxer = _MUXERS[self._output.final.suffix.lower()]
        container_options = {"fflags": "+bitexact"}
        if muxer != "matroska":
            container_options["movflags"] = "+faststart"
            # a start later than zero is kept in these units, whose default is a millisecond
            container_options["movie_timescale"] = str(self._ticks_a_second())
        self._container = av.open(str(self.temporary), "w", format=muxer, container_options=container_options)
        rate = self.settings.rate
        self._stream = cast(VideoStream, self._container.add_stream(self.settings.codec.encoder, rate=rate))
        self._encoder = self._stream.codec_context
        self.settings.configure(self._encoder, self.info.width, self.info.height)
        self._stream.time_base = self.settings.time_base
        if keep_audio_from is not None:
            self._audio = _AudioCopy(keep_audio_from, self._container, self._output.final)
        with self._failures():
            self._container.start_encoding()

    def _ticks_a_second(self) -> int:
        """The time scale that FFmpeg's muxer gives the track."""
        ticks = self.settings.time_base.denominator
        while ticks < 10000:
            ticks *= 2
        return ticks

    def write(
        self, image: NDArray[np.uint8], pts_ticks: int, duration_ticks: int = 0, focus: Sequence[Rect] = ()
    ) -> None:
        self._check(image)
        if self._last_ticks is None:
            self._first_ticks = pts_ticks
            self.shift_ticks = 0 if self._from_start else pts_ticks
            if self._audio is not None:
                self._audio.begin(self.shift_ticks * self.settings.time_base, self._end)
        elif pts_ticks <= self._last_ticks:
            raise ValueError(f"frame times must rise, and {pts_ticks} follows {self._last_ticks}")
        if not duration_ticks and self._last_ticks is not None:
            duration_ticks = pts_ticks - self._last_ticks
        self._last_ticks = pts_ticks
        self._end_ticks = pts_ticks + duration_ticks - self.shift_ticks
        frame = self._converter.to_frame(image, self.settings.pixel_format, self.settings.colour)
        frame = self._focus.mark(frame, focus)
        frame.pts, frame.time_base = pts_ticks - self.shift_ticks, self.settings.time_base
        self._durations[frame.pts] = duration_ticks
        with self._failures():
            self._mux(self._encoder.encode(frame))
        self.frames_written += 1

    def begin_afresh(self) -> None:
        if not self.frames_written or self.settings.codec.lossless:
            return
        with self._failures():
            self._mux(self._encoder.encode(None))
            # it goes on with the same stream: equal settings give equal parameter sets
            self._encoder = self.settings.encoder(self.info.width, self.info.height)
            self._encoder.flags = self._stream.codec_context.flags

    def _mux(self, packets: list[Packet[Any]]) -> None:
        """Write all packets that are known not to be the last."""
        for packet in packets:
            if self._first_dts is None:
                self._first_dts = packet.dts
            packet.stream = self._stream
            packet.duration = self._durations.pop(cast(int, packet.pts), 0)
            if self._held is not None:
                self._mux_one(self._held)
            self._held = packet

    def _mux_one(self, packet: Packet[Any]) -> None:
        if self._audio is not None and packet.dts is not None:
            self._audio.copy_until(packet.dts * packet.time_base)
        cast(OutputContainer, self._container).mux_one(packet)

    def _mux_last(self, packet: Packet[Any]) -> None:
        """MP4 takes the length of a track from the decoding times, whose gaps are not those of the display when
        frames are reordered and unevenly spaced. The last packet makes up for it.
        """
        if _MUXERS[self._output.final.suffix.lower()] != "matroska" and packet.dts is not None:
            span = self._end_ticks - (self._first_ticks - self.shift_ticks)
            packet.duration = max(1, span - (packet.dts - cast(int, self._first_dts)))
        self._mux_one(packet)

    def _complete(self) -> None:
        container = cast(OutputContainer, self._container)
        with self._failures():
            self._mux(self._encoder.encode(None))
            if self._held is not None:
                self._mux_last(self._held)
            if self._audio is not None:
                self._audio.copy_until(None)
            container.close()
            self._container = None
            with self.temporary.open("rb") as file:
                os.fsync(file.fileno())

    def _close(self) -> None:
        if self._audio is not None:
            self._audio.close()
        if self._container is not None:
            # The file is thrown away; that it cannot be completed does not matter any more.
            with contextlib.suppress(FFmpegError, OSError, ValueError):
                self._container.close()
            self._container = None

    @contextlib.contextmanager
    def _failures(self) -> Iterator[None]:
        try:
            yield
        except (FFmpegError, OSError) as error:
            raise OutputError(
                f"{self._output.final} could not be written ({_reason(error)}); check the space on the disk."
            ) from error


class _AudioCopy:
    """Copies the packets of all sound streams of a file, in step with the video that is being written."""

    def __init__(self, source: Path, container: OutputContainer, final: Path) -> None:
        self._source = source
        self._output = container
        self._input = _open_container(source)
        self._origin = _origin(self._input)
        streams = list(self._input.streams.audio)
        _discard_others(self._input, streams)
        self._streams: dict[int, AudioStream] = {}
        for stream in streams:
            try:
                copy = container.add_stream_from_template(stream)
            except (FFmpegError, ValueError, AttributeError) as error:
                self.close()
                raise OutputError(
                    f"{final} cannot hold the sound of {source} as it is; write an .mkv file or leave the sound out."
                ) from error
            copy.metadata.clear()
            self._streams[stream.index] = copy
        self._packets: Iterator[Packet[Any]] = iter(())
        self._streams_given = streams

    def begin(self, shift: Fraction, end: Fraction | None) -> None:
        """Packets from `shift` on and before `end` (seconds on the source's clock) are copied, moved by -shift."""
        self._packets = self._read(shift, end) if self._streams else iter(())

    def _read(self, shift: Fraction, end: Fraction | None) -> Iterator[Packet[Any]]:
        packets = self._input.demux(self._streams_given)
        while True:
            try:
                packet = next(packets, None)
            except (FFmpegError, OSError) as error:
                raise InputError(f"{self._source} has sound that cannot be read ({_reason(error)}).") from error
            if packet is None:
                return
            if not packet.size or packet.pts is None:
                continue
            seconds = packet.pts * packet.time_base - self._origin
            if (shift and seconds < shift) or (end is not None and seconds >= end):
                continue
            ticks = round((shift + self._origin) / packet.time_base)
            packet.pts -= ticks
            if packet.dts is not None:
                packet.dts -= ticks
            packet.stream = self._streams[packet.stream_index]
            yield packet

    def copy_until(self, seconds: Fraction | None) -> None:
        """Write what is due before `seconds` of the output; everything that is left if None."""
        for packet in self._packets:
            if seconds is not None and cast(int, packet.pts) * packet.time_base > seconds:
                self._packets = itertools.chain((packet,), self._packets)
                return
            self._output.mux_one(packet)

    def close(self) -> None:
        self._input.close()


class ImageWriter(_WriterBase):
    """Writes a picture (PNG lossless, JPEG by suffix), or for a folder of pictures a folder of PNG with their names.

    A frame's `pts_ticks` says which picture of the source it is. Raises OutputError and UsageError as VideoWriter.
    """

    def __init__(self, path: str | Path, info: VideoInfo, *, overwrite: bool = False) -> None:
        path = Path(path)
        self._is_folder = info.kind == "image-sequence"
        if not self._is_folder:
            writable_suffix(path)
        stems = [Path(name).stem for name in info.frame_names]
        if len(set(stems)) < len(stems):
            raise UsageError(f"{info.path} holds pictures that differ only in their suffix; rename one of each pair.")
        folder_of = IMAGE_SUFFIXES if self._is_folder else ()
        super().__init__(info, AtomicOutput(path, overwrite=overwrite, inputs=[info.path], folder_of=folder_of))
        self._stems = stems

    def write(
        self, image: NDArray[np.uint8], pts_ticks: int, duration_ticks: int = 0, focus: Sequence[Rect] = ()
    ) -> None:
        self._check(image)
        if self._is_folder:
            write_image(self.temporary / f"{self._stems[pts_ticks]}.png", image)
        elif self.frames_written:
            raise ValueError("a picture holds one frame")
        else:
            write_image(self.temporary, image)
        self.frames_written += 1


def video_suffix(codec: str) -> str:
    """The default container of a codec: '.mp4' or '.mkv'."""
    return CODECS[codec].suffixes[0]
