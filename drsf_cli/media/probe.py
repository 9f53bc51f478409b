"""What is known of a video, a picture or a folder of pictures before its frames are read."""

from __future__ import annotations

import stat
from collections.abc import Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
from av.container import InputContainer
from av.sidedata.sidedata import SideDataContainer
from av.video.frame import VideoFrame
from av.video.stream import VideoStream
from numpy.typing import NDArray

from attacks.codec import BT601, BT709, JPEG_RANGE, UNSPECIFIED, Colour, resolve_matrix
from drsf_cli.media.container import is_one_of, open_container, pick_video, reason, videos
from drsf_cli.media.decoding import decode
from drsf_cli.media.images import grey_bits, image_size, is_image, list_images
from drsf_cli.media.integrity import find_flaw
from drsf_cli.media.timing import DEFAULT_RATE, Clock, is_bare, named_rate
from weights.errors import InputError, UsageError

_HDR = {16: "PQ", 18: "HLG"}
"""H.273 transfer characteristics."""

# matrix -> primaries and transfer that go with it, for sources that name none
_COMPANIONS = {BT709: (1, 1), BT601: (6, 6), 5: (5, 6), 7: (7, 7), 9: (9, 14), 10: (9, 14)}

_READ_BITS = 8  # of each sample of a video
_GREY_BITS = 16  # in which grey pictures of more than 8 bits are stored


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
    sample_aspect_ratio: Fraction | None = None
    "width to height of a displayed pixel; None if not said"
    colour: Colour = field(default_factory=Colour)
    "what the YUV is taken to be, and what output is written as"
    has_audio: bool = False
    frame_names: tuple[str, ...] = ()
    "of a folder of pictures: the file names, by pts_ticks"


@dataclass(frozen=True)
class Probed:
    """What probing a source gave."""

    info: VideoInfo
    bits: int | None = None
    """How many of their 16 bits grey pictures use, all taken together; None if there is no such picture."""
    notes: dict[str, str] = field(default_factory=dict)
    """Assumptions that may be surprising, one sentence each, by what they are about."""


def probe(path: Path, fps: Fraction | None) -> Probed:
    """Look at a source. `fps`: frames a second of pictures and of streams without a clock, if the user gave it.

    Raises InputError for a source that cannot be read or is incomplete, UsageError for `fps` where a file has a clock.
    """
    try:
        kind = path.stat().st_mode
        if stat.S_ISDIR(kind):
            return _probe_folder(path, fps)
        if not stat.S_ISREG(kind):  # to open one may wait for ever
            raise InputError(f"{path} is a pipe or a device, and drsf reads its input several times; save a file.")
        with path.open("rb") as file:
            if not file.read(1):
                raise InputError(f"{path} is empty; check the file.")
    except FileNotFoundError as error:
        if str(path) == "-":
            raise InputError(
                "- is not a file, and drsf reads its input several times; save standard input as a file first."
            ) from error
        raise InputError(f"{path} does not exist; check the name.") from error
    except OSError as error:
        raise InputError(f"{path} cannot be opened ({reason(error)}).") from error
    if is_image(path):
        return _pictures(path, "image", [path], image_size(path), fps)
    if flaw := find_flaw(path):
        raise InputError(f"{path} {flaw}; copy or record it again.")
    return _probe_video(path, fps)


def _probe_folder(path: Path, fps: Fraction | None) -> Probed:
    paths = list_images(path)
    if not paths:
        raise InputError(f"{path} is a folder without pictures; name a video, a picture or a folder of them.")
    sizes = [image_size(one) for one in paths]
    for one, size in zip(paths, sizes, strict=True):
        if size != sizes[0]:
            raise InputError(
                f"{one} is {size[0]}x{size[1]} and {paths[0].name} is {sizes[0][0]}x{sizes[0][1]}; "
                "the pictures of a folder must be of one size."
            )
    return _pictures(path, "image-sequence", paths, sizes[0], fps)


