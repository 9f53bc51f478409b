"""Video out: an output file is complete, or does not exist.

`open_writer` gives the writer that fits what was read (drsf_cli/media/reader.py) and where it goes. Frames are uint8
(H, W, 3) RGB; times are whole ticks of the source's time base, so that nothing drifts at variable frame rates.
"""

from __future__ import annotations

import contextlib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Self, cast

import av
import numpy as np
from av.container import OutputContainer
from av.error import FFmpegError
from av.packet import Packet
from av.video.stream import VideoStream
from numpy.typing import NDArray
from typing_extensions import override

from attacks.codec import Codec, Converter, EncoderSettings, Focus, Rect, find_codec
from drsf_cli.media.atomic import NO_SPACE, AtomicOutput, synchronise
from drsf_cli.media.container import decimal, reason
from drsf_cli.media.images import IMAGE_SUFFIXES, writable_suffix, write_image
from drsf_cli.media.probe import VideoInfo
from drsf_cli.media.sound import Sound, open_sound
from drsf_cli.settings import Audio
from weights.errors import OutputError, UsageError

# suffix -> FFmpeg's muxer
_MUXERS = {".mp4": "mp4", ".m4v": "mp4", ".mov": "mov", ".mkv": "matroska"}


def encoder_settings(
    info: VideoInfo,
    codec: str | Codec = "h264",
    crf: int = 23,
    preset: str = "medium",
    focus_qp: int = 0,
    looks_ahead: bool = False,
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
        looks_ahead=looks_ahead,
    )


class Writer(ABC):
    """Temporary output, and the rule that only `publish` keeps it: left without that, no file is left."""

    def __init__(self, info: VideoInfo, output: AtomicOutput) -> None:
        self.info = info
        self.frames_written = 0
        self.shift_ticks = 0
        """Taken off every pts: that of the first frame when a part of the source is written, else 0."""
        self._output = output
        self._finished = False

    @property
    def temporary(self) -> Path:
        """Where the output is until it is published; whole and readable after `finish`."""
        return self._output.temporary

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *raised: object) -> None:
        try:
            self._close()
        finally:
            self._output.discard()

    @abstractmethod
    def write(
        self, image: NDArray[np.uint8], pts_ticks: int, duration_ticks: int = 0, focus: Sequence[Rect] = ()
    ) -> None:
        """Append a frame: (H, W, 3) uint8 RGB of the source's size, `pts_ticks` as the reader gave it.

        `focus`: what a lossy encoder is to code more finely.
        """

    def begin_afresh(self) -> None:  # noqa: B027
        """Encode the following frames without reference to those before. A picture is coded by itself anyway."""

    def finish(self) -> Path:
        """Complete the temporary file and flush it; returns its path, to be read back and judged."""
        if not self._finished:
            if not self.frames_written:
                raise OutputError(f"{self._output.final} would hold no frame; check the input.")
            self._complete()
            self._finished = True
        return self.temporary

    def publish(self) -> Path:
        """Put the output under its final name; finishes it first if needed."""
        self.finish()
        return self._output.publish()

    def withdraw(self) -> None:
        """Remove the published output again."""
        self._output.withdraw()

    def _check(self, image: NDArray[np.uint8]) -> None:
        expected = (self.info.height, self.info.width, 3)
        if image.shape != expected or image.dtype != np.uint8:
            raise ValueError(f"a frame of {image.shape} {image.dtype} where {expected} uint8 is needed")

    def _complete(self) -> None:  # noqa: B027
        """Write what is still held back and close."""

    def _close(self) -> None:  # noqa: B027
        """Close everything that is open, whatever state it is in."""


def open_writer(
    path: str | Path,
    info: VideoInfo,
    settings: EncoderSettings | None = None,
    *,
    audio: Audio = "drop",
    start: float | None = None,
    end: float | None = None,
    overwrite: bool = False,
) -> Writer:
    """The writer for what was read and where it goes.

    A picture for a picture, a folder of PNG for a folder of pictures, unless the output is named like a video; else a
    video. `settings`, `start`, `end`: see VideoWriter.
    """
    path = Path(path)
    if info.kind != "video" and path.suffix.lower() not in _MUXERS:
        return ImageWriter(path, info, overwrite=overwrite)
    return VideoWriter(path, info, settings, audio=audio, start=start, end=end, overwrite=overwrite)


