"""Which faces of a segment the drawer is fitted to."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from attacks.obscure import Region, parse_obscuring
from drsf_cli.deid.clip import SourceChangedError, SurveyedClip
from drsf_cli.deid.sample import features, sample_of, unlike
from drsf_cli.deid.segments import in_segments
from drsf_cli.deid.survey import Survey
from drsf_cli.media.reader import VideoReader
from tests.clips import make_clip
from victims.face import Array, Face, FrameObservation
from victims.face_model import FACE_MODEL_68

FRAMES, FPS, SEGMENT = 25, 25, 0.4
"""Segments of ten frames; the last has five."""
REGION = Region((16, 8, 80, 88), 16, (16, 8))


def face(pitch: float = 0.0, closed: bool = False, across: float = 0.0) -> Face:
    points: Array = FACE_MODEL_68[:, :2] * 300.0 + [48.0 + across, 48.0]
    if closed:
        for upper, lower in ((37, 41), (38, 40), (43, 47), (44, 46)):
            points[upper] = points[lower]
    box = np.array([28.0 + across, 28.0, 68.0 + across, 76.0])
    return Face(box, 0.9, points, gaze=np.array([0.0, 0.0, -1.0]), gaze_angle=np.array([pitch, 0.0]))


@pytest.fixture
def clip(tmp_path: Path) -> SurveyedClip:
    """Frame k is a grey of k; eyes are closed in frames 4 and 13, and a second face is there from frame 20 on."""
    path = make_clip(
        tmp_path / "clip.mkv",
        [np.full((96, 160, 3), 4 * k, np.uint8) for k in range(FRAMES)],
        codec="ffv1",
        pixel_format="bgr0",
        rate=Fraction(FPS),
    )
    reader = VideoReader(path)
    faces = [(face(closed=k in (4, 13)), *([face(across=70.0)] if k >= 20 else [])) for k in range(FRAMES)]
    survey = Survey(
        [FrameObservation(k, k / FPS, own) for k, own in enumerate(faces)],
        [tuple(range(len(own))) for own in faces],
        times=[frame.pts for frame in reader],
    )
    covers = (REGION, Region((90, 8, 154, 88), 16, (90, 8)))
    return SurveyedClip(reader, survey, [covers] * FRAMES, parse_obscuring("pixelate_5"), survey)


def test_a_sample_is_of_its_segment_and_has_the_rare(clip: SurveyedClip) -> None:
    """Each frame is told by its grey; of ten faces that are equal but for one blink, four are taken."""
    for number, frames in enumerate(in_segments(clip.frames(), SEGMENT, clip.reader.info.time_base)):
        first = next(frames)
        assert first.index == 10 * number
        sample = sample_of(clip, first, SEGMENT, 4)
        assert sum(len(own) for own in sample.values()) == 4
        for track, targets in sample.items():
            for one in targets:
                assert 10 * number <= one.index < min(10 * (number + 1), FRAMES)
                assert one.covered[0, 0] == pytest.approx(4 * one.index, abs=2)
                assert one.face is clip.targets.observations[one.index].faces[track]
                assert one.pts_ticks * clip.reader.info.time_base == pytest.approx(one.index / FPS)
        taken = {one.index for own in sample.values() for one in own}
        assert {4, 13} & set(range(10 * number, 10 * number + 10)) <= taken
        assert len(sample) == (2 if number == 2 else 1)
        list(frames)


def test_a_source_that_changed_is_refused(clip: SurveyedClip) -> None:
    first = next(iter(clip.reader))
    times = list(clip.survey.times)
    times[3] += 0.01
    changed = replace(clip, survey=replace(clip.survey, times=times))
    with pytest.raises(SourceChangedError):
        sample_of(changed, first, SEGMENT, 4)


def test_half_are_even_and_half_differ_most() -> None:
    """By hand: of 0, 1, ... 9 and an 80 among them, four: the first and the last, then 80, then the middle."""
    values = [0.0, 1.0, 2.0, 80.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0]
    assert unlike([np.array([value]) for value in values], 4) == [0, 3, 4, 9]
    assert unlike([np.array([value]) for value in values], 20) == list(range(10))


def test_what_makes_a_face_another_drawing() -> None:
    own = features(face())
    np.testing.assert_allclose(features(face(across=50.0)), own, atol=1e-9)
    look, blink = features(face(pitch=0.4)) - own, features(face(closed=True)) - own
    assert np.linalg.norm(look) == pytest.approx(0.2)
    # the opening of both eyes falls from the model's own to 0, and four lids move
    assert np.linalg.norm(blink) > 0.2
    nothing = features(Face(np.array([0.0, 0.0, 10.0, 10.0]), 0.5))
    assert np.isfinite(nothing).all()
    assert nothing.shape == own.shape
