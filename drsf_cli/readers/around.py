"""Looking around: how covering and the audit look for heads that are turned or cut by the border.

Detectors are trained on upright, whole faces. So covering looks at the picture in all eight eighths of a turn. It also
continues the picture beyond its border by its mirror image, which makes half a face at the border look something like a
whole one. To save time, the picture is reduced as far as the smallest face that matters allows, and further for the
diagonal turns. Only covering and the audit look like this; reading a video uses each detector as its authors published
it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import cv2
import numpy as np
from numpy.typing import NDArray

from victims.base import Detector, Image
from victims.boxes import iou
from victims.crew import Each
from victims.face import Array, Detections
from victims.merging import merge_detections
from victims.track import CONFIRM_SCORE

Finder = Callable[[Sequence[Image]], list[Detections]]
"""Finds the faces of images of one size."""
Look = tuple[int, Detections]
"""By how many eighths a look at an image is turned, or `WIDE`, and what is seen in it."""

MIRROR = 0.2
"""Width of the mirrored border at each side, as a share of the picture's shorter side."""
NEEDED_PX = 24.0
"""Height or width that the smallest face that matters keeps in the picture looked at: the detectors seek faces from 20
px on, and find nearly all of those that are a little larger."""

DIAGONAL_SIZE = 2.0
"""Faces that matter in a diagonal look are larger than others by this factor: a diagonal picture has more corners to
look at than the picture itself."""
STRIP = 0.3
STRETCH = 1.8
"""A wide look is at a strip along the left or the right border and its mirror image, stretched sideways: a third of a
face and its mirror image are then about as wide as a face. Width of the strip as a share of the picture's shorter
side; smaller than the picture as a diagonal look is."""
WIDE = 8
"""In place of an eighth."""
WIDE_SCORE = 0.5
WIDE_ASKED = 0.2
"""What a wide look asks a detector for: its first networks are less sure of a stretched face than its last."""
CUT_SCORE = 0.3
CUT_SHARE = 0.1
"""The border cuts a face if the face's box reaches over the border by at least this share of the box's side."""

# Most heads are upright, and seven more looks give seven times the false alarms, each of which is covered for seconds.
# A head that is turned is seen surely in the look nearest to its turn, and by one beside it too; what is none is seen
# in one look alone, and less surely. A hand or a collar that passes for a face at one size and in one turn does not at
# others, so what a turned look sees, or what the border cuts, is looked at closely: turned a little further and back,
# and at two sizes.
TURNED_SCORE = 0.8
"""What is seen in a turned look counts from this score on ..."""
AGREEING_SCORE = 0.5
"""... if another look sees the same face with at least this score; ..."""
TURNED_ALONE = 0.98
"""... else from this score on."""
CLOSE_TURNS = (-15.0, 0.0, 15.0)
CLOSE_SIZES = (32.0, 48.0)
"""Degrees, and px of the face's side, of the close looks at a face."""
CLOSE_VIEW = 96
"""px: side of the picture in a close look."""
CLOSE_SCORE = 0.3
CLOSE_IOU = 0.35
"""From this score, and this overlap with the middle of the view, on, a close look sees the face."""
TURNED_CLOSE = 0.55
"""A face in a turned look counts from this mean score of the close looks on (0 where one does not see it) ..."""
CUT_CLOSE = 0.4
"""... and one that the border cuts from this on: its mirror image changes much when it is turned."""
UPRIGHT_CLOSE = 0.5
"""A face cut by the border that is seen upright in the close looks with this mean score is upright."""
UPRIGHT_SCORE = 0.99
"""A face that is seen upright with this score is upright: what turned looks see of it, less exactly, is left out."""
SAME_FACE = 0.4
"""IoU from which sightings in two turns are of one face. Boxes of diagonal looks hold an ellipse, and are larger."""
DOUBTS = 2.0
"""A sighting is left out where its doubt (1 less its score) is over this many times that of another of the same
face."""


