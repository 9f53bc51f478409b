"""When the frames of a stream are shown.

Most containers state this. Three kinds do not, and each has its rule here. In bare streams the frames are evenly
spaced, at the stream's own rate. AVI has a place in the file for each frame, in decoding order; the frames take these
places in display order. In some transport streams a second recording follows the first, with a clock that starts anew.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any, cast

from av.container import InputContainer
from av.error import FFmpegError
from av.format import Flags as FormatFlags
from av.packet import Packet
from av.stream import Stream
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from drsf_cli.media.container import INDEXED, clock_origin, discard_others, is_one_of, open_container, reason
from weights.errors import InputError

DEFAULT_RATE = Fraction(25)
"""Frames a second if the stream names no rate."""

_FALL = Fraction(1, 10)
"""A clock starts anew if decoding times fall back by this many seconds; less is jitter. FFmpeg's command line has the
same threshold (fftools/ffmpeg_demux.c)."""


def is_bare(container: InputContainer) -> bool:
    """Whether the file is a stream without a container, so that no packet has a time."""
    return bool(container.format.flags & cast(int, FormatFlags.no_timestamps.value))


def may_restart(container: InputContainer) -> bool:
    """Whether a clock may start anew within the file: not where an index says when each frame is shown."""
    return not is_bare(container) and not is_one_of(container, (*INDEXED, "avi"))


def named_rate(stream: VideoStream) -> Fraction | None:
    """Frames a second that a bare stream names in its own headers."""
    if not stream.codec_context.framerate:
        return None
    return stream.guessed_rate or stream.average_rate


class Restarts:
    """Makes the times of one stream's packets continue when its clock starts anew.

    `offsets`: ticks to add after the first, second, ... restart, where another stream decides that; otherwise what
    follows begins where the packet before ended.
    """

    def __init__(self, time_base: Fraction, offsets: Sequence[int] | None = None) -> None:
        self._given = offsets
        self._fall = _FALL / time_base
        self._raw: int | None = None
        self._end = 0
        self.offsets: list[int] = []
        """That were added so far, one for each restart."""

    def move(self, packet: Packet[Any]) -> None:
        """Set the packet's times."""
        if packet.dts is not None:
            if self._raw is not None and packet.dts < self._raw - self._fall:
                self.offsets.append(self._offset(packet.dts))
            self._raw = packet.dts
        offset = self.offsets[-1] if self.offsets else 0
        if packet.pts is not None:
            packet.pts += offset
        if packet.dts is not None:
            packet.dts += offset
            self._end = packet.dts + (packet.duration or 0)

    def _offset(self, dts: int) -> int:
        if self._given is None:
            return self._end - dts
        number = len(self.offsets)
        return self._given[number] if number < len(self._given) else self._end - dts


class Clock:
    """The times of a video stream's frames, in ticks of `time_base`.

    Give it each packet before it is decoded, and then each frame.
    """

    def __init__(self, container: InputContainer, stream: VideoStream, time_base: Fraction, rate: Fraction) -> None:
        self.counted = is_bare(container)
        """Frames are evenly spaced, a tick each."""
        self._by_places = is_one_of(container, ("avi",))
        self._places: list[int] = []
        self._origin = 0 if self.counted else math.floor(clock_origin(container) / time_base)
        self._step = 1 if self.counted else max(1, round(1 / (rate * time_base)))
        self._restarts = Restarts(time_base) if may_restart(container) else None
        self._last: int | None = None
        self.restarted: list[int] = []
        """Ticks of the packets with which a new clock began."""

    def take(self, packet: Packet[Any]) -> None:
        """Move a packet's times onto one clock. Raises nothing."""
        if self._restarts is not None:
            known = len(self._restarts.offsets)
            self._restarts.move(packet)
            if len(self._restarts.offsets) > known and packet.pts is not None:
                self.restarted.append(packet.pts - self._origin)
        if self._by_places and packet.size and packet.dts is not None:
            heapq.heappush(self._places, packet.dts)

    def place(self, packet: Packet[Any]) -> int | None:
        """When a packet's frame is shown, if that is known before it is decoded; else None."""
        if self._by_places:
            return packet.dts
        return None if self.counted or packet.pts is None else packet.pts - self._origin

    def ticks(self, frame: VideoFrame) -> int:
        """When a frame is shown: later than the one before by a tick or more."""
        if self._by_places and self._places:
            ticks = heapq.heappop(self._places)
        elif not self.counted and frame.pts is not None:
            ticks = frame.pts - self._origin
        else:
            ticks = 0 if self._last is None else self._last + self._step
        if self._last is not None and ticks <= self._last:
            ticks = self._last + 1
        self._last = ticks
        return ticks


def sound_restarts(path: Path, video: VideoStream, sounds: Sequence[Stream]) -> dict[int, list[int]]:
    """Ticks to add after each restart of a sound stream's clock so that it stays in step with the picture.

    By the index of the stream. Every packet's time is read. Raises InputError where sound and picture do not start anew
    together.
    """
    with open_container(path) as container:
        wanted = [container.streams[one.index] for one in (video, *sounds)]
        discard_others(container, wanted)
        clocks = {one.index: Restarts(cast(Fraction, one.time_base)) for one in wanted}
        try:
            for packet in container.demux(wanted):
                clocks[packet.stream_index].move(packet)
        except (FFmpegError, OSError) as error:
            raise InputError(f"{path} cannot be read ({reason(error)}).") from error
    lead = clocks[video.index].offsets
    for one in sounds:
        if len(clocks[one.index].offsets) != len(lead):
            raise InputError(
                f"{path} has sound whose clock starts anew {len(clocks[one.index].offsets)} times where the picture's "
                f"does {len(lead)} times; leave the sound out."
            )
    scale = {one.index: cast(Fraction, video.time_base) / cast(Fraction, one.time_base) for one in sounds}
    return {index: [round(offset * factor) for offset in lead] for index, factor in scale.items()}
