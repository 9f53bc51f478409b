"""Heads that are turned or cut by the border: covered along their own axes, and sought by the audit."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import cast

import cv2
import numpy as np
import pytest
from skimage.data import astronaut

from attacks.obscure import Pixelate, Region, head_region, plan_regions, region_mask
from drsf_cli.deid.checks import audit_file
from drsf_cli.deid.pipeline import deidentify
from drsf_cli.media.reader import VideoReader
from drsf_cli.readers.around import MIRROR, NEEDED_PX, Around
from drsf_cli.readers.covering import see_all
from drsf_cli.readers.finders import finders_around
from drsf_cli.readers.infer import infer
from drsf_cli.readers.models import Models
from drsf_cli.readers.rotation import best_rotation
from drsf_cli.settings import DeidSettings, VictimNames
from tests import clips
from victims.base import Detector, Image
from victims.face import Detections
from victims.merging import merge_detections
from victims.mtcnn import Mtcnn, load_mtcnn
from victims.track import CONFIRM_SCORE, CoverBox, Track, cover_boxes, link
from weights.errors import UsageError

NOTHING = Detections(np.zeros((0, 4)), np.zeros(0))
HEAD_TILE = (70, 0, 390, 320)
FULL = Around(1.0)
"""Looks at pictures of the tests' sizes as they are."""


@pytest.fixture(scope="module")
def mtcnn() -> Mtcnn:
    return load_mtcnn("mtcnn")


@pytest.fixture(scope="module")
def tile() -> Image:
    """The portrait's head in 240 x 240 px; its face is at (75, 45, 165, 150)."""
    x1, y1, x2, y2 = HEAD_TILE
    return np.asarray(cv2.resize(astronaut()[y1:y2, x1:x2], (240, 240), interpolation=cv2.INTER_AREA))


def face_of(turn: int, left: int = 0) -> tuple[int, int, int, int]:
    """Where the tile's face is after `turn` quarters clockwise, `left` px to the right."""
    x1, y1, x2, y2 = 75, 45, 165, 150
    for _ in range(turn):
        x1, y1, x2, y2 = 240 - y2, x1, 240 - y1, x2
    return x1 + left, y1, x2 + left, y2


def share(regions: Sequence[Region], box: tuple[int, int, int, int], size: tuple[int, int]) -> float:
    """Of the box's part in the picture (height, width): how much is covered."""
    x1, y1, x2, y2 = box
    return float(region_mask(regions, *size)[max(0, y1) : y2, max(0, x1) : x2].mean())


def covered(images: Sequence[Image], detector: Mtcnn, around: Around = FULL) -> list[tuple[Region, ...]]:
    times = np.arange(len(images)) / 25
    seen = see_all(detector, [], images, around)[1]
    return plan_regions(cover_boxes(link(seen, times), times), Pixelate(5), *images[0].shape[:2])


# -- the head's own axes, worked out by hand --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("turn", "region"),
    # a face 50 px wide and 60 px high: 35 px at the sides, 41 beyond the forehead, 21 below the chin
    [(0, (65, 59, 185, 181)), (1, (79, 65, 201, 185)), (2, (65, 79, 185, 201)), (3, (59, 65, 181, 185))],
)
def test_a_head_is_covered_along_its_own_axes(turn: int, region: tuple[float, ...]) -> None:
    box = (100.0, 100.0, 150.0, 160.0) if turn % 2 == 0 else (100.0, 100.0, 160.0, 150.0)
    np.testing.assert_allclose(head_region(np.array(box), (turn,)), region)


def test_a_head_that_may_be_turned_either_way_is_covered_in_both() -> None:
    both = head_region(np.array([100.0, 100.0, 150.0, 150.0]), (0, 2))
    # 50 px square: 32.5 at the sides, 35 above the crown, at either end
    np.testing.assert_allclose(both, [67.5, 65.0, 182.5, 185.0])


