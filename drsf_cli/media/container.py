"""Opening FFmpeg's containers for reading, shared by the reader of frames and the copier of sound."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any, cast

import av
from av.container import InputContainer
from av.error import FFmpegError
from av.format import Flags as FormatFlags
from av.stream import Discard, Disposition, Stream
from av.video.stream import VideoStream

from weights.errors import InputError

Seconds = float | Fraction

# Containers whose index can be trusted to find the key frame at or before a time
INDEXED = ("mov", "matroska")

# Formats whose frames lie in other files: a text file with names in it must not choose what is read
_PLAYLISTS = ("concat", "hls", "dash", "imf", "sdp", "webm_dash_manifest")


def decimal(seconds: Seconds | None) -> Fraction | None:
    """The number as it is written in decimals: 0.2 becomes exactly 1/5, not the nearest binary number."""
    return None if seconds is None else Fraction(str(seconds))


def reason(error: Exception) -> str:
    """FFmpeg's or the system's error message, in a form that fits inside a sentence."""
    return str(getattr(error, "strerror", None) or error).rstrip(".")


def open_container(path: Path) -> InputContainer:
    """The opened file. Raises InputError if it is not a video, or is a playlist of other files."""
    try:
        # An absolute path is never taken for a protocol; a playlist in disguise may not reach out to the network.
        container = av.open(str(path.absolute()), "r", options={"protocol_whitelist": "file"})
    except (FFmpegError, OSError, ValueError) as error:
        raise InputError(f"{path} is not a video that can be read ({reason(error)}); check the file.") from error
    if container.format.name in _PLAYLISTS:
        container.close()
        raise InputError(f"{path} is a playlist; name the videos themselves.")
    return container


def is_one_of(container: InputContainer, formats: Sequence[str]) -> bool:
    """Whether the container's format is one of these, by FFmpeg's names."""
    return any(name in formats for name in container.format.name.split(","))


def videos(container: InputContainer) -> list[VideoStream]:
    """The video streams that are neither a cover picture nor a thumbnail."""
    pictures = Disposition.attached_pic | Disposition.timed_thumbnails
    return [stream for stream in container.streams.video if not stream.disposition & pictures]


def pick_video(container: InputContainer, path: Path) -> VideoStream:
    """The first video stream that is neither a cover picture nor a thumbnail; all other streams are discarded.

    Raises InputError if no stream can be decoded.
    """
    streams = videos(container)
    if not streams:
        held = "only sound" if container.streams.audio else "no video stream"
        raise InputError(f"{path} holds {held}; a video or a picture is needed.")
    chosen = streams[0]
    if chosen.codec_context is None:
        raise InputError(f"{path} uses a video codec that cannot be decoded here; convert it to H.264 first.")
    if chosen.codec_context.name == "ansi":  # FFmpeg draws text files as pictures
        raise InputError(f"{path} is a text file; a video or a picture is needed.")
    discard_others(container, [chosen])
    return chosen


def discard_others(container: InputContainer, wanted: list[Any]) -> None:
    """Have the demuxer drop all packets but those of the `wanted` streams."""
    for stream in container.streams:
        if stream not in wanted:
            stream.discard = Discard.all


def clock_origin(container: InputContainer) -> Fraction:
    """Seconds to subtract from all times: transport streams start their clock anywhere, other containers at zero."""
    if not container.format.flags & cast(int, FormatFlags.ts_discont.value):
        return Fraction(0)
    streams: list[Stream] = [*container.streams.video, *container.streams.audio]
    starts = [s.start_time * s.time_base for s in streams if s.start_time is not None and s.time_base]
    return min(starts, default=Fraction(0))
