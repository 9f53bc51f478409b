"""The codec's noise floor is read from what the file would have been, had nothing been hidden."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

from attacks.obscure import Pixelate
from drsf_cli.deid import baselines
from drsf_cli.deid.baselines import noise_floor
from drsf_cli.deid.clip import SurveyedClip
from drsf_cli.deid.survey import Survey
from drsf_cli.media.reader import Frame, VideoReader
from drsf_cli.media.writer import VideoWriter, encoder_settings
from drsf_cli.progress import Silent
from tests import clips
from victims.base import Image
from victims.face import Face, FrameObservation
from victims.observe import Observer

COUNT = 11
BOX = np.array([10.0, 10.0, 50.0, 50.0])
FOCUS = {index: [(0, 0, 64, 64)] for index in range(3, 9)}


class Looking:
    """An observer that keeps what it is shown, and sees the face a pixel further right in every third frame."""

    def __init__(self) -> None:
        self.seen: dict[int, Image] = {}

    def observe(self, frames: list[Frame]) -> list[FrameObservation]:
        self.seen |= {frame.index: frame.image for frame in frames}
        return [
            FrameObservation(f.index, f.pts, (Face(BOX + [float(f.index % 3 == 1), 0.0] * 2, 1.0),)) for f in frames
        ]


@pytest.mark.parametrize(("most", "indices"), [(100, range(COUNT)), (4, [1, 4, 7, 10]), (1, [5])])
def test_it_is_read_from_the_whole_clip_as_the_writer_encodes_it(
    most: int, indices: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(baselines, "FLOOR_FRAMES", most)
    reader = VideoReader(clips.make_clip(tmp_path / "in.mp4", clips.patterns(COUNT, 96, 64)))
    frames = list(reader)
    with VideoWriter(tmp_path / "out.mp4", reader.info, encoder_settings(reader.info, crf=33, focus_qp=-9)) as writer:
        for frame in frames:
            writer.write(frame.image, frame.pts_ticks, frame.duration_ticks, FOCUS.get(frame.index, []))
        writer.publish()
    observations = [FrameObservation(frame.index, frame.pts, (Face(BOX, 1.0),)) for frame in frames]
    survey = Survey(observations, [(0,)] * COUNT, [], [frame.pts for frame in frames])
    clip, observer = SurveyedClip(reader, survey, [()] * COUNT, Pixelate(5), survey), Looking()
    settings = encoder_settings(reader.info, "h264", crf=33, focus_qp=-9)
    floor = noise_floor(clip, cast(Observer, observer), settings, FOCUS, Silent())
    assert floor is not None
    written = {frame.index: frame.image for frame in VideoReader(tmp_path / "out.mp4")}
    assert sorted(observer.seen) == list(indices)
    assert all(np.array_equal(image, written[index]) for index, image in observer.seen.items())
    # 39 of 41 columns are common to boxes a pixel apart
    expected = [39 / 41 if index % 3 == 1 else 1.0 for index in indices]
    assert floor.summaries["iou"].mean == pytest.approx(np.mean(expected))
