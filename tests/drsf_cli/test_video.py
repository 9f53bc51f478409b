"""Video in and out, on clips made without the code under test."""

from __future__ import annotations

import gc
import itertools
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import PIL.Image
import pytest
from numpy.typing import NDArray

from attacks.codec import DeliveryCodec
from drsf_cli.media.reader import Frame, VideoReader
from drsf_cli.media.writer import VideoWriter, encoder_settings, open_writer
from tests import clips
from weights.errors import DrsfError, InputError, OutputError, UsageError

ROOT = Path(__file__).resolve().parents[2]

# (codec of make_clip) that stores RGB without loss
_RGB: dict[str, Any] = {"codec": "ffv1", "pixel_format": "bgr0", "options": {"level": "3", "slicecrc": "1"}}


def _read(path: Path, **times: float) -> list[Frame]:
    return list(VideoReader(path, **times))


def _copy(source: Path, target: Path, *, sound: Any = False, overwrite: bool = False, **options: Any) -> VideoWriter:
    """Read and write again; times are given to both."""
    times = {key: options.pop(key) for key in ("start", "end") if key in options}
    reader = VideoReader(source, **times)
    settings = encoder_settings(reader.info, **options)
    audio = "copy" if sound is True else sound or "drop"
    with open_writer(target, reader.info, settings, audio=audio, overwrite=overwrite, **times) as writer:
        for frame in reader:
            writer.write(frame.image, frame.pts_ticks, frame.duration_ticks)
        writer.publish()
    return writer  # type: ignore[return-value]


def _seconds(path: Path) -> list[Fraction]:
    """Times of the frames, by PyAV alone."""
    with av.open(str(path)) as container:
        return [Fraction(frame.pts or 0) * frame.time_base for frame in container.decode(video=0)]  # type: ignore[operator]


def _packets(path: Path) -> list[tuple[Fraction, bytes]]:
    """(time, bytes) of the sound's packets, by PyAV alone."""
    with av.open(str(path)) as container:
        return [(p.pts * p.time_base, bytes(p)) for p in container.demux(audio=0) if p.size and p.pts is not None]


def _difference(image: NDArray[np.uint8], other: NDArray[np.uint8]) -> float:
    return float(np.abs(image.astype(int) - other).mean())


# -- reading ----------------------------------------------------------------------------------------------------


def test_reads_frames_in_order_with_their_times(tmp_path: Path) -> None:
    images = clips.patterns(7, 48, 32)
    pts = [0, 3, 4, 10, 11, 30, 50]
    path = clips.make_clip(tmp_path / "vfr.mp4", images, pts=pts, time_base=Fraction(1, 90), codec="libx264rgb",
                           pixel_format="rgb24", options={"qp": "0"})  # fmt: skip
    reader = VideoReader(path)
    frames = list(reader)
    assert [Fraction(frame.pts_ticks) * reader.info.time_base for frame in frames] == [Fraction(p, 90) for p in pts]
    assert [frame.pts for frame in frames] == pytest.approx([p / 90 for p in pts])
    assert [frame.index for frame in frames] == list(range(7))
    assert all(np.array_equal(frame.image, image) for frame, image in zip(frames, images, strict=True))
    assert (reader.info.width, reader.info.height, reader.info.frame_count) == (48, 32, 7)
    again = list(reader)
    assert [frame.pts_ticks for frame in again] == [frame.pts_ticks for frame in frames]
    assert np.array_equal(again[-1].image, frames[-1].image)


