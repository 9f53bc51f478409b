"""The delivery codec: how RGB frames become a written stream, and what a reader of that stream sees.

One place for the three things that the writer, the reader and the attack's inner loop must agree on to the
last bit: the table of codecs, the conversion between RGB and YUV, and the encoder's settings.
`DeliveryCodec.roundtrip` encodes and decodes in memory exactly as writing the file and reading it back does.

Conventions: frames are uint8 (H, W, 3) RGB. Matrix, primaries and transfer are the code points of ITU-T H.273
(1 = BT.709, 5 and 6 = BT.601, 9 = BT.2020), as FFmpeg names them AVCOL_SPC_*, AVCOL_PRI_* and AVCOL_TRC_*.
"""

from __future__ import annotations

from collections.abc import Container, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, cast

import av
import cv2
import numpy as np
from av.filter import Graph
from av.video.codeccontext import VideoCodecContext
from av.video.frame import VideoFrame
from av.video.reformatter import Interpolation, VideoReformatter
from numpy.typing import NDArray

from attacks.names import CRF, FOCUS_QP
from weights.errors import DrsfError, InputError, UsageError

# x264 decides differently with another number of threads. One thread gives the same file on every machine, and
# costs nothing against the attack.
ENCODER_THREADS = 1

# x264's AVX-512 code for macroblock trees reads past the end of a row where the width is no multiple of 128 px: the
# same frames then give another file each time. Its AVX2 code gives what its C code gives.
_AVX512 = 13  # CV_CPU_AVX_512F in opencv2/core/cvdef.h
_ASSEMBLY = ("asm=avx2",) if cv2.checkHardwareSupport(_AVX512) else ()

# Frames stay in order, so that none waits for a later one to be shown.
_IN_ORDER = ("bframes=0", "force-cfr=1")
# Each frame is coded without a look at later ones, so that what becomes of it is known as soon as it is settled
# (attacks/live.py). Without macroblock trees files grow: 127 kB for 89 (25 frames of the demo clip, drawn).
_CAUSAL = ("rc-lookahead=0", "sync-lookahead=0", "mbtree=0")

PRESETS = ("ultrafast", "superfast", "veryfast", "faster", "fast", "medium", "slow", "slower", "veryslow")

MPEG_RANGE, JPEG_RANGE = 1, 2  # AVCOL_RANGE_*: luma 16..235 and 0..255
RGB_MATRIX, BT709, UNSPECIFIED, BT470BG, BT601 = 0, 1, 2, 5, 6

# H.273 matrix -> swscale's name for the same coefficients; no entry: swscale has no such coefficients
_SWSCALE_MATRIX = {BT709: 1, 4: 4, BT470BG: 5, BT601: 5, 7: 7, 9: 9, 10: 9}

# Both directions the same: full vertical and horizontal chroma, exact rounding, no processor-specific shortcuts.
_SWSCALE_FLAGS = int(
    Interpolation.BICUBIC
    | Interpolation.FULL_CHR_H_INT
    | Interpolation.FULL_CHR_H_INP
    | Interpolation.ACCURATE_RND
    | Interpolation.BITEXACT
)


@dataclass(frozen=True)
class Codec:
    """One way to write video."""

    name: str
    "what `--codec` takes"
    encoder: str
    "FFmpeg's encoder"
    decoder: str
    "FFmpeg's decoder of what that encoder writes"
    pixel_format: str
    "what the encoder is fed when width and height are even"
    odd_pixel_format: str
    "what it is fed otherwise"
    suffixes: tuple[str, ...]
    "containers it is written to, the default first"
    options: tuple[tuple[str, str], ...]
    "encoder options that are always set"
    lossless: bool
    "RGB in equals RGB out"


# H.264 cannot hold an odd width or height at 4:2:0: its cropping window counts in chroma samples. Such frames are
# written at 4:4:4, which keeps their size but which not every browser plays.
CODECS: dict[str, Codec] = {
    codec.name: codec
    for codec in (
        Codec("h264", "libx264", "h264", "yuv420p", "yuv444p", (".mp4", ".m4v", ".mov", ".mkv"), (), False),
        Codec("h264-rgb", "libx264rgb", "h264", "rgb24", "rgb24", (".mp4", ".mkv"), (("qp", "0"),), True),
        Codec("ffv1", "ffv1", "ffv1", "bgr0", "bgr0", (".mkv",), (("level", "3"), ("slicecrc", "1")), True),
    )
}