@dataclass(frozen=True)
class Around:
    """How to look at pictures of one size."""

    min_face: float
    """The smallest face that matters: px from 1 on, below 1 a share of the picture's shorter side."""
    each: Each = map
    """What shares the looks among cores."""

    def scale(self, height: int, width: int, diagonal: bool = False) -> float:
        """By how much a picture (height, width) is made smaller, at most 1; for diagonal and wide looks by more."""
        smallest = self.min_face if self.min_face >= 1 else self.min_face * min(height, width)
        return min(1.0, NEEDED_PX / (smallest * (DIAGONAL_SIZE if diagonal else 1.0)))

    def find(self, finder: Finder, images: Sequence[Image]) -> list[Detections]:
        """The faces that `finder`, which gives no scores, sees in each image, with the turns of the heads.

        Boxes are in px of the image; they may reach over the border, but their centres are inside. Sightings of one
        face in several turns, or in the picture and in its mirror image, are merged.
        """
        return [
            merge_detections([one for _, one in looks]) for looks in self._looks(images, self._turned(finder, images))
        ]

    def detect(
        self, detector: Detector, images: Sequence[Image], reading: Sequence[Detections] | None = None
    ) -> list[Detections]:
        """The faces of each image that must be covered according to `detector`.

        These are its sightings

        * of a whole face in the upright look, from its threshold for covering on; none where `reading` has what it
          sees of each image as it reads: that look repeats it at a smaller size;
        * of a face in the upright look that the border cuts, from `CUT_SCORE` on. Half of its box is a mirror image, of
          which a detector is less sure, so its score is raised to `CONFIRM_SCORE`;
        * of a face in a wide look that the border cuts, from `WIDE_SCORE` on, raised likewise;
        * in turned looks, of what is not known to be upright: surely, or in two looks.

        Faces in turned looks, and cut ones in the upright look, must be seen in close looks as well.
        """
        limit = min(CUT_SCORE, detector.cover_threshold)
        turned = self._turned(lambda own: detector.detect(own, limit), images)
        looked = self._looks(images, [*turned, partial(self._wide, detector, images)])
        readings: Sequence[Detections | None] = [None] * len(images) if reading is None else reading
        return [
            merge_detections([_believed(detector, looks, image, known)])
            for looks, image, known in zip(looked, images, readings, strict=True)
        ]

    def _looks(self, images: Sequence[Image], groups: Sequence[Callable[[], list[Look]]]) -> list[list[Look]]:
        """What `groups` of looks, each at all images, see of each image."""
        looks: list[list[Look]] = [[] for _ in images]
        for group in self.each(lambda look: look(), groups if images else ()):
            for k, one in enumerate(group):
                looks[k % len(images)].append(one)
        return looks

    def _turned(self, finder: Finder, images: Sequence[Image]) -> list[Callable[[], list[Look]]]:
        """The looks in all eight turns; pictures of one size go together."""
        return [partial(self._in_turns, finder, images, eighths) for eighths in ((0, 4), (2, 6), (1, 3, 5, 7))]

    def _in_turns(self, finder: Finder, images: Sequence[Image], eighths: Sequence[int]) -> list[Look]:
        """Every image in one turn, then in the next."""
        diagonal = eighths[0] % 2 == 1
        height, width = images[0].shape[:2]
        scale = self.scale(height, width, diagonal)
        canvases = [_Canvas.of(image, scale, diagonal) for image in images]
        pairs = [(canvas, eighth) for eighth in eighths for canvas in canvases]
        found = finder([canvas.turned(eighth) for canvas, eighth in pairs])
        return [(eighth, canvas.located(one, eighth)) for (canvas, eighth), one in zip(pairs, found, strict=True)]

    def _wide(self, detector: Detector, images: Sequence[Image]) -> list[Look]:
        """Every image at its left border, then at its right one."""
        height, width = images[0].shape[:2]
        scale = self.scale(height, width, diagonal=True)
        canvases = [_Canvas.at_border(image, scale, right) for right in (False, True) for image in images]
        found = detector.detect([canvas.pixels for canvas in canvases], WIDE_ASKED)
        return [(WIDE, canvas.located(one, WIDE)) for canvas, one in zip(canvases, found, strict=True)]