def test_blocks_of_a_lying_head_are_as_coarse_as_those_of_the_upright_one() -> None:
    def cell(box: tuple[float, ...], turn: int) -> int:
        track = Track(0, {0: np.array(box)}, {0: 0.99}, {0: np.arange(4) == turn})
        (((region,),)) = plan_regions(cover_boxes([track], [0.0]), Pixelate(5), 400, 400)
        return region.cell

    assert cell((100.0, 100.0, 150.0, 160.0), 0) == 24  # 120 px across
    assert cell((100.0, 100.0, 160.0, 150.0), 1) == 24
    assert cell((100.0, 100.0, 160.0, 150.0), 3) == 24


def test_a_head_that_turns_is_covered_along_both_axes_meanwhile() -> None:
    box, times = np.array([[100.0, 100.0, 150.0, 150.0]]), np.arange(50) / 25
    turns = [np.array([np.arange(4) == (0 if k < 25 else 1)]) for k in range(50)]
    seen = [Detections(box, np.array([0.99]), own) for own in turns]
    found = [{turn for cover in frame for turn in cover.turns} for frame in cover_boxes(link(seen, times), times)]
    assert found[10] == {0}
    assert found[18] == found[24] == found[25] == found[31] == {0, 1}  # 0.3 s before and after
    assert found[40] == {1}


def test_what_is_held_keeps_its_turn() -> None:
    seen = [
        Detections(np.array([[100.0, 100.0, 150.0, 150.0]]), np.array([0.99]), np.array([[0, 0, 1, 0]], dtype=bool))
    ]
    nothing = Detections(np.zeros((0, 4)), np.zeros(0))
    covers = cover_boxes(link([*seen * 5, *[nothing] * 95], np.arange(100) / 25), np.arange(100) / 25)
    assert [cover.turns for cover in covers[99]] == [(2,)]


def test_a_box_without_turns_is_upright() -> None:
    assert CoverBox(0, np.zeros(4), (1.0, 1.0)).turns == (0,)
    box, lying = np.array([[0.0, 0.0, 10.0, 10.0]]), np.array([[False, True, False, False]])
    merged = merge_detections([Detections(box, np.array([0.9])), Detections(box, np.array([0.8]), lying)])
    assert merged.head_turns.tolist() == [[True, True, False, False]]


# -- looking around ---------------------------------------------------------------------------------------------------


def flags(images: Sequence[Image]) -> list[Detections]:
    """Finds "upright" marks: the rectangle of red above and green below, 4 px or more of each."""
    found = []
    for image in images:
        red, green = (image[..., k] > 200 for k in (0, 1))
        boxes = []
        for label in range(1, (parts := cv2.connectedComponents((red | green).astype(np.uint8)))[0]):
            ys, xs = np.nonzero(parts[1] == label)
            box = (xs.min(), ys.min(), xs.max() + 1, ys.max() + 1)
            filled = len(ys) > 0.9 * (box[2] - box[0]) * (box[3] - box[1])  # a diagonal one is not
            if filled and red[box[1], xs].any() and green[box[3] - 1, xs].any() and not green[box[1], xs].any():
                boxes.append(box)
        found.append(Detections(np.array(boxes, dtype=np.float64).reshape(-1, 4), np.ones(len(boxes))))
    return found