def find_codec(name: str) -> Codec:
    """The codec called `name`; UsageError names the valid ones."""
    if name not in CODECS:
        raise UsageError(f"{name!r} is not a codec; it takes {', '.join(CODECS)}.")
    return CODECS[name]


@dataclass(frozen=True)
class Colour:
    """How a stream's YUV is meant."""

    matrix: int = BT709
    full_range: bool = False
    "luma spans 0..255 instead of 16..235"
    primaries: int = BT709
    transfer: int = BT709


def resolve_matrix(matrix: int, height: int) -> int:
    """The matrix to convert with, as players guess it.

    It is the stream's own, or where it names none BT.709 from 720 coded lines on, else BT.601. Raises InputError for
    one that nothing here can convert (YCgCo, ICtCp, ...).
    """
    if matrix in (UNSPECIFIED, RGB_MATRIX, 3):
        return BT709 if height >= 720 else BT601
    if matrix not in _SWSCALE_MATRIX:
        raise InputError(
            f"The video uses colour matrix {matrix} of H.273, which cannot be converted; convert it to BT.709 first."
        )
    return matrix


Rect = tuple[int, int, int, int]
"""x1, y1, x2, y2 px, half-open."""


@dataclass(frozen=True)
class EncoderSettings:
    """Everything that decides the bits an encoder writes, apart from the frames and their times."""

    codec: Codec
    crf: int = 23
    preset: str = "medium"
    pixel_format: str = "yuv420p"
    colour: Colour = Colour()
    time_base: Fraction = Fraction(1, 30)
    rate: Fraction = Fraction(30)
    "frames a second: x264 spreads its bits by it, so CRF output depends on it"
    sample_aspect_ratio: Fraction | None = None
    focus_qp: int = 0
    "added to the quantiser where frames are marked as in focus; below 0 is finer"
    looks_ahead: bool = False
    "spend bits by a look at later frames: smaller files, but what becomes of a frame is known some frames later"

    def __post_init__(self) -> None:
        for name, value, (low, high) in (("crf", self.crf, CRF), ("focus_qp", self.focus_qp, FOCUS_QP)):
            if not low <= value <= high:
                raise ValueError(f"{name} {value} is out of range; it takes {low} to {high}")
        if self.preset not in PRESETS:
            raise ValueError(f"preset {self.preset} is unknown; it takes one of {', '.join(PRESETS)}")

    def encoder(self, width: int, height: int) -> VideoCodecContext:
        """A new encoder for frames of `width` x `height` pixels."""
        context = cast(VideoCodecContext, av.CodecContext.create(self.codec.encoder, "w"))
        self.configure(context, width, height)
        return context

    def configure(self, context: VideoCodecContext, width: int, height: int) -> None:
        """Set up an encoder context that is not open yet, for frames of `width` x `height` pixels."""
        context.width, context.height = width, height
        context.pix_fmt = self.pixel_format
        context.time_base = self.time_base
        context.framerate = self.rate
        context.thread_count = ENCODER_THREADS
        if self.sample_aspect_ratio is not None:
            context.sample_aspect_ratio = self.sample_aspect_ratio
        context.color_primaries = self.colour.primaries
        context.color_trc = self.colour.transfer
        if self.pixel_format.startswith("yuv"):  # luma and chroma, not RGB
            context.colorspace = self.colour.matrix
            context.color_range = JPEG_RANGE if self.colour.full_range else MPEG_RANGE
        else:
            context.colorspace = RGB_MATRIX
            context.color_range = JPEG_RANGE
        options = dict(self.codec.options)
        if self.codec.encoder.startswith("libx264"):
            options["preset"] = self.preset
            if not self.codec.lossless:
                options["crf"] = str(self.crf)
            parameters = _ASSEMBLY
            if not self.codec.lossless:
                parameters = (*_ASSEMBLY, *_IN_ORDER, *(() if self.looks_ahead else _CAUSAL))
            if parameters:
                options["x264-params"] = ":".join(parameters)
        context.options = options