@pytest.mark.parametrize("mirror", [False, True])
@pytest.mark.parametrize("degrees", [0, 90, 180, 270])
def test_rotation_is_applied(tmp_path: Path, degrees: int, mirror: bool) -> None:
    image = clips.pattern(0, 48, 32)
    path = clips.make_clip(tmp_path / "turned.mp4", [image], codec="libx264rgb", pixel_format="rgb24",
                           options={"qp": "0"}, sample_aspect_ratio=Fraction(4, 3))  # fmt: skip
    clips.set_rotation(path, degrees, mirror=mirror)
    reader = VideoReader(path)
    expected = np.rot90(image[:, ::-1] if mirror else image, k=-degrees // 90)
    assert np.array_equal(next(iter(reader)).image, expected)
    assert (reader.info.height, reader.info.width) == expected.shape[:2]
    assert reader.info.sample_aspect_ratio == (Fraction(3, 4) if degrees in (90, 270) else Fraction(4, 3))


@pytest.mark.parametrize(
    ("matrix", "full_range", "pixel_format"),
    [
        (1, False, "yuv444p"),
        (6, False, "yuv444p"),
        (5, True, "yuvj444p"),
        (1, True, "yuv444p"),
        (1, False, "yuv420p10le"),
    ],
)
def test_colour_is_converted_by_the_stream_s_own_tags(
    tmp_path: Path, matrix: int, full_range: bool, pixel_format: str
) -> None:
    # large even areas, so that neither chroma subsampling nor the codec blurs what is measured
    image = np.zeros((32, 64, 3), np.uint8)
    for index, colour in enumerate([(200, 40, 30), (30, 180, 60), (50, 60, 210), (128, 128, 128)]):
        image[:, 16 * index : 16 * index + 16] = colour
    path = clips.make_clip(tmp_path / "c.mp4", [image], matrix=matrix, full_range=full_range,
                           pixel_format=pixel_format, options={"crf": "1"})  # fmt: skip
    reader = VideoReader(path)
    centre = (slice(8, 24), [7, 8, 23, 24, 39, 40, 55, 56])
    assert np.abs(next(iter(reader)).image[centre].astype(int) - image[centre]).max() <= 4
    assert reader.info.colour.matrix == matrix
    assert reader.info.colour.full_range == full_range
    target = tmp_path / "out.mp4"
    _copy(path, target, crf=1)
    out = VideoReader(target)
    assert _stored_colour(target) == (matrix, 2 if full_range else 1)
    assert np.abs(next(iter(out)).image[centre].astype(int) - image[centre]).max() <= 6


def _stored_colour(path: Path) -> tuple[int, int]:
    """Matrix and range of the first frame, as FFmpeg itself decodes them."""
    with av.open(str(path)) as container:
        frame = next(container.decode(video=0))
        return int(frame.colorspace), int(frame.color_range)


def test_unsaid_matrix_goes_by_height(tmp_path: Path) -> None:
    for height, matrix in ((720, 1), (718, 6)):
        path = clips.make_clip(tmp_path / f"{height}.mp4", [np.full((height, 16, 3), (200, 40, 30), np.uint8)])
        assert _stored_colour(path)[0] == 2
        assert VideoReader(path).info.colour.matrix == matrix


def test_awkward_streams_are_read(tmp_path: Path) -> None:
    images = clips.patterns(4, 64, 48)
    alpha = [np.dstack([image, np.full(image.shape[:2], 9, np.uint8)]) for image in images]
    cases: dict[str, tuple[float, Path]] = {
        "audio first": (3, clips.make_clip(tmp_path / "1.mp4", images, audio="first")),
        "two videos": (3, clips.make_clip(tmp_path / "2.mp4", images, second_video=True)),
        "cover": (3, clips.make_clip(tmp_path / "3.mp4", images, cover=True, audio="first")),
        "cover in mkv": (3, clips.make_clip(tmp_path / "4.mkv", images, cover=True)),
        "10 bit": (3, clips.make_clip(tmp_path / "5.mp4", images, pixel_format="yuv420p10le")),
        "alpha": (0, clips.make_clip(tmp_path / "6.mov", alpha, codec="png", pixel_format="rgba")),
        "mjpeg": (4, clips.make_clip(tmp_path / "7.avi", images, codec="mjpeg", pixel_format="yuvj422p")),
        "mpeg4": (8, clips.make_clip(tmp_path / "8.avi", images, codec="mpeg4", options={"b": "2000k"})),
        "transport": (3, clips.make_clip(tmp_path / "9.ts", images)),
        "fragments": (3, clips.make_clip(tmp_path / "10.mp4", images, container_options={"movflags": "empty_moov"})),
        "lossless": (0, clips.make_clip(tmp_path / "11.mkv", images, **_RGB)),
        "odd size": (4, clips.make_clip(tmp_path / "12.webm", clips.patterns(4, 63, 47), codec="libvpx-vp9")),
        "space and ü": (3, clips.make_clip(tmp_path / "a b ü 漢.mp4", images)),
    }
    for name, (limit, path) in cases.items():
        frames = _read(path)
        assert len(frames) == 4, name
        for frame, image in zip(frames, images, strict=True):
            expected = image if name != "odd size" else clips.pattern(frame.index, 63, 47)
            assert frame.image.shape == expected.shape, name
            assert _difference(frame.image, expected) <= limit, name


def test_grey_is_grey(tmp_path: Path) -> None:
    image = clips.pattern(0, 64, 48)
    frame = _read(clips.make_clip(tmp_path / "g.mkv", [image], codec="ffv1", pixel_format="gray"))[0].image
    assert np.array_equal(frame[..., 0], frame[..., 1])
    assert np.array_equal(frame[..., 0], frame[..., 2])
    assert np.std(frame) > 10


def test_transport_stream_starts_at_zero_and_in_step(tmp_path: Path) -> None:
    path = clips.make_clip(tmp_path / "t.ts", clips.patterns(8, 48, 32), audio="first",
                           container_options={"output_ts_offset": "95000"})  # fmt: skip
    assert _seconds(path)[0] > 94999
    frames = _read(path)
    gap = _seconds(path)[0] - _packets(path)[0][0]
    assert frames[0].pts == pytest.approx(max(0, float(gap)), abs=1e-4)
    assert np.diff([frame.pts for frame in frames]) == pytest.approx(0.04)


@pytest.mark.slow
def test_decoded_pictures_go_with_their_frames(tmp_path: Path) -> None:
    """Without the garbage collector's help: it comes too seldom for objects that hold megabytes."""
    path = clips.make_clip(tmp_path / "in.mp4", [np.full((48, 64, 3), value, np.uint8) for value in range(40)])

    def alive() -> int:
        return sum(type(one) is av.VideoFrame for one in gc.get_objects())

    gc.collect()
    before, most = alive(), 0
    gc.disable()
    try:
        for _ in VideoReader(path):
            most = max(most, alive() - before)
    finally:
        gc.enable()
    assert 0 < most <= 10  # what is being decoded ahead


def test_start_and_end_give_the_same_frames_as_reading_all(tmp_path: Path) -> None:
    for suffix in ("mp4", "mkv", "ts"):
        path = clips.make_clip(tmp_path / f"long.{suffix}", clips.patterns(100, 48, 32),
                               options={"g": "12", "crf": "20", "x264-params": "open-gop=1:bframes=3"})  # fmt: skip
        everything = _read(path)
        for start, end in ((1.9, 3.1), (0.5, 0.9), (2.0, 9.0), (3.3, 3.35)):
            expected = [frame for frame in everything if start <= frame.pts < end]
            part = _read(path, start=start, end=end)
            assert [frame.pts_ticks for frame in part] == [frame.pts_ticks for frame in expected]
            assert [frame.index for frame in part] == list(range(len(expected)))
            assert all(np.array_equal(a.image, b.image) for a, b in zip(part, expected, strict=True)), (suffix, start)


def test_times_that_do_not_rise_are_mended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = clips.make_clip(tmp_path / "x.mkv", clips.patterns(5, 32, 32), **_RGB)
    reader = VideoReader(path)
    raw = iter([0, 40, 40, 20, None])
    genuine = reader._frames_from.__globals__["decode"]

    def tampered(*args: Any, **kwargs: Any) -> Any:
        for frame in genuine(*args, **kwargs):
            frame.pts = next(raw)
            yield frame

    monkeypatch.setattr("drsf_cli.media.reader.decode", tampered)
    assert [frame.pts_ticks for frame in reader] == [0, 40, 41, 42, 82]


@pytest.mark.parametrize(
    ("suffix", "options"),
    [
        ("mp4", {}),
        ("mkv", {}),
        ("ts", {}),
        ("mp4", {"codec": "libx265", "options": {"x265-params": "log-level=none"}}),
        ("avi", {"codec": "mjpeg", "pixel_format": "yuvj422p"}),
        ("avi", {"codec": "mpeg4"}),
        ("webm", {"codec": "libvpx-vp9"}),
        ("mkv", _RGB),
    ],
)
def test_damage_stops_the_reader(tmp_path: Path, suffix: str, options: dict[str, Any]) -> None:
    images = clips.patterns(24, 160, 120)
    for harm in (clips.blank, clips.damage):
        path = clips.make_clip(tmp_path / f"{harm.__name__}.{suffix}", images, **options)
        assert len(_read(path)) == 24
        harm(path, 12)
        with pytest.raises(InputError, match=str(path)):
            _read(path)


@pytest.mark.parametrize("suffix", ["mp4", "mov", "mkv", "avi", "webm", "gif"])
def test_cut_files_are_refused_at_once(tmp_path: Path, suffix: str) -> None:
    codecs: dict[str, dict[str, Any]] = {
        "avi": {"codec": "mpeg4"},
        "webm": {"codec": "libvpx-vp9"},
        "gif": {"codec": "gif", "pixel_format": "rgb8"},
        "mp4": {"container_options": {"movflags": "+faststart"}},
    }
    path = clips.make_clip(tmp_path / f"cut.{suffix}", clips.patterns(12, 96, 64), **codecs.get(suffix, {}))
    assert len(_read(path)) == 12
    clips.truncate(path, 0.8)
    with pytest.raises(InputError, match="cut short"):
        VideoReader(path)


def _cut(folder: Path) -> Path:
    return clips.truncate(clips.make_clip(folder / "f.mp4", clips.patterns(9, 64, 48)), 0.5)


def _text(folder: Path, name: str, text: str) -> Path:
    (folder / name).write_text(text)
    return folder / name


def _empty_folder(folder: Path) -> Path:
    (folder / "nothing").mkdir()
    return folder / "nothing"


def _cut_picture(folder: Path) -> Path:
    PIL.Image.fromarray(clips.pattern(0, 64, 64)).save(folder / "p.jpg")
    return clips.truncate(folder / "p.jpg", 0.7)


_UNREADABLE: dict[str, tuple[Callable[[Path], Path], str]] = {
    "missing": (lambda folder: folder / "none.mp4", "does not exist"),
    "empty": (lambda folder: _text(folder, "e.mp4", ""), "is empty"),
    "text": (lambda folder: _text(folder, "t.mp4", "hello world\n" * 300), "is not a video"),
    "cut": (_cut, "is cut short"),
    "sound": (lambda folder: clips.make_sound(folder / "s.m4a"), "only sound"),
    "folder": (_empty_folder, "folder without pictures"),
    "playlist": (lambda folder: _text(folder, "l.mp4", "ffconcat version 1.0\nfile f.mp4\n"), "."),
    "subtitles": (lambda folder: _text(folder, "s.srt", "1\n00:00:01,000 --> 00:00:02,000\na\n\n"), "no video stream"),
    "text as picture": (lambda folder: _text(folder, "t.png", "hello"), "not a picture"),
    "cut picture": (_cut_picture, "damaged or cut short"),
}


@pytest.mark.parametrize("name", _UNREADABLE)
def test_what_cannot_be_read_is_said_in_one_sentence(tmp_path: Path, name: str) -> None:
    make, expected = _UNREADABLE[name]
    path = make(tmp_path)
    with pytest.raises(InputError, match=expected) as raised:
        _read(path)
    message = str(raised.value)
    assert str(path) in message
    assert message.endswith(".")
    assert "\n" not in message
    assert ". " not in message.replace(str(path), "")


def test_times_that_make_no_sense(tmp_path: Path) -> None:
    path = clips.make_clip(tmp_path / "a.mp4", clips.patterns(5, 32, 32))
    for times, message in (
        ({"start": -1}, "--start"),
        ({"end": float("nan")}, "--end"),
        ({"start": 2, "end": 1}, "--end"),
    ):
        with pytest.raises(UsageError, match=message):
            VideoReader(path, **times)
    with pytest.raises(InputError, match="no frame between"):
        _read(path, start=5)


# -- writing ----------------------------------------------------------------------------------------------------

_WAYS = [("h264", "mp4"), ("h264", "mkv"), ("h264", "mov"), ("h264-rgb", "mp4"), ("ffv1", "mkv")]


@pytest.mark.parametrize(("codec", "suffix"), _WAYS)
def test_times_size_and_duration_are_kept(tmp_path: Path, codec: str, suffix: str) -> None:
    pts = [5, 8, 9, 20, 21, 22, 23, 60, 61, 90]
    source = clips.make_clip(tmp_path / "in.mp4", clips.patterns(10, 62, 50), pts=pts, time_base=Fraction(1, 90),
                             sample_aspect_ratio=Fraction(4, 3), options={"bf": "0"},
                             container_options={"movie_timescale": "90"})  # fmt: skip
    target = tmp_path / f"out.{suffix}"
    writer = _copy(source, target, codec=codec)
    assert (writer.frames_written, writer.shift_ticks) == (10, 0)
    times = _seconds(target)
    assert _seconds(source) == [Fraction(p, 90) for p in pts]
    if suffix == "mkv":
        assert all(abs(a - Fraction(b, 90)) <= Fraction(1, 2000) for a, b in zip(times, pts, strict=True))
    else:
        assert times == [Fraction(p, 90) for p in pts]
    with av.open(str(source)) as before, av.open(str(target)) as after:
        assert len(after.streams) == 1
        video = after.streams.video[0]
        assert (video.width, video.height) == (62, 50)
        if suffix != "mkv":
            old = before.streams.video[0]
            assert video.duration * video.time_base == old.duration * old.time_base  # type: ignore[operator]
        # the sound and the late start are part of neither or of both
        ends = [
            (c.duration or 0) / 1e6 + (0 if c is after and suffix == "mkv" else pts[0] / 90) for c in (before, after)
        ]
        assert ends[0] == pytest.approx(ends[1], abs=0.002)
    # FFV1's pixel shape cannot be set through PyAV
    assert VideoReader(target).info.sample_aspect_ratio == (None if codec == "ffv1" else Fraction(4, 3))


@pytest.mark.parametrize(("codec", "suffix"), [("h264-rgb", "mp4"), ("h264-rgb", "mkv"), ("ffv1", "mkv")])
@pytest.mark.parametrize(("width", "height"), [(64, 48), (33, 17), (1, 1), (2, 3)])
def test_lossless_is_exact(tmp_path: Path, codec: str, suffix: str, width: int, height: int) -> None:
    generator = np.random.default_rng(width)
    images = list(generator.integers(0, 256, (3, height, width, 3), dtype=np.uint8))
    source = clips.make_clip(tmp_path / "in.mkv", images, **_RGB)
    target = tmp_path / f"out.{suffix}"
    _copy(source, target, codec=codec)
    assert [frame.image.tobytes() for frame in _read(target)] == [image.tobytes() for image in images]


@pytest.mark.parametrize(("width", "height"), [(64, 48), (63, 48), (33, 17), (1, 1), (2, 3), (2, 2)])
def test_h264_keeps_every_size(tmp_path: Path, width: int, height: int) -> None:
    images = clips.patterns(3, width, height)
    source = clips.make_clip(tmp_path / "in.mkv", images, **_RGB)
    target = tmp_path / "out.mp4"
    _copy(source, target, crf=5)
    frames = _read(target)
    assert len(frames) == 3
    for frame, image in zip(frames, images, strict=True):
        assert frame.image.shape == image.shape
        # one chroma sample for all four corners of 2x2
        assert _difference(frame.image, image) < (50 if (width, height) == (2, 2) else 8)
    with av.open(str(target)) as container:
        expected = "yuv420p" if width % 2 == height % 2 == 0 else "yuv444p"
        assert container.streams.video[0].pix_fmt == expected


def test_default_output_plays_in_a_browser(tmp_path: Path) -> None:
    source = clips.make_clip(tmp_path / "in.mp4", clips.patterns(6, 64, 48), audio="last")
    target = tmp_path / "out.mp4"
    _copy(source, target)
    data = target.read_bytes()
    assert data.index(b"moov") < data.index(b"mdat")  # starts before it is loaded
    with av.open(str(target)) as container:
        video = container.streams.video[0]
        assert (video.codec_context.name, video.profile, video.pix_fmt) == ("h264", "High", "yuv420p")
        assert (video.codec_context.colorspace, video.codec_context.color_range) == (6, 1)


@pytest.mark.parametrize("suffix", ["mp4", "mkv"])
def test_nothing_else_of_the_source_is_written(tmp_path: Path, suffix: str) -> None:
    source = clips.make_clip(tmp_path / f"in.{suffix}", clips.patterns(6, 64, 48), audio="first", second_video=True,
                             cover=True, attachment=suffix == "mkv",
                             metadata={"title": "secret driver", "comment": "secret place"})  # fmt: skip
    assert b"secret" in source.read_bytes()
    for sound in (False, True):
        target = tmp_path / f"out{sound}.{suffix}"
        _copy(source, target, sound=sound)
        assert b"secret" not in target.read_bytes()
        assert b"who drove" not in target.read_bytes()
        with av.open(str(target)) as container:
            assert [stream.type for stream in container.streams] == ["video", "audio"][: 1 + sound]
            assert not {"title", "comment", "creation_time"} & {key.lower() for key in container.metadata}
            assert not container.chapters()


@pytest.mark.parametrize(("audio", "suffix"), [("first", "mp4"), ("last", "mp4"), ("first", "mkv")])
def test_sound_is_copied_in_step(tmp_path: Path, audio: Any, suffix: str) -> None:
    source = clips.make_clip(tmp_path / f"in.{suffix}", clips.patterns(40, 64, 48), audio=audio)
    target = tmp_path / f"out.{suffix}"
    _copy(source, target, sound=True)
    assert len(_packets(source)) > 20
    assert _packets(target) == _packets(source)
    assert _seconds(target) == _seconds(source)


def test_part_of_the_sound_stays_in_step(tmp_path: Path) -> None:
    source = clips.make_clip(tmp_path / "in.mp4", clips.patterns(60, 64, 48), audio="first")
    target = tmp_path / "out.mp4"
    writer = _copy(source, target, sound=True, start=0.81, end=1.63)
    shift = writer.shift_ticks * VideoReader(source).info.time_base
    assert shift == Fraction(21, 25)
    assert _seconds(target) == [t - shift for t in _seconds(source) if Fraction(81, 100) <= t < Fraction(163, 100)]
    kept = [(t - shift, data) for t, data in _packets(source) if shift <= t < Fraction(163, 100)]
    copied = _packets(target)
    assert [data for _, data in copied] == [data for _, data in kept]
    assert all(abs(a - b) <= Fraction(1, 16000) for (a, _), (b, _) in zip(copied, kept, strict=True))


def test_sound_of_a_real_clip(tmp_path: Path, shared: Path) -> None:
    source = shared / "data" / "street_1080p_audio.mp4"
    target = tmp_path / "out.mp4"
    info = VideoReader(source).info
    with VideoWriter(target, info, encoder_settings(info, preset="ultrafast"), audio="copy") as writer:
        for frame in VideoReader(source, end=0.2):
            writer.write(frame.image, frame.pts_ticks, frame.duration_ticks)
        writer.publish()
    assert _packets(target) == _packets(source)
    with av.open(str(source)) as container:
        first = itertools.islice(container.decode(video=0), 5)
        assert _seconds(target) == [Fraction(frame.pts or 0) * frame.time_base for frame in first]  # type: ignore[operator]


def test_sound_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    source = clips.make_clip(tmp_path / "in.avi", clips.patterns(3, 32, 32), codec="mpeg4", audio="last",
                             audio_codec="adpcm_ima_wav")  # fmt: skip
    with pytest.raises(OutputError, match="cannot hold the sound"):
        _copy(source, tmp_path / "out.mp4", sound=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.avi"]


def test_in_memory_codec_equals_the_file(tmp_path: Path) -> None:
    pts = [0, 3, 4, 10, 11, 30, 50, 52, 53, 60, 70, 71]
    images = clips.patterns(12, 98, 66)
    cases: tuple[tuple[str, dict[str, Any]], ...] = (("a", {}), ("b", {"matrix": 5, "full_range": True}))
    for name, extra in cases:
        source = clips.make_clip(tmp_path / f"{name}.mp4", images, pts=pts, time_base=Fraction(1, 90), **extra)
        target = tmp_path / f"{name}-out.mp4"
        _copy(source, target, crf=28)
        reader = VideoReader(source)
        frames = list(reader)
        codec = DeliveryCodec(encoder_settings(reader.info, "h264", crf=28))
        decoded = codec.roundtrip(np.stack([f.image for f in frames]), [f.pts_ticks for f in frames])
        assert np.array_equal(decoded, np.stack([f.image for f in _read(target)]))
        assert not np.array_equal(decoded, np.stack([f.image for f in frames]))


def test_in_memory_codec_equals_the_file_with_a_focus_too(tmp_path: Path) -> None:
    reader = VideoReader(clips.make_clip(tmp_path / "in.mp4", clips.patterns(8, 96, 64)))
    frames = list(reader)
    focus = [[] if f.index < 2 else [(16, 0, 64, 48)] for f in frames]
    with VideoWriter(tmp_path / "out.mp4", reader.info, encoder_settings(reader.info, crf=30, focus_qp=-9)) as writer:
        for frame, rects in zip(frames, focus, strict=True):
            writer.write(frame.image, frame.pts_ticks, frame.duration_ticks, rects)
        writer.publish()
    settings = encoder_settings(reader.info, "h264", crf=30, focus_qp=-9)
    images, ticks = np.stack([f.image for f in frames]), [f.pts_ticks for f in frames]
    decoded = DeliveryCodec(settings).roundtrip(images, ticks, focus)
    assert np.array_equal(decoded, np.stack([f.image for f in _read(tmp_path / "out.mp4")]))
    assert not np.array_equal(decoded, DeliveryCodec(settings).roundtrip(images, ticks))


def test_a_look_ahead_makes_files_smaller_and_keeps_order_and_times(tmp_path: Path) -> None:
    """A still scene with noise in a corner: no frame is coded for a later one's sake but with a look at later ones."""
    random = np.random.default_rng(0)
    still = clips.patterns(1, 192, 128)[0]
    images = [still.copy() for _ in range(40)]
    for image in images:
        image[:32, :32] = random.integers(0, 256, (32, 32, 3))
    source = clips.make_clip(tmp_path / "in.mp4", images)
    sizes, times = [], []
    for looks_ahead in (False, True):
        target = tmp_path / f"{looks_ahead}.mp4"
        _copy(source, target, looks_ahead=looks_ahead)
        sizes.append(target.stat().st_size)
        times.append([frame.pts for frame in _read(target)])
        decoded = np.stack([frame.image for frame in _read(target)]).astype(float)
        assert np.abs(decoded - np.stack(images))[:, 40:, 40:].mean() < 4.0
        with av.open(str(target)) as container:
            assert all(packet.dts == packet.pts for packet in container.demux(video=0) if packet.pts is not None)
    assert sizes[1] < 0.95 * sizes[0]
    assert times[0] == times[1] == [frame.pts for frame in _read(source)]


def test_frames_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    info = VideoReader(clips.make_clip(tmp_path / "in.mp4", clips.patterns(2, 32, 32))).info
    with VideoWriter(tmp_path / "out.mp4", info) as writer:
        writer.write(np.zeros((32, 32, 3), np.uint8), 5)
        with pytest.raises(ValueError, match="rise"):
            writer.write(np.zeros((32, 32, 3), np.uint8), 5)
        for bad in (np.zeros((32, 30, 3), np.uint8), np.zeros((32, 32, 3), np.float32)):
            with pytest.raises(ValueError, match="needed"):
                writer.write(bad, 6)  # type: ignore[arg-type]


# -- whole or not at all ----------------------------------------------------------------------------------------


@pytest.fixture
def source(tmp_path: Path) -> Path:
    (tmp_path / "in").mkdir()
    (tmp_path / "out").mkdir()
    return clips.make_clip(tmp_path / "in" / "clip.mp4", clips.patterns(4, 64, 48))


def _write_all(reader: VideoReader, writer: VideoWriter) -> None:
    for frame in reader:
        writer.write(frame.image, frame.pts_ticks)


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, DrsfError])
def test_nothing_is_left_after_an_error(source: Path, tmp_path: Path, error: type[BaseException]) -> None:
    reader = VideoReader(source)
    target = tmp_path / "out" / "x.mp4"
    with pytest.raises(error), VideoWriter(target, reader.info) as writer:  # noqa: PT012
        _write_all(reader, writer)
        raise error
    assert list(target.parent.iterdir()) == []