def _pictures(
    path: Path,
    kind: Literal["image", "image-sequence"],
    pictures: Sequence[Path],
    size: tuple[int, int],
    fps: Fraction | None,
) -> Probed:
    rate = fps or DEFAULT_RATE
    # of all pictures alike, so that a folder of them does not flicker
    bits = grey_bits(pictures)
    notes = {}
    if bits is not None and bits < _GREY_BITS:
        notes["bits"] = f"The grey pictures use {bits} of their 16 bits: white is taken to be {2**bits - 1}."
    info = VideoInfo(
        path=path,
        kind=kind,
        width=size[0],
        height=size[1],
        time_base=1 / rate,
        average_rate=rate,
        frame_count=len(pictures),
        duration=float(len(pictures) / rate),
        frame_names=tuple(one.name for one in pictures),
    )
    return Probed(info, bits, notes)


def _probe_video(path: Path, fps: Fraction | None) -> Probed:
    notes: dict[str, str] = {}
    with open_container(path) as container:
        stream = pick_video(container, path)
        context = stream.codec_context
        rate, time_base = _clockwork(path, container, stream, fps, notes)
        frames = decode(path, container, stream, Clock(container, stream, time_base, rate), whole=True)
        first = next(frames, None)
        if first is None:
            raise InputError(f"{path} holds no frame that can be decoded; check the file.")
        _note_depth(first, notes)
        if len(videos(container)) > 1:
            notes["streams"] = "The file holds several videos: the first of them was read."
        matrix = display_matrix(first)
        height, width = turn(np.empty((first.height, first.width, 1), np.uint8), matrix).shape[:2]
        count, duration = _extent(container, stream, rate, time_base)
        aspect = stream.sample_aspect_ratio or context.sample_aspect_ratio or None
        info = VideoInfo(
            path=path,
            kind="video",
            width=width,
            height=height,
            time_base=time_base,
            average_rate=rate,
            frame_count=count,
            duration=duration,
            sample_aspect_ratio=1 / aspect if aspect and not matrix[0] else aspect,
            colour=_output_colour(first),
            has_audio=bool(container.streams.audio),
        )
    return Probed(info, notes=notes)


def _extent(
    container: InputContainer, stream: VideoStream, rate: Fraction, time_base: Fraction
) -> tuple[int | None, float | None]:
    """How many frames the container says there are, or how many that seems to be, and how many seconds."""
    if stream.duration and not is_bare(container):
        duration: float | None = float(stream.duration * time_base)
    else:
        duration = container.duration / 1e6 if container.duration else None
    if is_one_of(container, ("mov",)) and stream.frames and len(stream.index_entries):
        return sum(not entry.is_discard for entry in stream.index_entries), duration
    return stream.frames or (round(duration * rate) if duration else None), duration


def _clockwork(
    path: Path, container: InputContainer, stream: VideoStream, fps: Fraction | None, notes: dict[str, str]
) -> tuple[Fraction, Fraction]:
    """(frames a second, seconds a tick)."""
    if not is_bare(container):
        if fps is not None:
            raise UsageError(
                f"--fps is for streams without a clock, and {path} says itself when each frame is shown; leave it out."
            )
        rate = stream.average_rate or stream.guessed_rate or DEFAULT_RATE
        return rate, stream.time_base or Fraction(1, 90000)
    named = fps or named_rate(stream)
    if named is None:
        notes["rate"] = f"The stream names no frame rate: {DEFAULT_RATE} frames a second are taken; --fps says another."
    rate = named or DEFAULT_RATE
    return rate, 1 / rate


def _note_depth(frame: VideoFrame, notes: dict[str, str]) -> None:
    """Note the depth of samples that have more than 8 bits: 8 bits of each are read."""
    bits = max(component.bits for component in frame.format.components)
    transfer = _HDR.get(frame.color_trc)
    if bits > _READ_BITS or transfer:
        kind = "" if transfer is None else f" of {transfer} (HDR)"
        notes["depth"] = f"The samples have {bits} bits{kind}: 8 bits of each were read and written."


def display_matrix(frame: VideoFrame) -> tuple[int, int, int, int]:
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


def turn(image: NDArray[np.uint8], matrix: tuple[int, int, int, int]) -> NDArray[np.uint8]:
    """The stored picture as displayed."""
    a, b, c, d = matrix
    return np.ascontiguousarray(image[::d, ::a] if a else image.transpose(1, 0, 2)[::b, ::c])


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
