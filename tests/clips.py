"""Small clips of every awkward kind, made on the fly.

Encoded with PyAV directly and, where FFmpeg's API has no way, patched in the bytes, so that none of the code under
test takes part in making what it is tested on.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal, cast

import av
import numpy as np
import PIL.Image
from av.container import OutputContainer
from av.stream import Disposition
from av.video.frame import VideoFrame
from av.video.reformatter import Interpolation
from numpy.typing import NDArray

Image = NDArray[np.uint8]

# clockwise turn for display -> (a, b, c, d) of the track header's matrix, ISO/IEC 14496-12
_TURNS = {0: (1, 0, 0, 1), 90: (0, 1, -1, 0), 180: (-1, 0, 0, -1), 270: (0, -1, 1, 0)}

_SWS = {1: 1, 5: 5, 6: 5, 9: 9}  # H.273 matrix -> swscale's number


def pattern(index: int, width: int, height: int) -> Image:
    """A picture without any symmetry: ramps, a red top left corner, a bright block that moves with `index`."""
    y, x = np.mgrid[0:height, 0:width].astype(np.float64)
    red = 40 + 150 * x / max(width - 1, 1)
    green = 50 + 130 * y / max(height - 1, 1)
    blue = 120 + 60 * np.sin((x + 2 * y) / 9)
    image = np.stack([red, green, blue], axis=2)
    image[: max(1, height // 4), : max(1, width // 4)] = (210, 30, 40)
    side = max(1, min(width, height) // 5)
    left = (3 * index) % max(1, width - side)
    image[height // 2 : height // 2 + side, left : left + side] = (235, 230, 60)
    return cast(Image, np.rint(image).astype(np.uint8))


def patterns(count: int, width: int, height: int) -> list[Image]:
    return [pattern(index, width, height) for index in range(count)]


def _frame(image: Image, pixel_format: str, matrix: int, full_range: bool) -> VideoFrame:
    """(H, W, 3) RGB or (H, W, 4) RGBA as a frame of `pixel_format`."""
    frame = VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24" if image.shape[2] == 3 else "rgba")
    return frame.reformat(
        format=pixel_format,
        dst_colorspace=_SWS.get(matrix, 5),
        dst_color_range=2 if full_range else 1,
        interpolation=int(Interpolation.BICUBIC | Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INP),
    )


def make_clip(
    path: Path,
    images: Sequence[Image],
    *,
    codec: str = "libx264",
    pixel_format: str = "yuv420p",
    options: dict[str, str] | None = None,
    pts: Sequence[int] | None = None,
    time_base: Fraction = Fraction(1, 25),
    rate: Fraction = Fraction(25),
    matrix: int = 2,
    full_range: bool | None = None,
    audio: Literal["first", "last"] | None = None,
    audio_codec: str = "aac",
    hertz: Sequence[float] = (440,),
    second_video: bool = False,
    cover: bool = False,
    metadata: dict[str, str] | None = None,
    sample_aspect_ratio: Fraction | None = None,
    attachment: bool = False,
    container_options: dict[str, str] | None = None,
) -> Path:
    """Encode `images` (the suffix names the container). `matrix`: H.273, 2 leaves it unsaid; `full_range` None too.

    `audio`: a tone as the first or last stream. `second_video`: a clip of plain grey after the first.
    `cover`: an attached PNG picture, which FFmpeg's demuxers show as one more video stream.
    """
    height, width = images[0].shape[:2]
    with av.open(str(path), "w", container_options=container_options or {}) as container:
        container.metadata.update(metadata or {})
        sound = _add_audio(container, audio_codec) if audio == "first" else None
        stream = cast(Any, container.add_stream(codec, rate=rate))
        stream.width, stream.height, stream.pix_fmt = width, height, pixel_format
        context = stream.codec_context
        context.time_base = time_base
        stream.time_base = time_base
        context.thread_count = 1
        if sample_aspect_ratio is not None:
            context.sample_aspect_ratio = sample_aspect_ratio
        if matrix != 2:
            context.colorspace, context.color_primaries, context.color_trc = matrix, matrix, matrix
        if full_range is not None:
            context.color_range = 2 if full_range else 1
        context.options = {"crf": "10", "preset": "veryfast"} if options is None and "264" in codec else options or {}
        other = None
        if second_video:
            other = cast(Any, container.add_stream("libx264", rate=rate))
            other.width, other.height, other.pix_fmt = 32, 32, "yuv420p"
        picture = None
        if cover and path.suffix == ".mkv":
            container.add_attachment("cover.png", "image/png", _png(pattern(0, 24, 24)))
        elif cover:
            picture = cast(Any, container.add_stream("png"))
            picture.width, picture.height, picture.pix_fmt = 24, 24, "rgb24"
            picture.disposition = Disposition.attached_pic.value
        if audio == "last":
            sound = _add_audio(container, audio_codec)
        if attachment:
            container.add_attachment("note.txt", "text/plain", b"who drove: nobody")
        if picture is not None:
            container.mux(picture.encode(_frame(pattern(0, 24, 24), "rgb24", 1, False)))
            container.mux(picture.encode(None))
        times = list(pts) if pts is not None else [round(i / (rate * time_base)) for i in range(len(images))]
        for index, (image, ticks) in enumerate(zip(images, times, strict=True)):
            frame = _frame(image, pixel_format, matrix, bool(full_range))
            frame.pts, frame.time_base = ticks, time_base
            container.mux(stream.encode(frame))
            if other is not None:
                grey = _frame(np.full((32, 32, 3), 128, np.uint8), "yuv420p", 1, False)
                grey.pts, grey.time_base = index, 1 / Fraction(rate)
                container.mux(other.encode(grey))
        container.mux(stream.encode(None))
        if other is not None:
            container.mux(other.encode(None))
        if sound is not None:
            _write_tone(container, sound, float((times[-1] - times[0]) * time_base + 1 / rate), hertz)
    return path


def _png(image: Image) -> bytes:
    buffer = io.BytesIO()
    PIL.Image.fromarray(image).save(buffer, "PNG")
    return buffer.getvalue()


def _add_audio(container: OutputContainer, codec: str) -> Any:
    return container.add_stream(codec, rate=16000, layout="mono")


def _write_tone(container: OutputContainer, stream: Any, seconds: float, hertz: Sequence[float] = (440,)) -> None:
    """In blocks of 1024 samples; of several tones each sounds for its share of the time."""
    for start in range(0, int(seconds * 16000), 1024):
        pitch = hertz[min(len(hertz) - 1, int(start / 16000 / seconds * len(hertz)))]
        tone = 0.3 * np.sin(2 * np.pi * pitch * np.arange(start, start + 1024) / 16000)
        if stream.codec_context.format.name.startswith("s16"):
            frame = av.AudioFrame.from_ndarray((tone * 32767).astype(np.int16)[None], format="s16", layout="mono")
        else:
            frame = av.AudioFrame.from_ndarray(tone.astype(np.float32)[None], format="fltp", layout="mono")
        frame.sample_rate, frame.pts, frame.time_base = 16000, start, Fraction(1, 16000)
        container.mux(stream.encode(frame))
    container.mux(stream.encode(None))


def make_sound(path: Path, seconds: float = 0.5) -> Path:
    """A file that holds only sound."""
    with av.open(str(path), "w") as container:
        _write_tone(container, _add_audio(container, "aac"), seconds)
    return path


def set_rotation(path: Path, degrees: int, *, mirror: bool = False) -> Path:
    """Rewrite the matrix in the track header of the first video track of an MP4: turn clockwise for display, after
    mirroring left to right if asked.
    """
    data = bytearray(path.read_bytes())
    start = 0
    while (start := data.find(b"tkhd", start)) >= 0:
        body = start + 4
        matrix = body + (52 if data[body] else 40)
        width, height = struct.unpack(">II", data[matrix + 36 : matrix + 44])
        if width:
            a, b, c, d = _TURNS[degrees]
            if mirror:
                a, b = -a, -b
            w, h = width >> 16, height >> 16
            x = -min(0, a * w) - min(0, c * h)
            y = -min(0, b * w) - min(0, d * h)
            one = 0x10000
            row = struct.pack(">9i", a * one, b * one, 0, c * one, d * one, 0, x * one, y * one, 1 << 30)
            data[matrix : matrix + 36] = row
            path.write_bytes(data)
            return path
        start = body
    raise ValueError(f"{path} has no video track header")


def packet_places(path: Path) -> list[tuple[int, int]]:
    """(position, size) of each packet of the first video stream, in the order of the file."""
    with av.open(str(path)) as container:
        return [(cast(int, p.pos), p.size) for p in container.demux(video=0) if p.size]


def damage(path: Path, packet: int, *, seed: int = 0, count: int = 12) -> Path:
    """Overwrite bytes inside one packet, beyond its first eight, with random others."""
    data = bytearray(path.read_bytes())
    position, size = packet_places(path)[packet]
    generator = np.random.default_rng(seed)
    for offset in generator.integers(8, size, count):
        data[position + int(offset)] ^= int(generator.integers(1, 256))
    path.write_bytes(data)
    return path


def blank(path: Path, packet: int) -> Path:
    """Replace one packet by 0xFF: what a lost sector leaves."""
    data = bytearray(path.read_bytes())
    position, size = packet_places(path)[packet]
    data[position : position + size] = b"\xff" * size
    path.write_bytes(data)
    return path


def truncate(path: Path, fraction: float) -> Path:
    """Keep the first part of the file."""
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * fraction)])
    return path


def cut(source: Path, path: Path, key: int = 1, skip: int = 0) -> Path:
    """Copy the packets of the first video stream from its key frame number `key` on, less `skip`, without coding: what
    `ffmpeg -ss -c copy` does."""
    with av.open(str(source)) as container, av.open(str(path), "w") as target:
        stream = container.streams.video[0]
        copy = target.add_stream_from_template(stream)
        packets = [packet for packet in container.demux(stream) if packet.size]
        first = [number for number, packet in enumerate(packets) if packet.is_keyframe][key] + skip
        origin = cast(int, packets[first].dts)
        for packet in packets[first:]:
            packet.stream = copy
            packet.pts, packet.dts = cast(int, packet.pts) - origin, cast(int, packet.dts) - origin
            target.mux(packet)
    return path


def join_transport(parts: Sequence[Path], path: Path) -> Path:
    """Transport streams behind each other, as by a recorder that goes on counting: the continuity counters run on (ISO/
    IEC 13818-1, 2.4.3.3), the clocks do not."""
    counters: dict[int, int] = {}
    joined = bytearray()
    for part in parts:
        data = bytearray(part.read_bytes())
        for at in range(0, len(data), 188):
            pid = (data[at + 1] & 31) << 8 | data[at + 2]
            counter = data[at + 3] & 15
            if pid in counters and joined:
                counter = (counters[pid] + (data[at + 3] >> 4 & 1)) & 15
            data[at + 3] = data[at + 3] & 0xF0 | counter
            counters[pid] = counter
        joined += data
    path.write_bytes(joined)
    return path


def hide_start(path: Path, seconds: float) -> Path:
    """Have the edit list of each track of an MP4 (ISO/IEC 14496-12, 8.6.6) begin that much later in its media."""
    data = bytearray(path.read_bytes())
    at = -1
    while (at := data.find(b"elst", at + 1)) >= 0:
        header = data.index(b"mdhd", at)
        scale = struct.unpack(">I", data[header + (24 if data[header + 4] else 16) :][:4])[0]
        kind, place = (">q", at + 20) if data[at + 4] else (">i", at + 16)
        begins = struct.unpack_from(kind, data, place)[0] + round(seconds * scale)
        struct.pack_into(kind, data, place, begins)
    path.write_bytes(data)
    return path