def _believed(
    detector: Detector, looks: Sequence[tuple[int, Detections]], image: Image, reading: Detections | None
) -> Detections:
    """Of what the looks at one image see: what `Around.detect` says. Not merged."""
    which = np.concatenate([np.full(len(seen), eighth) for eighth, seen in looks])
    boxes = np.concatenate([seen.boxes for _, seen in looks])
    scores = np.concatenate([seen.scores for _, seen in looks])
    turns = np.concatenate([seen.head_turns for _, seen in looks])
    upright = turns[:, 0] & (turns.sum(axis=1) == 1)
    cut = upright & (_overhang(boxes, *image.shape[:2]) >= CUT_SHARE)
    same = iou(boxes[:, None], boxes[None]) > SAME_FACE
    again = (same & (which[:, None] != which) & (scores >= AGREEING_SCORE)).any(axis=1)
    whole = upright & ~cut & (which != WIDE) & (scores >= detector.cover_threshold) & (reading is None)
    known = Detections(boxes, np.where(upright & (which != WIDE), scores, 0.0)) if reading is None else reading
    limit = np.where(which == WIDE, WIDE_SCORE, CUT_SCORE)
    kept = np.where(cut, scores >= limit, ~upright & ((scores >= TURNED_ALONE) | (again & (scores >= TURNED_SCORE))))
    kept &= cut | ~_among(boxes, known.boxes[known.scores >= UPRIGHT_SCORE])
    close = np.where(cut & (which == WIDE), CUT_CLOSE, 0.0)
    asked = kept & (which != WIDE)
    close[asked] = _closely(detector, image, boxes[asked], turns[asked])
    kept &= close >= np.where(cut, CUT_CLOSE, TURNED_CLOSE)
    kept &= cut | ~_among(boxes, boxes[cut & (close >= UPRIGHT_CLOSE)])
    kept |= whole
    kept &= ~(same & kept & (which != WIDE) & (1.0 - scores[:, None] > DOUBTS * (1.0 - scores))).any(axis=1)
    scores = np.where(cut, np.maximum(scores, CONFIRM_SCORE), scores)
    return Detections(boxes[kept], scores[kept], turns[kept])


def _among(boxes: Array, others: Array) -> NDArray[np.bool_]:
    """(k,) whether each of boxes (k, 4) is of the same face as one of `others` (n, 4)."""
    return np.asarray((iou(boxes[:, None], others[None]) > SAME_FACE).any(axis=1))


def _closely(detector: Detector, image: Image, boxes: Array, turns: NDArray[np.bool_]) -> Array:
    """(k,) mean scores of faces in boxes (k, 4) of heads turned by `turns` (k, 4), in close looks at each."""
    if not len(boxes):
        return np.zeros(0)
    views, middles = [], []
    for box, own in zip(boxes, turns, strict=True):
        quarters = np.flatnonzero(own)
        degrees = 315.0 if own[0] and own[3] else float(90.0 * quarters.mean())
        for side in CLOSE_SIZES:
            views += _close_views(image, box, degrees, side)
            middles += [CLOSE_VIEW / 2 + side / 2 * np.array([-1.0, -1.0, 1.0, 1.0])] * len(CLOSE_TURNS)
    scores = [
        float(seen.scores[iou(seen.boxes, middle[None]) > CLOSE_IOU].max(initial=0.0))
        for seen, middle in zip(detector.detect(views, CLOSE_SCORE), middles, strict=True)
    ]
    return np.asarray(np.reshape(scores, (len(boxes), -1)).mean(axis=1))


def _close_views(image: Image, box: Array, degrees: float, side: float) -> list[Image]:
    """The face in `box` (4,), as if `side` px wide, in the middle of views turned back by `degrees` and a little."""
    own = float(np.sqrt(np.prod(box[2:] - box[:2])))
    height, width = image.shape[:2]
    shrunk = min(1.0, side / own)
    size = max(1, round(width * shrunk)), max(1, round(height * shrunk))
    small = image if shrunk == 1.0 else cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    middle = (box[:2] + box[2:]) / 2 * (np.array(size) / (width, height))
    views = []
    for more in CLOSE_TURNS:
        angle = np.radians(more - degrees)
        turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]) * side / (own * shrunk)
        matrix = np.column_stack([turn, (CLOSE_VIEW - 1) / 2 - turn @ (middle - 0.5)])  # OpenCV counts as in `_Canvas`
        view = cv2.warpAffine(small, matrix, (CLOSE_VIEW, CLOSE_VIEW), borderMode=cv2.BORDER_REFLECT)
        views.append(np.asarray(view, dtype=np.uint8))
    return views


def _overhang(boxes: Array, height: int, width: int) -> Array:
    """(k,) how far boxes (k, 4) reach over the border of a picture (height, width), as a share of their sides."""
    sides = np.maximum(np.tile(boxes[:, 2:] - boxes[:, :2], 2), 1e-9)
    beyond = np.concatenate([-boxes[:, :2], boxes[:, 2:] - np.array([width, height])], axis=1)
    return np.asarray((beyond / sides).max(axis=1, initial=0.0))


def _rotation(eighth: int) -> Array:
    """(2, 2) turns points (x right, y down) clockwise by so many eighths of a turn; exact for quarter turns."""
    half = np.sqrt(0.5)
    sines = np.array([0.0, half, 1.0, half, 0.0, -half, -1.0, -half])
    sine, cosine = sines[eighth % 8], sines[(eighth + 2) % 8]
    return np.array([[cosine, -sine], [sine, cosine]])