class Converter:
    """RGB arrays to FFmpeg frames and back, the same way everywhere. Keeps swscale's tables between frames."""

    def __init__(self) -> None:
        self._reformatter = VideoReformatter()

    def to_frame(self, image: NDArray[np.uint8], pixel_format: str, colour: Colour) -> VideoFrame:
        """`image` (H, W, 3) RGB as a frame of `pixel_format`; YUV by the matrix and range of `colour`."""
        frame = VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24")
        if not pixel_format.startswith("yuv"):
            return self._reformatter.reformat(frame, format=pixel_format, interpolation=_SWSCALE_FLAGS, threads=1)
        full = JPEG_RANGE if colour.full_range else MPEG_RANGE
        frame = self._reformatter.reformat(
            frame,
            format=pixel_format,
            dst_colorspace=_SWSCALE_MATRIX[colour.matrix],
            dst_color_range=full,
            interpolation=_SWSCALE_FLAGS,
            threads=1,
        )
        frame.colorspace, frame.color_range = colour.matrix, full
        return frame

    def to_rgb(self, frame: VideoFrame) -> NDArray[np.uint8]:
        """A decoded frame as (H, W, 3) RGB, by its own matrix and range (see `resolve_matrix`).

        Deeper samples are rounded to 8 bits, grey is repeated, alpha is dropped so that nothing hidden under it goes
        unseen.
        """
        if frame.format.name == "rgb24":
            return cast(NDArray[np.uint8], frame.to_ndarray())
        matrix = None if frame.format.is_rgb else _SWSCALE_MATRIX[resolve_matrix(frame.colorspace, frame.height)]
        converted = self._reformatter.reformat(
            frame,
            format="rgb24",
            src_colorspace=matrix,
            dst_color_range=JPEG_RANGE,
            interpolation=_SWSCALE_FLAGS,
            threads=1,
        )
        return cast(NDArray[np.uint8], converted.to_ndarray())


class Focus:
    """Marks the parts of frames that an encoder is to code more finely.

    These are FFmpeg's regions of interest: x264 adds an offset to the quantiser of the macroblocks they touch, and the
    stream stays an ordinary one.
    """

    MOST = 16
    """Filter graphs kept; a covered head keeps its rectangle for many frames."""

    def __init__(self, settings: EncoderSettings) -> None:
        self._settings = settings
        self._graphs: dict[tuple[int, int, tuple[Rect, ...]], Graph] = {}

    def mark(self, frame: VideoFrame, rects: Sequence[Rect]) -> VideoFrame:
        """The frame with `rects` in focus. Set its times afterwards: they are not kept."""
        offset = self._settings.focus_qp / 51.0  # FFmpeg's unit: the whole range of the quantiser
        if not rects or not offset or self._settings.codec.lossless:
            return frame
        key = (frame.width, frame.height, tuple(rects))
        if key not in self._graphs:
            if len(self._graphs) >= self.MOST:
                self._graphs.clear()
            self._graphs[key] = self._graph(frame, rects, offset)
        graph = self._graphs[key]
        matrix, colour_range = frame.colorspace, frame.color_range
        graph.vpush(frame)
        marked = graph.vpull()
        marked.colorspace, marked.color_range = matrix, colour_range
        return marked

    def _graph(self, frame: VideoFrame, rects: Sequence[Rect], offset: float) -> Graph:
        graph = Graph()
        graph.threads = 1  # marking needs none, and a fork (attacks/live.py) would not have them
        steps = [
            graph.add_buffer(
                width=frame.width, height=frame.height, format=frame.format, time_base=self._settings.time_base
            ),
            *(graph.add("addroi", f"{x1}:{y1}:{x2 - x1}:{y2 - y1}:{offset}") for x1, y1, x2, y2 in rects),
            graph.add("buffersink"),
        ]
        graph.link_nodes(*steps).configure()
        return graph


