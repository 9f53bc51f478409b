"""Which frames of a clip are looked at all around, and that heads in the others are covered all the same."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import cast

import cv2
import numpy as np
import pytest
from skimage.data import astronaut

from attacks.obscure import Pixelate, plan_regions, region_mask
from drsf_cli.deid.survey import survey_video
from drsf_cli.media.demo_clip import make_demo_clip
from drsf_cli.media.reader import Frame, VideoReader
from drsf_cli.progress import with_last
from drsf_cli.readers.around import Around
from drsf_cli.readers.models import Models
from drsf_cli.readers.watch import Watch
from drsf_cli.settings import VictimNames
from tests import clips
from victims.base import Detector, Image
from victims.face import Detections
from victims.track import cover_boxes, link

FACE = np.array([[40.0, 40.0, 80.0, 80.0]])
NOTHING = Detections(np.zeros((0, 4)), np.zeros(0))


class Told:
    """Reads the faces told for each frame, whose number is its first pixel; turned looks see one where told."""

    covers, cover_threshold = True, 0.5

    def __init__(self, upright: Sequence[bool], lying: Sequence[bool] = (), close: float = 0.99) -> None:
        self.upright, self.lying, self.close = upright, lying, close

    def sweep(self, images: Sequence[Image], threshold: float) -> tuple[list[Detections], list[Detections]]:
        found = [Detections(FACE, np.array([0.95])) if self.upright[image[0, 0, 0]] else NOTHING for image in images]
        return found, found

    def detect(self, images: Sequence[Image], threshold: float | None = None) -> list[Detections]:
        height, width = images[0].shape[:2]
        if (height, width) == (96, 96):  # close looks
            return [Detections(np.array([[28.0, 28.0, 68.0, 68.0]]), np.array([self.close]))] * len(images)
        if height <= width or (height, width) == (168, 130):  # upright, diagonal or wide
            return [NOTHING] * len(images)
        index = int(images[0].max())
        middle = np.array([width, height]) / 2
        box = np.concatenate([middle - 20, middle + 20])[None]
        seen = index < len(self.lying) and self.lying[index]
        return [Detections(box, np.array([0.99])) if seen and k == 0 else NOTHING for k in range(len(images))]


def frame(index: int, seconds: float, image: Image | None = None) -> Frame:
    plain = np.full((120, 160, 3), index, dtype=np.uint8) if image is None else image
    return Frame(index, seconds, round(seconds * 1000), plain)


def looked(
    upright: Sequence[bool], lying: Sequence[bool] = (), fps: float = 25.0, at_once: int = 8, always: bool = False
) -> list[int]:
    """The numbers of the frames looked at all around."""
    watch = Watch(cast(Detector, Told(upright, lying)), [], Around(1.0), always)
    frames = [frame(k, k / fps) for k in range(len(upright))]
    runs = [frames[k : k + at_once] for k in range(0, len(frames), at_once)]
    return [frames.index(f) for run, last in with_last(runs) for f, seen in _both(watch, run, last) if seen]


def _both(watch: Watch, run: Sequence[Frame], last: bool) -> list[tuple[Frame, bool]]:
    return [(one, seen.around) for one, seen in zip(run, watch.see(run, last), strict=True)]


@pytest.mark.parametrize("at_once", [1, 3, 8, 50])
def test_some_frames_of_each_second_and_the_last(at_once: int) -> None:
    assert looked([True] * 15, at_once=at_once) == [0, 4, 8, 12, 14]


def test_it_is_time_that_counts() -> None:
    assert looked([True] * 12, fps=30.0) == [0, 5, 10, 11]
    assert looked([True] * 4, fps=5.0) == [0, 1, 2, 3]


def test_pictures_are_all_looked_at() -> None:
    assert looked([True] * 6, always=True) == [0, 1, 2, 3, 4, 5]


def test_a_face_that_is_lost_is_sought_all_around() -> None:
    assert looked([True] * 5 + [False] * 5) == [0, 4, 5, 9]


def test_while_a_head_is_turned_every_frame_is_looked_at() -> None:
    lying = [False] * 5 + [True] * 3 + [False] * 5
    assert looked([True] * 5 + [False] * 8, lying) == [0, 4, 5, 6, 7, 8, 12]


def test_a_hand_that_passes_for_a_head_is_neither_covered_nor_followed() -> None:
    """Seen in a turned look with a score of 0.99 in frame 4, but less surely when looked at closely."""
    told = Told([True] * 9, [False] * 4 + [True], close=0.5)
    watch = Watch(cast(Detector, told), [], Around(1.0), always=False)
    seen = watch.see([frame(k, k / 25) for k in range(9)], last=True)
    assert [len(one.covering) for one in seen] == [1] * 9
    assert [k for k, one in enumerate(seen) if one.around] == [0, 4, 8]
    told.close = 0.6
    watch.begin()
    seen = watch.see([frame(k, k / 25) for k in range(9)], last=True)
    assert [len(one.covering) for one in seen] == [1, 1, 1, 1, 2, 1, 1, 1, 1]


def test_another_scene_is_looked_at() -> None:
    """Brighter alone is the same scene."""
    dark, bright = np.full((120, 160, 3), 40, dtype=np.uint8), np.full((120, 160, 3), 70, dtype=np.uint8)
    other = dark.copy()
    other[:, :80] = 90
    for image in (dark, bright, other):
        image[0, 0] = 0
    watch = Watch(cast(Detector, Told([True])), [], Around(1.0), always=False)
    frames = [frame(k, k / 25, image) for k, image in enumerate((dark, bright, other, other))]
    assert [seen.around for seen in watch.see(frames, last=False)] == [True, False, True, False]


def test_what_is_the_last() -> None:
    assert list(with_last([])) == []
    assert list(with_last("abc")) == [("a", False), ("b", False), ("c", True)]


# -- with the detectors -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def models() -> Models:
    return Models.load(VictimNames(aligner=None, gaze=None), "cpu", threads=1)


def test_on_the_demo_clip_the_head_is_covered_and_little_else(models: Models, tmp_path: Path) -> None:
    """With the detectors of a fresh installation. The head region of one frame by itself is about 0.43 of the frame;
    its way within a fifth of a second and whole blocks add to that."""
    reader = VideoReader(make_demo_clip(tmp_path / "demo.mp4", 1.0))
    survey = survey_video(reader, models.reader("onnx"))
    planned = plan_regions(
        cover_boxes(link(survey.seen, survey.times), survey.times), Pixelate(5), reader.info.height, reader.info.width
    )
    assert np.mean([len(regions) for regions in planned]) < 1.5
    shares = [region_mask(regions, reader.info.height, reader.info.width).mean() for regions in planned]
    assert 0.4 < np.mean(shares) < 0.65
    assert sum(survey.around) <= 9


def test_a_head_that_lies_down_between_two_looks_is_covered_in_every_frame(models: Models, tmp_path: Path) -> None:
    """Upright in frames 0 to 5, on its side in 6 to 11, where reading takes it for a smaller one that is upright."""
    upright = np.asarray(cv2.resize(astronaut()[0:320, 70:390], (240, 240), interpolation=cv2.INTER_AREA))
    lying = np.ascontiguousarray(np.rot90(upright, -1))
    own = models.reader("onnx").detector
    (box,) = own.detect([upright])[0].boxes[:1]
    x1, y1, x2, y2 = (round(float(value)) for value in box)
    faces = [(x1, y1, x2, y2), (240 - y2, x1, 240 - y1, x2)]
    clips.make_clip(path := tmp_path / "clip.mkv", [upright] * 6 + [lying] * 6, codec="ffv1")
    survey = survey_video(VideoReader(path), models.reader("onnx"))
    planned = plan_regions(cover_boxes(link(survey.seen, survey.times), survey.times), Pixelate(5), 240, 240)
    for index, regions in enumerate(planned):
        left, top, right, bottom = faces[index // 6]
        assert region_mask(regions, 240, 240)[top:bottom, left:right].all(), index