class VideoWriter(Writer):
    """Encodes frames into a video file that holds this one stream and, if asked, the source's sound.

    `settings`: see `encoder_settings`; by default 'h264' (4:2:0, which browsers play, and 4:4:4 for odd sizes). The
    other codecs, 'h264-rgb' and 'ffv1', are lossless.

    Times, size, pixel shape (not with FFV1), colour matrix and range are the source's; nothing else of it is copied.
    MP4 and MOV keep times exactly, MKV to the millisecond. `audio`: the source's sound is dropped, copied unchanged or
    encoded as AAC, and stays synchronous. With `start` and `end` (seconds, as given to the reader), the sound between
    the first frame and `end` is written (of a copy, the packets that begin there), and all times are moved so that the
    first frame is at zero (`shift_ticks`).

    Raises OutputError and UsageError before any work if the file cannot be written, and OutputError if writing fails.
    """

    def __init__(
        self,
        path: str | Path,
        info: VideoInfo,
        settings: EncoderSettings | None = None,
        *,
        audio: Audio = "drop",
        start: float | None = None,
        end: float | None = None,
        overwrite: bool = False,
    ) -> None:
        path = Path(path)
        self.settings = settings or encoder_settings(info)
        codec = self.settings.codec.name
        suffixes = self.settings.codec.suffixes
        if path.suffix.lower() not in suffixes:
            raise UsageError(f"{path} cannot hold --codec {codec}; name the output {' or '.join(suffixes)}.")
        super().__init__(info, AtomicOutput(path, overwrite=overwrite, inputs=[info.path]))
        self._from_start = start is None
        self._end = decimal(end)
        self._last_ticks: int | None = None
        self._first_ticks = 0
        self._first_dts: int | None = None
        self._end_ticks = 0
        self._held: Packet[Any] | None = None
        self._durations: dict[int, int] = {}
        self._converter = Converter()
        self._focus = Focus(self.settings)
        self._container: OutputContainer | None = None
        self._sound: Sound | None = None
        try:
            self._open_streams(audio if info.has_audio else "drop")
        except BaseException:
            self.__exit__()
            raise

    def _open_streams(self, audio: Audio) -> None:
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
        self._sound = open_sound(audio, self.info.path, self._container, self._output.final)
        with self._failures():
            self._container.start_encoding()

    def _ticks_a_second(self) -> int:
        """The time scale that FFmpeg's muxer gives the track."""
        ticks = self.settings.time_base.denominator
        while ticks < 10000:
            ticks *= 2
        return ticks

    @override
    def write(
        self, image: NDArray[np.uint8], pts_ticks: int, duration_ticks: int = 0, focus: Sequence[Rect] = ()
    ) -> None:
        self._check(image)
        if self._last_ticks is None:
            self._first_ticks = pts_ticks
            self.shift_ticks = 0 if self._from_start else pts_ticks
            if self._sound is not None:
                self._sound.begin(self.shift_ticks * self.settings.time_base, self._end)
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

    @override
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
        if self._sound is not None and packet.dts is not None:
            self._sound.write_until(packet.dts * packet.time_base)
        cast(OutputContainer, self._container).mux_one(packet)

    def _mux_last(self, packet: Packet[Any]) -> None:
        """Write the last packet.

        MP4 takes the length of a track from the decoding times. It differs from the display length when frames are
        reordered and unevenly spaced; the last packet's duration makes up the difference.
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
            if self._sound is not None:
                self._sound.write_until(None)
            container.close()
            self._container = None
            synchronise(self.temporary)

    def _close(self) -> None:
        if self._sound is not None:
            self._sound.close()
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
            advice = "; check the space on the disk" if error.errno in NO_SPACE else ""
            raise OutputError(f"{self._output.final} could not be written ({reason(error)}){advice}.") from error


class ImageWriter(Writer):
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

    @override
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