class DeliveryCodec:
    """What the delivery codec does to frames, in memory.

    Build `settings` as the writer does (`drsf_cli.media.writer.encoder_settings`), so that both encode alike. Crops
    should start at multiples of 16 px of the full frame: x264 then sees the same macroblocks in both. Only whole frames
    from the first on give the written bits themselves, since what x264 makes of a frame depends on all before it
    (attacks/live.py).
    """

    def __init__(self, settings: EncoderSettings) -> None:
        self.settings = settings

    def roundtrip(
        self,
        frames: NDArray[np.uint8],
        pts_ticks: Sequence[int] | None = None,
        focus: Sequence[Sequence[Rect]] | None = None,
    ) -> NDArray[np.uint8]:
        """Encode consecutive frames and decode them again.

        frames: (N, H, W, 3) uint8 RGB. pts_ticks: N rising times in `settings.time_base`; evenly spaced if None.
        focus: for each frame the rectangles to be coded more finely.
        Returns (N, H, W, 3) uint8 RGB. A lossless codec returns a copy.
        """
        if self.settings.codec.lossless or len(frames) == 0:
            return frames.copy()
        height, width = frames.shape[1:3]
        if self.settings.pixel_format == "yuv420p" and (height % 2 or width % 2):
            frames = np.pad(frames, ((0, 0), (0, height % 2), (0, width % 2), (0, 0)), mode="edge")
        if pts_ticks is None:
            step = 1 / (self.settings.rate * self.settings.time_base)
            pts_ticks = [round(index * max(step, Fraction(1))) for index in range(len(frames))]
        state = CodecState(self.settings)
        for image, pts, rects in zip(frames, pts_ticks, focus or [()] * len(frames), strict=True):
            state.push(image, pts, rects)
        return np.stack(state.last(len(frames)))[:, :height, :width]


class CodecState:
    """An encoder, and a decoder of what it gives, in the middle of a stream."""

    def __init__(self, settings: EncoderSettings) -> None:
        self._settings = settings
        self._converter, self._focus = Converter(), Focus(settings)
        self._encoder: VideoCodecContext | None = None
        self._decoder = cast(VideoCodecContext, av.CodecContext.create(settings.codec.decoder, "r"))
        self._decoder.thread_count = 1
        self._decoded: list[VideoFrame] = []

    def push(self, image: NDArray[np.uint8], pts_ticks: int, focus: Sequence[Rect] = ()) -> None:
        """Encode and decode the next frame, (H, W, 3) RGB."""
        frame = self._converter.to_frame(image, self._settings.pixel_format, self._settings.colour)
        frame = self._focus.mark(frame, focus)
        frame.pts, frame.time_base = pts_ticks, self._settings.time_base
        if self._encoder is None:
            self._encoder = self._settings.encoder(image.shape[1], image.shape[0])
        self._decode(self._encoder.encode(frame))

    def forget(self) -> None:
        """Let go of what was decoded; the stream goes on."""
        self._decoded.clear()

    def take(self, wanted: Container[int]) -> list[tuple[int, NDArray[np.uint8]]]:
        """What a reader sees of the frames at times `wanted`, with their times.

        Of those decoded since the last call; lets go of all of them.
        """
        decoded = [frame for frame in self._decoded if frame.pts in wanted]
        self.forget()
        return [(cast(int, frame.pts), self._converter.to_rgb(frame)) for frame in decoded]

    def finish(self) -> None:
        """End the stream: all frames are decoded then."""
        if self._encoder is not None:
            self._decode(self._encoder.encode(None))
        self._decode([None])

    def last(self, count: int) -> list[NDArray[np.uint8]]:
        """What a reader sees of the last `count` frames; ends the stream. Raises DrsfError."""
        self.finish()
        if len(self._decoded) < count:
            raise DrsfError(f"The codec {self._settings.codec.name} gave back {len(self._decoded)} of {count} frames.")
        return [self._converter.to_rgb(frame) for frame in self._decoded[-count:]]

    def _decode(self, packets: Sequence[Any]) -> None:
        for packet in packets:
            self._decoded += self._decoder.decode(packet)
