"""When frames are shown and which of them there are, in files that say it badly or not at all."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from drsf_cli.media.reader import VideoReader
from drsf_cli.media.timing import Restarts
from tests import clips
from weights.errors import InputError, UsageError

REORDERED = {"crf": "20", "preset": "veryfast", "x264-params": "bframes=3:b-adapt=0:scenecut=0"}


def times(path: Path, **given: Any) -> list[float]:
    return [round(frame.pts, 4) for frame in VideoReader(path, **given)]


def spaced(count: int, step: float = 0.04, first: float = 0.0) -> list[float]:
    return [round(first + k * step, 4) for k in range(count)]


def test_a_clock_that_starts_anew_goes_on(tmp_path: Path) -> None:
    """Two recordings of 12 frames, both from second 1.4 of their clock on: 24 frames, evenly spaced."""
    parts = [
        clips.make_clip(tmp_path / f"{number}.ts", clips.patterns(12, 64, 48), options=REORDERED) for number in (0, 1)
    ]
    reader = VideoReader(clips.join_transport(parts, tmp_path / "joined.ts"))
    assert [round(frame.pts, 4) for frame in reader] == spaced(24)
    assert [round(one, 4) for one in reader.times()] == spaced(24)
    assert any("starts anew (1 times, at 0.480 s)" in note for note in reader.notes)
    assert [round(frame.pts, 4) for frame in reader.part(Fraction(1, 2), Fraction(7, 10))] == spaced(5, first=0.52)
    assert VideoReader(parts[0]).notes == ()


def test_a_clock_with_jitter_is_one_clock() -> None:
    """Decoding times that fall back by less than a tenth of a second are no second recording."""
    restarts = Restarts(Fraction(1, 90000))
    moved = []
    for dts in (0, 3600, 900, 9900, 900, 4500):  # the last fall is of 0.1 s, and no more
        packet = av.Packet(b"x")
        packet.time_base, packet.dts, packet.pts, packet.duration = Fraction(1, 90000), dts, dts + 7200, 3600
        restarts.move(packet)
        moved.append((packet.dts, packet.pts - packet.dts))
    assert moved == [(dts, 7200) for dts in (0, 3600, 900, 9900, 900, 4500)]
    packet.dts = packet.pts = -9000
    restarts.move(packet)
    assert (packet.dts, restarts.offsets) == (8100, [17100])


@pytest.mark.parametrize(("codec", "suffix"), [("libx264", "h264"), ("libx265", "hevc"), ("mpeg2video", "m2v")])
def test_a_bare_stream_has_its_own_rate(codec: str, suffix: str, tmp_path: Path) -> None:
    given = {"libx264": REORDERED, "libx265": {"x265-params": "log-level=none"}, "mpeg2video": {"qscale": "2"}}[codec]
    rate = Fraction(50) if codec == "mpeg2video" else Fraction(20)
    path = clips.make_clip(
        tmp_path / f"raw.{suffix}", clips.patterns(8, 64, 48), codec=codec, options=given, rate=rate, time_base=1 / rate
    )
    reader = VideoReader(path)
    assert (reader.info.average_rate, reader.info.time_base) == (rate, 1 / rate)
    assert times(path) == spaced(8, float(1 / rate))
    assert reader.notes == ()
    assert times(path, fps=10) == spaced(8, 0.1)


def test_a_bare_stream_without_a_rate(tmp_path: Path) -> None:
    bare = clips.make_clip(
        tmp_path / "raw.mjpeg", clips.patterns(4, 64, 48), codec="mjpeg", pixel_format="yuvj420p", rate=Fraction(10),
        time_base=Fraction(1, 10),
    )  # fmt: skip
    reader = VideoReader(bare)
    assert times(bare) == spaced(4)
    assert ["names no frame rate" in note for note in reader.notes] == [True]
    assert times(bare, fps=12.5) == spaced(4, 0.08)
    assert VideoReader(bare, fps=12.5).notes == ()
    with pytest.raises(UsageError, match="--fps"):
        VideoReader(clips.make_clip(tmp_path / "a.mp4", clips.patterns(3, 32, 32)), fps=10)
    with pytest.raises(UsageError, match="--fps 0"):
        VideoReader(bare, fps=0)


@pytest.mark.parametrize("codec", ["libx264", "mpeg4"])
def test_reordered_frames_in_avi_are_not_late(codec: str, tmp_path: Path) -> None:
    given = REORDERED if codec == "libx264" else {"bf": "2", "qscale": "2"}
    path = clips.make_clip(tmp_path / "b.avi", clips.patterns(9, 64, 48), codec=codec, options=given)
    assert times(path) == spaced(9)
    images = [frame.image for frame in VideoReader(path)]
    for image, expected in zip(images, clips.patterns(9, 64, 48), strict=True):
        assert np.abs(image.astype(int) - expected).mean() < 10


# -- what there is to be seen -----------------------------------------------------------------------------------------

OPEN_GOPS: dict[str, tuple[str, dict[str, str]]] = {
    "h264": (
        "libx264",
        {"crf": "20", "x264-params": "keyint=8:min-keyint=8:open-gop=1:bframes=3:b-adapt=0:scenecut=0"},
    ),
    "hevc": (
        "libx265",
        {"x265-params": "log-level=none:keyint=8:min-keyint=8:open-gop=1:bframes=3:b-adapt=0:scenecut=0"},
    ),
    "mpeg2": ("mpeg2video", {"qscale": "2", "g": "8", "bf": "2"}),
}


@pytest.mark.parametrize("suffix", ["mkv", "mp4", "ts"])
@pytest.mark.parametrize("name", OPEN_GOPS)
def test_an_open_gop_that_was_cut(name: str, suffix: str, tmp_path: Path) -> None:
    """The pictures of the whole from the key frame on: those before it, whose references were cut off, nobody sees."""
    codec, options = OPEN_GOPS[name]
    images = [clips.pattern(k, 64, 48) for k in range(32)]
    whole = clips.make_clip(
        tmp_path / f"whole.{'ts' if suffix == 'ts' else 'mp4'}", images, codec=codec, options=options
    )
    everything = [frame.image for frame in VideoReader(whole)]
    cut = clips.cut(whole, tmp_path / f"cut.{suffix}")
    frames = [frame.image for frame in VideoReader(cut)]
    assert 16 <= len(frames) < 32
    same = [np.abs(a.astype(int) - b).mean() for a, b in zip(frames[::-1], everything[::-1], strict=False)]
    assert max(same) == 0


def test_damage_behind_an_open_gop_that_was_cut(tmp_path: Path) -> None:
    codec, options = OPEN_GOPS["h264"]
    images = clips.patterns(32, 160, 120)
    whole = clips.make_clip(tmp_path / "whole.mp4", images, codec=codec, options=options)
    for number, harm in enumerate((clips.blank, clips.damage)):
        for packet in (5, 9, 14):
            cut = clips.cut(whole, tmp_path / f"{number}{packet}.mkv")
            harm(cut, packet)
            with pytest.raises(InputError):
                list(VideoReader(cut))


@pytest.mark.parametrize("codec", ["libx264", "mpeg2video"])
def test_a_transport_stream_that_begins_between_key_frames(codec: str, tmp_path: Path) -> None:
    options = {"g": "8", "bf": "0"} | ({"crf": "10"} if codec == "libx264" else {"qscale": "2"})
    whole = clips.make_clip(tmp_path / "whole.ts", clips.patterns(24, 64, 48), codec=codec, options=options)
    cut = clips.cut(whole, tmp_path / "cut.ts", key=0, skip=3)
    everything = [frame.image for frame in VideoReader(whole)]
    frames = [frame.image for frame in VideoReader(cut)]
    assert len(frames) == 16
    assert all(np.array_equal(a, b) for a, b in zip(frames, everything[8:], strict=True))


EDITED = {
    "h264": ("libx264", REORDERED),
    "hevc": ("libx265", {"x265-params": "log-level=none:bframes=3"}),
    "mpeg4": ("mpeg4", {"qscale": "2", "bf": "2"}),
    "mjpeg": ("mjpeg", {"qscale": "2"}),
}


@pytest.mark.parametrize("fragments", [False, True])
@pytest.mark.parametrize("name", EDITED)
def test_what_an_edit_list_hides_is_not_read(name: str, fragments: bool, tmp_path: Path) -> None:
    """The first 10 of 20 frames are bright, and hidden."""
    codec, options = EDITED[name]
    images = [np.full((48, 64, 3), 200 if k < 10 else 60, np.uint8) for k in range(20)]
    path = clips.make_clip(
        tmp_path / "in.mp4", images, codec=codec, options=options,
        pixel_format="yuvj420p" if codec == "mjpeg" else "yuv420p",
        container_options={"movflags": "frag_keyframe+empty_moov+delay_moov"} if fragments else {},
    )  # fmt: skip
    clips.hide_start(path, 0.4)
    reader = VideoReader(path)
    frames = list(reader)
    assert [frame.image.mean() > 130 for frame in frames] == [False] * 10
    assert frames[0].pts == 0
    assert len(reader.times()) == 10
    if not fragments:
        assert reader.info.frame_count == 10