def test_the_temporary_file_can_be_judged_first(source: Path, tmp_path: Path) -> None:
    reader = VideoReader(source)
    target = tmp_path / "out" / "x.mp4"
    for publish in (False, True):
        with VideoWriter(target, reader.info) as writer:
            for frame in reader:
                writer.write(frame.image, frame.pts_ticks)
            temporary = writer.finish()
            assert len(_read(temporary)) == 4
            assert not target.exists()
            assert temporary.parent == target.parent
            if publish:
                assert writer.publish() == target
        assert [path.name for path in target.parent.iterdir()] == ["x.mp4"][: int(publish)]


def test_a_writer_without_frames_publishes_nothing(source: Path, tmp_path: Path) -> None:
    target = tmp_path / "out" / "x.mp4"
    with pytest.raises(OutputError, match="no frame"), VideoWriter(target, VideoReader(source).info) as writer:
        writer.publish()
    assert list(target.parent.iterdir()) == []


def test_existing_output_is_not_touched(source: Path, tmp_path: Path) -> None:
    target = tmp_path / "out" / "x.mp4"
    target.write_text("mine")
    with pytest.raises(OutputError, match="--overwrite"):
        _copy(source, target)
    assert target.read_text() == "mine"
    _copy(source, target, overwrite=True)
    assert len(_read(target)) == 4
    assert [path.name for path in target.parent.iterdir()] == ["x.mp4"]