def marked(box: tuple[int, int, int, int], turn: int, size: tuple[int, int] = (90, 120)) -> Image:
    """A black picture (height, width) with one mark in `box`, its red end where the crown is."""
    image = np.zeros((*size, 3), dtype=np.uint8)
    x1, y1, x2, y2 = box
    mark = np.zeros((y2 - y1, x2 - x1, 3), dtype=np.uint8)
    mark[..., 1] = 255
    half = np.rot90(mark, turn)
    half[: half.shape[0] // 2] = (255, 0, 0)
    image[y1:y2, x1:x2] = mark
    return image


@pytest.mark.parametrize("turn", range(4))
def test_marks_come_back_where_they_are_with_their_turn(turn: int) -> None:
    box = (50, 35, 62, 55)
    (seen,) = FULL.find(flags, [marked(box, turn)])
    assert seen.boxes.tolist() == [list(box)]
    assert np.flatnonzero(seen.head_turns[0]).tolist() == [turn]


def test_a_mark_seen_in_the_mirror_too_is_one_inside_of_the_frame() -> None:
    """Upright at the left border, 4 px from it: the mirror image shows it once more."""
    box = (4, 40, 16, 60)
    (seen,) = FULL.find(flags, [marked(box, 0)])
    assert seen.boxes.tolist() == [list(box)]
    assert np.flatnonzero(seen.head_turns[0]).tolist() == [0]


@pytest.mark.parametrize(
    ("box", "whole"), [((0, 40, 6, 60), (-6, 40, 6, 60)), ((110, 40, 120, 60), (110, 40, 130, 60))]
)
def test_a_mark_cut_by_the_border_is_completed_by_its_mirror_image(
    box: tuple[int, int, int, int], whole: tuple[int, ...]
) -> None:
    (seen,) = FULL.find(flags, [marked(box, 0)])
    assert seen.boxes.tolist() == [list(whole)]


@pytest.mark.parametrize(
    ("look", "centre", "turns"),
    # 20 px to the right of the look's middle is 14.142 px to the right and as far down in the picture, 45 degrees on
    [
        (0, (74.142, 59.142), [0, 1]), (1, (45.858, 59.142), [1, 2]),
        (2, (45.858, 30.858), [2, 3]), (3, (74.142, 30.858), [0, 3]),
    ],
)  # fmt: skip
def test_a_box_in_a_diagonal_look_comes_back(look: int, centre: tuple[float, float], turns: list[int]) -> None:
    """A box of 12 x 16 px, whose ellipse reaches sqrt((36 + 64) / 2) = 7.071 px along both axes of a picture of 120 x
    90 px; a diagonal look at it is ceil(210 / sqrt(2)) = 149 px wide and high."""

    def one(images: Sequence[Image]) -> list[Detections]:
        found = [Detections(np.zeros((0, 4)), np.zeros(0)) for _ in images]
        if len(images) == 4:
            assert {image.shape for image in images} == {(149, 149, 3)}
            found[look] = Detections(np.array([[88.5, 66.5, 100.5, 82.5]]), np.ones(1))
        return found

    (seen,) = FULL.find(one, [np.zeros((90, 120, 3), dtype=np.uint8)])
    reach = 7.071
    expected = [centre[0] - reach, centre[1] - reach, centre[0] + reach, centre[1] + reach]
    np.testing.assert_allclose(seen.boxes, [expected], atol=2e-3)
    assert np.flatnonzero(seen.head_turns[0]).tolist() == turns


def test_all_looks_agree_where_a_disc_is() -> None:
    """Its union over the eight looks would grow with any look that is displaced."""
    image = np.zeros((90, 121, 3), dtype=np.uint8)
    cv2.circle(image, (80, 30), 9, (255, 255, 255), -1, cv2.LINE_AA)
    ys, xs = np.nonzero(image[..., 0] > 127)
    looks = []

    def disc(images: Sequence[Image]) -> list[Detections]:
        found = []
        for one in images:
            parts = cv2.connectedComponentsWithStats((one[..., 0] > 127).astype(np.uint8))[2][1:]
            boxes = [(x, y, x + w, y + h) for x, y, w, h, _ in parts if min(w, h) > 15]
            found.append(Detections(np.array(boxes, dtype=np.float64).reshape(-1, 4), np.ones(len(boxes))))
        looks.extend(found)
        return found

    (seen,) = FULL.find(disc, [image])
    assert [len(one) for one in looks] == [1] * 8
    np.testing.assert_allclose(seen.boxes, [[xs.min(), ys.min(), xs.max() + 1, ys.max() + 1]], atol=0.75)
    assert seen.head_turns.all()


def close_faces(scores: Sequence[float]) -> list[Detections]:
    """What is seen in the close looks at some faces, six of each: one in the middle, 32 px wide in three, then 48."""
    sides = [32.0, 32.0, 32.0, 48.0, 48.0, 48.0] * (len(scores) // 6)
    boxes = [np.array([[48 - side / 2, 48 - side / 2, 48 + side / 2, 48 + side / 2]]) for side in sides]
    return [Detections(box, np.array([score])) for box, score in zip(boxes, scores, strict=True)]


class Scripted:
    """Sees one face of 40 px in the middle of the picture, or `at` px to the right of it, in each look with the score
    given for its turn."""

    cover_threshold = 0.5

    def __init__(
        self,
        scores: dict[int, float],
        at: float = 0.0,
        close: Sequence[float] = (1.0, 1.0, 1.0, 1.0, 1.0, 1.0),
        wide: Detections | None = None,
    ) -> None:
        self.scores, self.at, self.close, self.wide = scores, at, close, wide

    def detect(self, images: Sequence[Image], threshold: float | None = None) -> list[Detections]:
        if images[0].shape == (96, 96, 3):
            return close_faces([*self.close] * (len(images) // len(self.close)))
        if images[0].shape == (168, 130, 3):  # strips of 36 px and their mirror images, 1.8 times as wide
            return [NOTHING, NOTHING if self.wide is None else self.wide]
        if len(images) == 4:
            turns: Sequence[int] = (1, 3, 5, 7)
        else:
            turns = (0, 4) if images[0].shape[0] < images[0].shape[1] else (2, 6)
        found = []
        for eighth, image in zip(turns, images, strict=True):
            shift = {0: self.at, 4: -self.at}.get(eighth, 0.0)
            middle = np.array(image.shape[1::-1]) / 2 + (shift, 0.0)
            box = np.concatenate([middle - 20, middle + 20])[None]
            seen = eighth in self.scores and self.scores[eighth] >= (threshold or 0.0)
            found.append(Detections(box[: int(seen)], np.array([self.scores.get(eighth, 0.0)])[: int(seen)]))
        return found


WIDE = np.zeros((120, 160, 3), dtype=np.uint8)


@pytest.mark.parametrize(
    ("scores", "turns"),
    [
        ({0: 0.55}, [[0]]),
        ({0: 0.45}, []),
        ({2: 0.97}, []),  # one look alone must be sure
        ({2: 0.985}, [[1]]),
        ({3: 0.985}, [[1, 2]]),
        ({2: 0.85, 3: 0.6}, [[1]]),  # ... or another must see it, too
        ({2: 0.85, 3: 0.45}, []),
        ({2: 0.75, 3: 0.75}, []),
        ({0: 0.995, 1: 0.999}, [[0]]),  # what is seen upright is upright
        ({0: 0.6, 2: 0.99}, [[1]]),
    ],
)
def test_turned_sightings_are_sure_or_agree(scores: dict[int, float], turns: list[list[int]]) -> None:
    (seen,) = FULL.detect(cast(Detector, Scripted(scores)), [WIDE])
    assert [np.flatnonzero(own).tolist() for own in seen.head_turns] == turns
    np.testing.assert_allclose(seen.boxes, np.tile([60.0, 40.0, 100.0, 80.0], (len(turns), 1)))


def test_what_reading_knows_is_not_seen_again() -> None:
    """Reading sees the whole frame at its full size; the upright look adds faces that the border cuts."""
    face, nothing = np.array([[60.0, 40.0, 100.0, 80.0]]), Detections(np.zeros((0, 4)), np.zeros(0))
    known = Detections(face, np.array([0.995]))

    def seen(scores: dict[int, float], reading: Detections, at: float = 0.0) -> Detections:
        return FULL.detect(cast(Detector, Scripted(scores, at)), [WIDE], [reading])[0]

    assert not len(seen({0: 0.99}, nothing))
    assert len(seen({2: 0.99}, nothing)) == 1
    assert not len(seen({2: 0.99}, known))
    cut = seen({0: 0.35}, nothing, at=70.0)  # 10 of its 40 px are beyond the border
    np.testing.assert_allclose(cut.boxes, [[130, 40, 170, 80]])
    assert cut.scores.tolist() == [CONFIRM_SCORE]


@pytest.mark.parametrize(
    ("scores", "at", "close", "counts"),
    [
        ({2: 0.99}, 0.0, (0.9, 0.9, 0.0, 0.9, 0.65, 0.0), True),  # on average 0.558
        ({2: 0.99}, 0.0, (0.9, 0.9, 0.0, 0.9, 0.55, 0.0), False),  # a hand: at some sizes, in some turns
        ({2: 0.9, 3: 0.7}, 0.0, (0.4, 0.4, 0.4, 0.4, 0.4, 0.4), False),
        ({0: 0.35}, 70.0, (0.9, 0.9, 0.0, 0.7, 0.0, 0.0), True),  # cut by the border
        ({0: 0.95}, 70.0, (0.9, 0.9, 0.0, 0.5, 0.0, 0.0), False),
    ],
)
def test_turned_and_cut_faces_are_looked_at_closely(
    scores: dict[int, float], at: float, close: Sequence[float], counts: bool
) -> None:
    (seen,) = FULL.detect(cast(Detector, Scripted(scores, at, close)), [WIDE])
    assert len(seen) == counts


@pytest.mark.parametrize(("score", "left", "counts"), [(0.5, 50.0, True), (0.45, 50.0, False), (0.9, 5.0, False)])
def test_a_third_of_a_face_is_seen_in_a_wide_look(score: float, left: float, counts: bool) -> None:
    """The right border of a picture of 160 x 120 px is at 65 of 130 px; 24 px of the picture are above it. A face of
    36 x 30 px from 50 px on is 20 px wide, and reaches from 160 - 15 / 1.8056 to 160 + 21 / 1.8056 px. One from 5 px on
    is whole, and no face as it is stretched."""
    wide = Detections(np.array([[left, 60.0, left + 36.0, 90.0]]), np.array([score]))
    (seen,) = FULL.detect(cast(Detector, Scripted({}, wide=wide)), [WIDE])
    assert len(seen) == counts
    if counts:  # its middle, 3 px beyond the border, is put where it comes from
        middle, reach = 160 - 3 / 1.8056, 18 / 1.8056
        np.testing.assert_allclose(seen.boxes, [[middle - reach, 36.0, middle + reach, 66.0]], atol=0.01)
        assert seen.scores.tolist() == [CONFIRM_SCORE]


def test_a_cut_face_that_is_upright_closely_is_not_seen_turned() -> None:
    def turns(close: float) -> list[int]:
        scripted = Scripted({0: 0.9, 4: 0.99}, 70.0, [close] * 6 + [0.9] * 6)
        (seen,) = FULL.detect(cast(Detector, scripted), [WIDE])
        return [int(turn) for turn in np.flatnonzero(seen.head_turns.any(axis=0))]

    assert turns(0.55) == [0]
    assert turns(0.45) == [2]  # of two sightings of one face the surer one


@pytest.mark.parametrize("turn", range(4))
def test_close_views_show_a_head_upright_at_two_sizes(turn: int) -> None:
    """A mark of 12 x 20 px whose side is sqrt(240) = 15.49 px: at 32 and 48 px, its ends are 20.7 and 31 px away."""
    views: list[Image] = []

    class Watching(Scripted):
        def detect(self, images: Sequence[Image], threshold: float | None = None) -> list[Detections]:
            if images[0].shape == (96, 96, 3):
                views.extend(images)
                return super().detect(images, threshold)
            return flags(images)

    box = (50, 35, 62, 55) if turn % 2 == 0 else (46, 39, 66, 51)
    FULL.detect(cast(Detector, Watching({})), [marked(box, turn)])
    upright = [views[1], views[4]] if turn else []
    assert len(views) == (6 if turn else 0)  # what is upright and whole needs no close look
    for view, reach in zip(upright, (20.7, 31.0), strict=False):
        rows = [round(48 + sign * (reach - 4)) for sign in (-1, 1)]
        assert view[rows[0], 48].tolist() == [255, 0, 0]
        assert view[rows[1], 48].tolist() == [0, 255, 0]
        beyond = [round(48 + sign * (reach + 4)) for sign in (-1, 1)]
        assert not view[beyond, 48].any()


def test_the_picture_is_made_smaller_as_far_as_the_smallest_face_allows() -> None:
    assert Around(0.05).scale(2160, 3840) == pytest.approx(NEEDED_PX / 108)
    assert Around(0.05).scale(240, 320) == 1.0
    assert Around(60).scale(720, 1280) == pytest.approx(NEEDED_PX / 60)
    sizes: list[tuple[int, ...]] = []

    def measured(images: Sequence[Image]) -> list[Detections]:
        sizes.extend(image.shape for image in images)
        return flags(images)

    assert Around(60).scale(720, 1280, diagonal=True) == pytest.approx(NEEDED_PX / 120)
    (seen,) = Around(60).find(measured, [marked((200, 300, 320, 500), 0, (720, 1280))])
    border = round(MIRROR * 288)
    assert sizes[0] == (288 + 2 * border, 512 + 2 * border, 3)
    np.testing.assert_allclose(seen.boxes, [[200, 300, 320, 500]], atol=2.5)


# -- with the detector ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("turn", [1, 2, 3])
def test_a_turned_head_beside_an_upright_one_is_covered(mtcnn: Mtcnn, tile: Image, turn: int) -> None:
    image = np.hstack([tile, np.rot90(tile, -turn)])
    (own,) = mtcnn.detect([image])
    assert not any((box[0] + box[2]) / 2 > 240 for box in own.boxes), "seen without turning: this tests nothing"
    (regions,) = covered([image], mtcnn)
    assert share(regions, face_of(turn, 240), (240, 480)) == 1.0
    assert share(regions, face_of(0), (240, 480)) == 1.0


@pytest.mark.parametrize("kind", ["on its side", "cut"])
def test_a_companion_looks_around_too(mtcnn: Mtcnn, tile: Image, kind: str) -> None:
    """Beside a detector that sees nothing."""

    class Blind:
        covers, cover_threshold = True, 0.5

        def detect(self, images: Sequence[Image], threshold: float | None = None) -> list[Detections]:
            return [NOTHING] * len(images)

        def sweep(self, images: Sequence[Image], threshold: float) -> tuple[list[Detections], list[Detections]]:
            return self.detect(images), self.detect(images)

    second, face = (np.rot90(tile), face_of(3, 240)) if kind == "on its side" else (tile[:, :120], (315, 45, 360, 150))
    image = np.ascontiguousarray(np.hstack([tile, second]))
    (own,) = mtcnn.detect([image], mtcnn.cover_threshold)
    assert not (own.boxes[:, [0, 2]].mean(axis=1) > 240).any(), "seen without looking around: this tests nothing"
    _, (seen,) = see_all(cast(Detector, Blind()), [mtcnn], [image], FULL)
    (regions,) = plan_regions(cover_boxes(link([seen], [0.0]), [0.0]), Pixelate(5), *image.shape[:2])
    assert share(regions, face, image.shape[:2]) == 1.0


@pytest.mark.parametrize("degrees", [45, 135])
def test_a_diagonal_head_is_covered(mtcnn: Mtcnn, tile: Image, degrees: int) -> None:
    """By what is seen in the diagonal looks alone, pictures of 340 x 340 px for 240 x 240 px, and closely."""

    class Diagonally:
        cover_threshold = mtcnn.cover_threshold

        def detect(self, images: Sequence[Image], threshold: float | None = None) -> list[Detections]:
            if images[0].shape[:2] not in {(340, 340), (96, 96)}:
                return [Detections(np.zeros((0, 4)), np.zeros(0)) for _ in images]
            return mtcnn.detect(images, threshold)

    angle = np.radians(degrees)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    matrix = np.column_stack([turn, np.array([120.0, 120.0]) - turn @ np.array([120.0, 97.5])])
    image = np.asarray(cv2.warpAffine(tile, matrix, (240, 240), borderMode=cv2.BORDER_REPLICATE), dtype=np.uint8)
    seen = FULL.detect(cast(Detector, Diagonally()), [image])
    (regions,) = plan_regions(cover_boxes(link(seen, [0.0]), [0.0]), Pixelate(5), 240, 240)
    # the face's ellipse of 90 x 105 px reaches sqrt((45**2 + 52.5**2) / 2) = 48.9 px from its middle
    assert share(regions, (71, 71, 169, 169), (240, 240)) == 1.0


@pytest.mark.parametrize("side", ["left", "right"])
def test_half_a_face_at_the_border_is_covered_to_the_border(mtcnn: Mtcnn, tile: Image, side: str) -> None:
    half = tile[:, 120:] if side == "left" else tile[:, :120]
    image = np.ascontiguousarray(np.hstack([half, tile] if side == "left" else [tile, half]))
    face = (0, 45, 45, 150) if side == "left" else (315, 45, 360, 150)
    (own,) = mtcnn.detect([image])
    assert len(own) == 1, "seen without its mirror image: this tests nothing"
    (regions,) = covered([image], mtcnn)
    assert share(regions, face, (240, 360)) == 1.0


@pytest.mark.slow
def test_a_smaller_picture_shows_every_face_that_matters(mtcnn: Mtcnn, tile: Image) -> None:
    """Faces of 40 and of 61 px in all turns; the smallest that matters is 40 px, so that 0.6 of the size is enough."""
    rows = []
    for turn in (0, 1, 2, 3):
        small = [cv2.resize(np.rot90(tile, -turn), (side, side), interpolation=cv2.INTER_AREA) for side in (92, 140)]
        rows.append(np.hstack([np.pad(one, ((0, 140 - len(one)), (0, 140 - len(one)), (0, 0))) for one in small]))
    image = np.vstack([np.hstack(rows[:2]), np.hstack(rows[2:])])
    faces = []
    for turn in range(4):
        for left, side in ((0, 92), (140, 140)):
            x1, y1, x2, y2 = np.array(face_of(turn)) * side / 240
            at = np.array([left + 280 * (turn % 2), 140 * (turn // 2)])
            faces.append(at + np.array([(x1 + x2) / 2, (y1 + y2) / 2]))

    def seen_by(around: Around) -> list[bool]:
        (seen,) = around.detect(mtcnn, [image])
        sure = seen.boxes[seen.scores >= CONFIRM_SCORE]
        return [bool(((sure[:, :2] < at) & (at < sure[:, 2:])).all(axis=1).any()) for at in faces]

    assert Around(40).scale(*image.shape[:2]) == 0.6
    full, smaller = seen_by(FULL), seen_by(Around(40))
    assert sum(full) >= 7
    assert all(small >= whole for small, whole in zip(smaller, full, strict=True))


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["turned", "upside down", "cut"])
def test_the_audit_finds_heads_that_were_left_open(mtcnn: Mtcnn, tile: Image, tmp_path: Path, kind: str) -> None:
    second = {"turned": np.rot90(tile), "upside down": np.rot90(tile, 2), "cut": tile[:, :120]}[kind]
    image = np.ascontiguousarray(np.hstack([tile, second]))
    path = tmp_path / "picture.png"
    cv2.imwrite(str(path), image[..., ::-1])
    only_the_first = [Region((0, 0, 240, 240), 40)]
    report = audit_file(VideoReader(path), path, [only_the_first], Pixelate(5), finders_around([mtcnn], FULL))
    assert any("not covered" in problem for problem in report.problems)


@pytest.mark.slow
def test_a_real_head_on_its_side_is_covered(mtcnn: Mtcnn, shared: Path) -> None:
    """The right half is the left one turned by 90 degrees counter-clockwise."""
    (image,) = (frame.image for frame in islice(VideoReader(shared / "cases" / "side.mp4"), 1))
    size = image.shape[0]
    (own,) = mtcnn.detect([np.ascontiguousarray(image[:, :size])])
    x1, y1, x2, y2 = (round(float(value)) for value in own.boxes[0])
    (regions,) = covered([image], mtcnn, Around(DeidSettings.min_face))
    assert share(regions, (size + y1, size - x2, size + y2, size - x1), image.shape[:2]) == 1.0


def test_a_real_passenger_cut_by_the_border_is_covered(mtcnn: Mtcnn, shared: Path) -> None:
    """To the right of a square picture its left part once more."""
    (image,) = (frame.image for frame in islice(VideoReader(shared / "cases" / "border.mp4"), 1))
    size, width = image.shape[:2]
    (own,) = mtcnn.detect([np.ascontiguousarray(image[:, :size])])
    x1, y1, _, y2 = (round(float(value)) for value in own.boxes[0])
    (regions,) = covered([image], mtcnn, Around(DeidSettings.min_face))
    assert share(regions, (size + x1, y1, width, y2), (size, width)) == 1.0


# -- clips that are turned as a whole ---------------------------------------------------------------------------------


@pytest.mark.parametrize("degrees", [90, 180, 270])
def test_frames_are_turned_clockwise(tmp_path: Path, degrees: int) -> None:
    images = clips.patterns(3, 64, 48)
    clips.make_clip(path := tmp_path / "clip.mkv", images, codec="ffv1")
    plain, reader = VideoReader(path), VideoReader(path).rotated(degrees)
    corner = {90: (0, -1), 180: (-1, -1), 270: (-1, 0)}[degrees]  # where the stored picture's first pixel is shown
    for before, after in zip(plain, reader, strict=True):
        assert after.image.shape[:2] == (reader.info.height, reader.info.width)
        np.testing.assert_array_equal(after.image[corner], before.image[0, 0])
        np.testing.assert_array_equal(np.rot90(after.image, degrees // 90), before.image)
    assert (reader.info.width, reader.info.height) == ((64, 48) if degrees == 180 else (48, 64))
    assert next(iter(reader.part(None, None))).image.shape == (reader.info.height, reader.info.width, 3)
    assert reader.rotated(360 - degrees).info == plain.info


def test_what_is_no_rotation_is_refused() -> None:
    assert DeidSettings(rotate="auto").rotate == "auto"
    with pytest.raises(UsageError, match=r"\(--rotate\): '45' is not allowed; it takes 0, 90, 180, 270 or auto"):
        DeidSettings(rotate="45")  # type: ignore[arg-type]


@pytest.mark.slow
def test_a_picture_that_is_turned_as_a_whole(tile: Image, tmp_path: Path) -> None:
    """With `auto` it is read and written upright."""
    source = tmp_path / "turned.png"
    cv2.imwrite(str(source), np.rot90(np.pad(tile, ((0, 0), (0, 40), (0, 0))), -1)[..., ::-1])  # 280 high, 240 wide
    models = Models.load(VictimNames(aligner=None, gaze=None), "cpu")
    assert best_rotation(VideoReader(source), models.reader("onnx").detector) == 270
    (read,) = infer(source, models, rotate="auto")
    (face,) = read.faces
    assert 75 < (face.box[0] + face.box[2]) / 2 < 165
    settings = DeidSettings(victims=VictimNames(aligner=None, gaze=None), attack="none", rotate="auto", device="cpu")
    report = deidentify(source, tmp_path / "upright.png", settings, models=models)
    assert (report["input"]["rotate"], report["input"]["width"], report["input"]["height"]) == (270, 280, 240)
    assert VideoReader(tmp_path / "upright.png").info.width == 280
    assert report["covering"]["frames_with_face"] == 1