@dataclass(frozen=True, eq=False)
class _Canvas:
    """A picture made smaller, with its mirror image around it, as it is or diagonally; or a strip at its border."""

    pixels: Image
    scale: Array
    """(2,) px of the canvas to one of the picture, along the picture's x and y."""
    size: Array
    """(2,) width and height of the picture, px."""
    middle: Array
    """(2,) where the canvas's middle is in the picture, px."""

    @classmethod
    def of(cls, image: Image, scale: float, diagonal: bool) -> _Canvas:
        """`diagonal`: turned back by an eighth, and just so large that the picture's corners are in it."""
        height, width = image.shape[:2]
        small = image
        if scale < 1.0:
            size = max(1, round(width * scale)), max(1, round(height * scale))
            small = np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), dtype=np.uint8)
        rows, columns = small.shape[:2]
        border = round(MIRROR * min(rows, columns))
        pixels = cv2.copyMakeBorder(small, border, border, border, border, cv2.BORDER_REFLECT)
        if diagonal:
            side = int(np.ceil((rows + columns) * np.sqrt(0.5)))
            back = _rotation(-1)
            middle = np.array([columns, rows]) / 2 + border
            shift = (side - 1) / 2 - back @ (middle - 0.5)  # OpenCV counts from the middle of the first pixel
            pixels = cv2.warpAffine(pixels, np.column_stack([back, shift]), (side, side), flags=cv2.INTER_LINEAR)
        return cls(
            np.asarray(pixels, dtype=np.uint8),
            np.array([columns / width, rows / height]),
            np.array([width, height], dtype=np.float64),
            np.array([width, height]) / 2,
        )

    @classmethod
    def at_border(cls, image: Image, scale: float, right: bool) -> _Canvas:
        """The strip at the left or the right border, which is in its middle, and its mirror image."""
        height, width = image.shape[:2]
        strip = min(width, max(1, round(STRIP * min(height, width))))
        own = image[:, width - strip :] if right else image[:, strip - 1 :: -1]
        both = np.hstack([own, own[:, ::-1]])
        size = max(1, round(2 * strip * scale * STRETCH)), max(1, round(height * scale))
        small = cv2.resize(both, size, interpolation=cv2.INTER_AREA if scale < 1.0 else cv2.INTER_LINEAR)
        border = round(MIRROR * size[1])
        return cls(
            np.asarray(cv2.copyMakeBorder(small, border, border, 0, 0, cv2.BORDER_REFLECT), dtype=np.uint8),
            np.array([size[0] / (2 * strip), size[1] / height]),
            np.array([width, height], dtype=np.float64),
            np.array([width if right else 0.0, height / 2]),
        )

    def turned(self, eighth: int) -> Image:
        """The picture turned back, so that a head that is turned clockwise by so many eighths is upright.

        Odd ones are a diagonal canvas's, even ones another's.
        """
        return np.ascontiguousarray(np.rot90(self.pixels, eighth // 2))

    def located(self, found: Detections, eighth: int) -> Detections:
        """What is seen in the picture turned back by so many eighths, in px of the picture.

        A box becomes the one around the ellipse in it. What is seen in the mirror image is put where it comes from, and
        its turn with it. The turns of a diagonal head are the two quarters beside it.
        """
        rotation = _rotation(eighth)
        middle = np.array(self.turned(eighth).shape[1::-1]) / 2
        boxes, turns = [], []
        for box in np.asarray(found.boxes, dtype=np.float64):
            centre = self.middle + rotation @ ((box[:2] + box[2:]) / 2 - middle) / self.scale
            reach = np.sqrt(rotation**2 @ ((box[2:] - box[:2]) / 2) ** 2) / self.scale
            own = eighth
            for axis in (0, 1):
                if not 0.0 <= centre[axis] <= self.size[axis]:
                    centre[axis] = (0.0 if centre[axis] < 0.0 else 2.0 * self.size[axis]) - centre[axis]
                    # mirrored left to right, a crown at the right is one at the left; top to bottom, up is down
                    own = ((0, 4)[axis] - own) % 8
            boxes.append(np.concatenate([centre - reach, centre + reach]))
            turns.append(np.isin(np.arange(4), [own // 2, (own + 1) // 2 % 4]))
        return Detections(np.array(boxes).reshape(-1, 4), found.scores, np.array(turns, dtype=bool).reshape(-1, 4))