def test_output_that_appears_meanwhile_is_not_replaced(source: Path, tmp_path: Path) -> None:
    target = tmp_path / "out" / "x.mp4"
    reader = VideoReader(source)
    with VideoWriter(target, reader.info) as writer:
        _write_all(reader, writer)
        target.write_text("somebody else's")
        with pytest.raises(OutputError, match="--overwrite"):
            writer.publish()
    assert target.read_text() == "somebody else's"
    assert [path.name for path in target.parent.iterdir()] == ["x.mp4"]


@pytest.mark.parametrize("kind", ["same", "symlink", "hardlink", "through a folder"])
def test_output_is_never_the_input(source: Path, tmp_path: Path, kind: str) -> None:
    before = source.read_bytes()
    target = tmp_path / "out" / "x.mp4"
    if kind == "same":
        target = source
    elif kind == "symlink":
        target.symlink_to(source)
    elif kind == "hardlink":
        os.link(source, target)
    else:
        (tmp_path / "link").symlink_to(source.parent)
        target = tmp_path / "link" / "clip.mp4"
    with pytest.raises(OutputError, match="the input itself"):
        _copy(source, target, overwrite=True)
    assert source.read_bytes() == before
    assert len(list(source.parent.iterdir())) == 1


def test_places_that_cannot_be_written(source: Path, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("")
    for target in (tmp_path / "none" / "x.mp4", file / "x.mp4", Path("/proc/x.mp4")):
        with pytest.raises(OutputError, match="cannot be written there") as raised:
            _copy(source, target)
        assert str(target) in str(raised.value)
    (tmp_path / "folder.mp4").mkdir()
    with pytest.raises(OutputError, match="in the way"):
        _copy(source, tmp_path / "folder.mp4", overwrite=True)
    with pytest.raises(UsageError, match=r"\.mkv"):
        _copy(source, tmp_path / "x.mp4", codec="ffv1")
    with pytest.raises(UsageError, match=r"\.mp4"):
        _copy(source, tmp_path / "x.avi")


_CHILD = """
import resource, signal, sys
from pathlib import Path
from drsf_cli.media.reader import VideoReader
from drsf_cli.media.writer import VideoWriter, encoder_settings
from weights.errors import OutputError
source, target, mode = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]
reader = VideoReader(source)
frame = next(iter(reader))
if mode == "full":
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20000, 20000))
try:
    with VideoWriter(target, reader.info, encoder_settings(reader.info, "ffv1")) as writer:
        for index in range(10 ** 9 if mode == "kill" else 400):
            writer.write(frame.image, 100 * index)
            if index == 60:
                print("writing", flush=True)
        writer.publish()
except OutputError as error:
    print(error, flush=True)
    sys.exit(error.exit_code)
"""


def _child(source: Path, target: Path, mode: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", _CHILD, str(source), str(target), mode]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)


def test_a_killed_process_leaves_no_output(source: Path, tmp_path: Path) -> None:
    target = tmp_path / "out" / "x.mkv"
    with _child(source, target, "kill") as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "writing\n"
        time.sleep(0.05)
        child.send_signal(signal.SIGKILL)
    assert not target.exists()
    assert all(path.name.startswith(".") for path in target.parent.iterdir())


def test_a_full_disk_leaves_nothing(source: Path, tmp_path: Path) -> None:
    target = tmp_path / "out" / "x.mkv"
    with _child(source, target, "full") as child:
        output = child.communicate(timeout=60)[0]
    assert child.returncode == OutputError.exit_code
    assert "could not be written" in output
    assert list(target.parent.iterdir()) == []


# getrusage's peak would be that of the parent, where it is larger
_MEMORY = """
import sys
from pathlib import Path
from drsf_cli.media.reader import VideoReader
from drsf_cli.media.writer import VideoWriter
source, target = Path(sys.argv[1]), Path(sys.argv[2])
with VideoReader(source) as reader, VideoWriter(target, reader.info, audio="copy") as writer:
    for frame in reader:
        writer.write(frame.image, frame.pts_ticks, frame.duration_ticks)
    writer.publish()
status = dict(line.split(":") for line in Path("/proc/self/status").read_text().splitlines())
print(writer.frames_written, status["VmHWM"].split()[0])
"""


@pytest.mark.slow
def test_memory_does_not_grow_with_length(tmp_path: Path) -> None:
    """Peak memory of a process that copies 60 and 360 frames; holding the 300 more would
    cost 16 MB."""
    peaks = []
    for count in (60, 360):
        images = [clips.pattern(index % 7, 160, 120) for index in range(7)] * (count // 7 + 1)
        clip = clips.make_clip(tmp_path / f"{count}.mp4", images[:count], audio="first",
                               options={"preset": "ultrafast"})  # fmt: skip
        command = [sys.executable, "-c", _MEMORY, str(clip), str(tmp_path / f"{count}-out.mp4")]
        output = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout
        written, peak = map(int, output.split())
        assert written == count
        peaks.append(peak / 1024)
    assert peaks[1] - peaks[0] < 6


# -- pictures ---------------------------------------------------------------------------------------------------


def test_pictures(tmp_path: Path) -> None:
    image = clips.pattern(0, 33, 17)
    for name, mode, limit in (("a.png", None, 0), ("b.jpg", None, 8), ("c.png", "RGBA", 0), ("d.bmp", None, 0)):
        picture = PIL.Image.fromarray(image)
        (picture.convert(mode) if mode else picture).save(tmp_path / name)
        reader = VideoReader(tmp_path / name)
        frames = list(reader)
        assert (reader.info.kind, reader.info.width, reader.info.height, len(frames)) == ("image", 33, 17, 1)
        assert _difference(frames[0].image, image) <= limit
        with open_writer(tmp_path / f"out-{name}.png", reader.info) as writer:
            writer.write(image, 0)
            writer.publish()
        with PIL.Image.open(tmp_path / f"out-{name}.png") as written:
            assert np.array_equal(np.asarray(written), image)
    with pytest.raises(UsageError, match=r"\.png"):
        open_writer(tmp_path / "x.webp", reader.info)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation(tmp_path: Path, orientation: int) -> None:
    image = clips.pattern(0, 33, 17)
    # EXIF 2.32, tag 0x0112: where row 0 and column 0 of the stored picture lie in the displayed one
    shown = {
        1: image, 2: image[:, ::-1], 3: image[::-1, ::-1], 4: image[::-1],
        5: image.transpose(1, 0, 2), 6: np.rot90(image, -1),
        7: image[::-1, ::-1].transpose(1, 0, 2), 8: np.rot90(image),
    }[orientation]  # fmt: skip
    exif = PIL.Image.Exif()
    exif[0x0112] = orientation
    exif[0x010E] = "secret driver"
    PIL.Image.fromarray(image).save(tmp_path / "x.png", exif=exif)
    reader = VideoReader(tmp_path / "x.png")
    assert (reader.info.height, reader.info.width) == shown.shape[:2]
    frame = next(iter(reader))
    assert np.array_equal(frame.image, shown)
    with open_writer(tmp_path / "y.png", reader.info) as writer:
        writer.write(frame.image, 0)
        writer.publish()
    assert b"secret" not in (tmp_path / "y.png").read_bytes()


def test_sixteen_bit_grey(tmp_path: Path) -> None:
    values = np.array([[0, 257, 128 * 257, 65535]], np.uint16)
    PIL.Image.fromarray(values).save(tmp_path / "g.png")
    assert next(iter(VideoReader(tmp_path / "g.png"))).image[..., 1].tolist() == [[0, 1, 128, 255]]


def test_folder_of_pictures(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    images = clips.patterns(12, 32, 24)
    for index, image in enumerate(images):
        PIL.Image.fromarray(image).save(folder / f"frame{index}.png")
    (folder / "notes.txt").write_text("not a picture")
    (folder / ".hidden.png").write_text("not a picture")
    reader = VideoReader(folder)
    frames = list(reader)
    assert (reader.info.kind, reader.info.frame_count) == ("image-sequence", 12)
    assert all(np.array_equal(frame.image, image) for frame, image in zip(frames, images, strict=True))
    _copy(folder, tmp_path / "out")
    names = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert names == sorted(f"frame{index}.png" for index in range(12))
    assert np.array_equal(next(iter(VideoReader(tmp_path / "out" / "frame10.png"))).image, images[10])
    with pytest.raises(OutputError, match="--overwrite"):
        _copy(folder, tmp_path / "out")
    _copy(folder, tmp_path / "out", overwrite=True, start=0.16, end=0.24)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["frame4.png", "frame5.png"]
    (tmp_path / "out" / "thesis.txt").write_text("mine")
    with pytest.raises(OutputError, match="other files"):
        _copy(folder, tmp_path / "out", overwrite=True)
    with pytest.raises(OutputError, match="the input itself"):
        _copy(folder, folder, overwrite=True)
    _copy(folder, tmp_path / "film.mkv", codec="ffv1")
    assert [frame.image.tobytes() for frame in _read(tmp_path / "film.mkv")] == [image.tobytes() for image in images]
    PIL.Image.fromarray(clips.pattern(0, 30, 24)).save(folder / "frame5.png")
    with pytest.raises(InputError, match="30x24"):
        VideoReader(folder)
