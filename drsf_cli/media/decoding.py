"""Packets to frames: every frame that a player would show, or an error.

A frame that is skipped or concealed may hold a face that no detector looked at, so the reader stops at any frame that
the decoder cannot decode completely. Three kinds of packets are passed over, because no player shows them: those that
an edit list hides, those before the first key frame, and the leading pictures of an open GOP whose references were cut
off.
"""

from __future__ import annotations

import contextlib
import itertools
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import av
from av.container import InputContainer
from av.error import FFmpegError
from av.packet import Packet
from av.video.codeccontext import VideoCodecContext
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from drsf_cli.media.container import INDEXED, is_one_of, reason
from drsf_cli.media.timing import Clock
from weights.errors import InputError

# Frame threads also make the decoder report what it had to conceal; the frames do not depend on their number.
DECODER_THREADS = 4

# Codecs and containers in which each sample is one frame to be displayed
_SAMPLE_IS_FRAME = ("h264", "hevc")
_SAMPLES_APART = (*INDEXED, "avi")

_IDR = 5  # the type of a NAL unit with a slice of an IDR picture

# Codecs whose streams may be cut at any packet, and containers that are cut so
_CUT_ANYWHERE = ("h264", "hevc", "mpeg2video")
_CUTTABLE = ("mpegts", "mpeg")

# Decoders that conceal a slice whose checksum is wrong, and only log it
_LOGS_DAMAGE = ("ffv1",)

# What the H.264 decoder logs when it is told to forget a picture that was cut off
_CUT_OFF = "mmco: unref short failure"


def shown_packets(container: InputContainer, stream: VideoStream, clock: Clock) -> Iterator[tuple[Packet[Any], bool]]:
    """The stream's packets on one clock, less those that no decoder can show.

    Each comes with whether it is certain to be shown; the last one is empty. Raises FFmpegError, OSError, ValueError.
    """
    codec = stream.codec_context.name
    cut = codec in _CUT_ANYWHERE and is_one_of(container, _CUTTABLE)
    # pictures that follow the first key frame and are shown before it refer to what was cut off
    leading = codec in _SAMPLE_IS_FRAME and not clock.counted and not is_one_of(container, ("avi",))
    key: Packet[Any] | None = None
    for packet in container.demux(stream):
        clock.take(packet)
        certain = bool(packet.size) and not packet.is_discard
        if packet.size and key is None:
            if cut and not packet.is_keyframe:
                continue
            key = packet
        elif packet.size and key is not None:
            leading = leading and not packet.is_keyframe
            if leading and (packet.pts is None or (key.pts is not None and packet.pts < key.pts)):
                if codec == "h264":
                    continue
                # HEVC's decoder leaves them out by itself, but for those that it can decode (H.265, 3.112, RADL)
                certain = False
        yield packet, certain


def decode(
    path: Path, container: InputContainer, stream: VideoStream, clock: Clock, *, whole: bool
) -> Iterator[VideoFrame]:
    """Every displayed frame of the stream, or InputError. `whole`: read from the very start, so the count is known."""
    context = stream.codec_context
    packets = shown_packets(container, stream, clock)
    try:
        start = next(packets, None)
    except (FFmpegError, OSError) as error:
        raise InputError(f"{path} cannot be read ({reason(error)}); repair or re-encode it.") from error
    hearing = _prepare(context, None if start is None else start[0], whole)
    if start is not None:
        packets = itertools.chain([start], packets)
    shown = given = keys = 0
    while True:
        try:
            packet, certain = next(packets, (None, False))
            with hearing() as errors:
                frames = [] if packet is None else packet.decode()
        except (FFmpegError, OSError, ValueError) as error:
            raise InputError(
                f"{path} cannot be decoded after frame {given} ({reason(error)}); repair or re-encode it."
            ) from error
        if packet is None:
            break
        keys += bool(packet.size) and packet.is_keyframe
        heard = [text for _, _, text in errors if keys > 1 or _CUT_OFF not in text]
        if heard or (packet.size and packet.is_corrupt):
            raise InputError(f"{path} is damaged after frame {given}; repair or re-encode it.")
        shown += certain
        for frame in frames:
            if frame.is_corrupt:
                raise InputError(f"{path} is damaged at frame {given}; repair or re-encode it.")
            given += 1
            yield frame
    countable = context.name in _SAMPLE_IS_FRAME and is_one_of(container, _SAMPLES_APART)
    if whole and countable and given < shown:
        raise InputError(f"{path} gives only {given} of its {shown} frames; repair or re-encode it.")


def _prepare(context: VideoCodecContext, first: Packet[Any] | None, whole: bool) -> Callable[[], _Hearing]:
    """Make the decoder stop at damage, or collect its log if it only logs the damage."""
    context.thread_type = "AUTO"
    # H.264 that was cut at an open GOP forgets pictures that it never had; to a decoder that stops this is damage, too
    forgets = context.name == "h264" and whole and first is not None and not _is_idr(first, context.extradata)
    # What is logged is heard in this thread only.
    listens = context.name in _LOGS_DAMAGE or forgets
    context.thread_count = 1 if listens else DECODER_THREADS
    context.options = {} if forgets else {"err_detect": "explode"}
    return _logged_errors if listens else _nothing_logged


def _is_idr(packet: Packet[Any], extradata: bytes | None) -> bool:
    """Whether a packet of H.264 has a slice of an IDR picture.

    Those are NAL units of type 5 (ITU-T H.264, table 7-1), behind their lengths where the extradata are an
    AVCDecoderConfigurationRecord (ISO/IEC 14496-15), else behind start codes.
    """
    data = bytes(packet)
    if not extradata or extradata[0] != 1:
        return any(unit and unit[0] & 31 == _IDR for unit in data.split(b"\0\0\1")[1:])
    size, position = (extradata[4] & 3) + 1, 0
    while position + size < len(data):
        if data[position + size] & 31 == _IDR:
            return True
        position += size + int.from_bytes(data[position : position + size], "big")
    return False


_Hearing = contextlib.AbstractContextManager[Sequence[tuple[int, str, str]]]
_HEARING = threading.Lock()


@contextlib.contextmanager
def _nothing_logged() -> Iterator[Sequence[tuple[int, str, str]]]:
    yield []


@contextlib.contextmanager
def _logged_errors() -> Iterator[Sequence[tuple[int, str, str]]]:
    """The errors that FFmpeg logs in this thread while the context is open."""
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
