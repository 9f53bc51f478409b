"""The encoder in the middle of a file: what it says beforehand is what the file has."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from attacks.codec import Rect
from attacks.live import LiveCodec, Sent
from drsf_cli.media.reader import Frame, VideoReader
from drsf_cli.media.writer import VideoWriter, encoder_settings
from tests import clips
from weights.errors import DrsfError

RECT: Rect = (16, 0, 80, 64)


@pytest.fixture
def frames(tmp_path: Path) -> list[Frame]:
    return list(VideoReader(clips.make_clip(tmp_path / "in.mp4", clips.patterns(12, 96, 64))))


@pytest.fixture
def live(tmp_path: Path, frames: list[Frame]) -> Iterator[LiveCodec]:
    settings = encoder_settings(VideoReader(tmp_path / "in.mp4").info, "h264", crf=30, focus_qp=-6)
    with LiveCodec(settings) as codec:
        yield codec


def _focus(frame: Frame) -> list[Rect]:
    return [] if frame.index % 3 == 0 else [(16 * (frame.index % 4), 0, 64, 48)]


def _sent(frame: Frame) -> Sent:
    return Sent(frame.image, frame.pts_ticks, _focus(frame))


def test_a_trial_tells_what_the_file_will_have(tmp_path: Path, frames: list[Frame], live: LiveCodec) -> None:
    info = VideoReader(tmp_path / "in.mp4").info
    random = np.random.default_rng(0)
    told = []
    with VideoWriter(tmp_path / "out.mp4", info, encoder_settings(info, crf=30, focus_qp=-6)) as writer:
        for frame in frames:
            for _ in range(2):  # what is only tried leaves no trace
                other = random.integers(0, 256, frame.image.shape, dtype=np.uint8)
                live.trial([Sent(other, frame.pts_ticks), Sent(other[::-1], frame.pts_ticks + 1)], RECT)
            (seen,) = live.trial([_sent(frame)], RECT)
            told.append(seen)
            live.take(_sent(frame))
            writer.write(frame.image, frame.pts_ticks, frame.duration_ticks, _focus(frame))
        writer.publish()
    x1, y1, x2, y2 = RECT
    for frame, before, seen in zip(frames, VideoReader(tmp_path / "out.mp4"), told, strict=True):
        assert np.array_equal(seen, before.image[y1:y2, x1:x2]), frame.index
        assert not np.array_equal(seen, frame.image[y1:y2, x1:x2])


def test_several_frames_are_tried_as_the_file_will_have_them(frames: list[Frame], live: LiveCodec) -> None:
    for frame in frames[:3]:
        live.take(_sent(frame))
    together = live.trial([_sent(frame) for frame in frames[3:6]], RECT)
    for frame, seen in zip(frames[3:6], together, strict=True):
        assert np.array_equal(live.trial([_sent(frame)], RECT)[0], seen)
        live.take(_sent(frame))


def test_a_writer_begins_afresh_as_a_new_codec_does(tmp_path: Path, frames: list[Frame]) -> None:
    info = VideoReader(tmp_path / "in.mp4").info
    told: list[np.ndarray] = []
    with VideoWriter(tmp_path / "out.mp4", info, encoder_settings(info, crf=30)) as writer:
        for part in (frames[:5], frames[5:]):
            with LiveCodec(writer.settings) as codec:
                told += list(codec.trial([_sent(frame) for frame in part], RECT))
            writer.begin_afresh()
            for frame in part:
                writer.write(frame.image, frame.pts_ticks, frame.duration_ticks, _focus(frame))
        writer.publish()
    back = list(VideoReader(tmp_path / "out.mp4"))
    assert [frame.pts for frame in back] == [frame.pts for frame in frames]
    for frame, seen in zip(back, told, strict=True):
        assert np.array_equal(seen, frame.image[:64, 16:80]), frame.index


def test_what_fails_there_is_said_here(frames: list[Frame], live: LiveCodec) -> None:
    live.take(_sent(frames[0]))
    with pytest.raises(DrsfError, match=r"^The codec h264 failed: .+\.$"):
        live.trial([Sent(np.zeros((3, 3), np.uint8), 1)], RECT)
    assert live.trial([_sent(frames[1])], RECT).shape == (1, 64, 64, 3)


def test_the_working_directory_is_not_asked_for_modules(
    tmp_path: Path, frames: list[Frame], live: LiveCodec, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("attacks", "weights", "numpy"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("raise SystemExit(name)")
    monkeypatch.chdir(tmp_path)
    with LiveCodec(live.settings) as codec:
        assert np.array_equal(codec.trial([_sent(frames[0])], RECT), live.trial([_sent(frames[0])], RECT))


def test_its_process_ends_with_it(frames: list[Frame], live: LiveCodec) -> None:
    live.trial([_sent(frames[0])], RECT)
    pid = live._process.pid
    live.close()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_a_process_that_was_killed_is_an_error(frames: list[Frame], live: LiveCodec) -> None:
    live.trial([_sent(frames[0])], RECT)
    os.kill(live._process.pid, signal.SIGKILL)
    time.sleep(0.1)
    with pytest.raises(DrsfError, match="process of the delivery encoder ended"):
        live.trial([_sent(frames[0])], RECT)
