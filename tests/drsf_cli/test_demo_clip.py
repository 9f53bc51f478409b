"""The demo clip is a face that moves, made from nothing that must be downloaded."""

from __future__ import annotations

import socket
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from facenet_pytorch import MTCNN
from numpy.typing import NDArray

from drsf_cli.media.demo_clip import demo_frames, make_demo_clip
from drsf_cli.media.reader import VideoReader
from weights.errors import OutputError, UsageError


@pytest.fixture(scope="module")
def clip() -> list[NDArray[np.uint8]]:
    return list(demo_frames(seconds=3, fps=12))


@pytest.fixture(scope="module")
def boxes(clip: list[NDArray[np.uint8]]) -> NDArray[np.float64]:
    """Of every sixth frame, by facenet-pytorch's own detector."""
    found, _ = MTCNN(keep_all=True).detect(clip[::6])
    assert [0 if b is None else len(b) for b in found] == [1] * len(clip[::6])
    return np.array([b[0] for b in found])


def test_a_clip_has_the_frames_and_the_size_asked_for(clip: list[NDArray[np.uint8]]) -> None:
    assert len(clip) == 36
    assert {(frame.shape, frame.dtype.name) for frame in clip} == {((480, 640, 3), "uint8")}


def test_every_frame_has_one_face_of_a_size_victims_can_read(boxes: NDArray[np.float64]) -> None:
    widths = boxes[:, 2] - boxes[:, 0]
    assert widths.min() > 110
    assert widths.max() < 165
    assert boxes[:, :2].min() > 40, "the head stays away from the border"
    assert (boxes[:, 2] < 600).all()
    assert (boxes[:, 3] < 440).all()


def test_the_head_moves_by_a_few_percent_of_the_frame(boxes: NDArray[np.float64]) -> None:
    centers = (boxes[:, :2] + boxes[:, 2:]) / 2
    travelled = np.ptp(centers, axis=0)
    assert 0.02 * 640 < travelled[0] < 0.15 * 640
    assert 0.02 * 480 < travelled[1] < 0.15 * 480


def test_the_surroundings_stay_and_have_no_black_border(clip: list[NDArray[np.uint8]]) -> None:
    # The shuttle stands still: after the light is divided out, what differs is the noise.
    first, later = (frame[200:400, 540:].astype(np.float64) for frame in (clip[0], clip[20]))
    ratio = later.mean() / first.mean()
    assert np.abs(later / ratio - first).mean() < 6
    for frame in clip[::10]:
        sides = [frame[:2], frame[-2:], frame[:, :2], frame[:, -2:]]
        assert min(side.mean() for side in sides) > 40


def test_the_light_changes(clip: list[NDArray[np.uint8]]) -> None:
    corner = np.array([frame[:40, 200:300].mean() for frame in clip])
    assert corner.max() / corner.min() > 1.1
    assert max(abs(b - a) for a, b in pairwise(corner)) < 20, "softly"


def test_the_same_arguments_give_the_same_frames() -> None:
    one, two = (list(demo_frames(seconds=0.2, size=(320, 240), seed=3)) for _ in range(2))
    other = next(demo_frames(seconds=0.2, size=(320, 240), seed=4))
    assert all(np.array_equal(a, b) for a, b in zip(one, two, strict=True))
    noise = (one[0].astype(np.float64) - other) / np.sqrt(2)
    assert not np.array_equal(one[0], other)
    assert 1.0 < noise.std() < 2.0


def test_nothing_is_downloaded(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("the network was asked")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    assert next(demo_frames(size=(320, 240))).shape == (240, 320, 3)


def test_the_written_clip_reads_back(tmp_path: Path) -> None:
    path = make_demo_clip(tmp_path / "demo.mp4", seconds=0.4, fps=30000 / 1001, size=(320, 240))
    frames = list(VideoReader(path))
    assert [frame.pts for frame in frames] == pytest.approx([i * 1001 / 30000 for i in range(12)], abs=1e-9)
    for frame, drawn in zip(frames, demo_frames(seconds=0.4, fps=30000 / 1001, size=(320, 240)), strict=True):
        error = np.mean((frame.image.astype(np.float64) - drawn) ** 2)
        assert 10 * np.log10(255**2 / error) > 32, "dB"
    with pytest.raises(OutputError):
        make_demo_clip(path, seconds=0.1)
    assert make_demo_clip(path, seconds=0.1, size=(320, 240), overwrite=True) == path
    assert len(list(VideoReader(path))) == 2


@pytest.mark.parametrize(("arguments", "word"), [({"seconds": 0.0}, "no frame"), ({"size": (20, 480)}, "too small")])
def test_what_cannot_be_made_is_refused_at_once(arguments: dict, word: str) -> None:
    with pytest.raises(UsageError, match=word):
        demo_frames(**arguments)
