"""Looking around: how covering and the audit look for heads that are turned or cut by the border.

Detectors are trained on upright, whole faces. So covering looks at the picture in all four quarter turns. It also
continues the picture beyond its border by its mirror image, which makes half a face at the border look something like a
whole one. To save time, the picture is reduced as far as the smallest face that matters allows. Only covering and the
audit look like this; reading a video uses each detector as its authors published it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from victims.base import Detector, Image
from victims.face import Array, Detections
from victims.track import CONFIRM_SCORE, merge_detections

Finder = Callable[[Sequence[Image]], list[Detections]]
"""Finds the faces of images of one size."""

MIRROR = 0.2
"""Width of the mirrored border at each side, as a share of the picture's shorter side."""
NEEDED_PX = 24.0
"""Height or width that the smallest face that matters keeps in the picture looked at: the detectors seek faces from 20
px on, and find nearly all of those that are a little larger."""

CUT_SCORE = 0.3
CUT_SHARE = 0.1
"""The border cuts a face if the face's box reaches over the border by at least this share of the box's side."""


@dataclass(frozen=True)
class Around:
    """How to look at pictures of one size."""

    min_face: float
    """The smallest face that matters: px from 1 on, below 1 a share of the picture's shorter side."""

    def scale(self, height: int, width: int) -> float:
        """By how much a picture (height, width) is made smaller, at most 1."""
        smallest = self.min_face if self.min_face >= 1 else self.min_face * min(height, width)
        return min(1.0, NEEDED_PX / smallest)

    def find(self, finder: Finder, images: Sequence[Image]) -> list[Detections]:
        """The faces that `finder` sees in each image, in px of the image, with the turns of the heads. Sightings of one
        face in several turns, or in the picture and in its mirror image, are merged. Boxes may reach over the border,
        but their centres are inside."""
        return [merge_detections(looks) for looks in self._looks(finder, images)]

    def detect(self, detector: Detector, images: Sequence[Image]) -> list[Detections]:
        """The faces of each image that must be covered according to `detector`: those with at least its threshold for
        covering, and those with at least `CUT_SCORE` whose box reaches over the border. Half of such a box is a mirror
        image, of which a detector is less sure, so its score is raised to `CONFIRM_SCORE`."""
        limit = min(CUT_SCORE, detector.cover_threshold)
        found = []
        for image, looks in zip(images, self._looks(lambda own: detector.detect(own, limit), images), strict=True):
            believed = []
            for seen in looks:
                cut = _overhang(seen.boxes, *image.shape[:2]) >= CUT_SHARE
                kept = cut | (seen.scores >= detector.cover_threshold)
                scores = np.where(cut, np.maximum(seen.scores, CONFIRM_SCORE), seen.scores)
                believed.append(Detections(seen.boxes[kept], scores[kept], seen.head_turns[kept]))
            found.append(merge_detections(believed))
        return found

    def _looks(self, finder: Finder, images: Sequence[Image]) -> list[list[Detections]]:
        """For each image, the faces that are seen in each of the four turns."""
        if not images:
            return []
        height, width = images[0].shape[:2]
        seen = [_Canvas.of(image, self.scale(height, width)) for image in images]
        looks: list[list[Detections]] = [[] for _ in images]
        for turns in ((0, 2), (1, 3)):  # pictures of one size go together
            pairs = [(k, turn) for turn in turns for k in range(len(images))]
            found = finder([seen[k].turned(turn) for k, turn in pairs])
            for (k, turn), one in zip(pairs, found, strict=True):
                looks[k].append(seen[k].located(one, turn))
        return looks


def _overhang(boxes: Array, height: int, width: int) -> Array:
    """(k,) how far boxes (k, 4) reach over the border of a picture (height, width), as a share of their sides."""
    sides = np.maximum(np.tile(boxes[:, 2:] - boxes[:, :2], 2), 1e-9)
    beyond = np.concatenate([-boxes[:, :2], boxes[:, 2:] - np.array([width, height])], axis=1)
    return np.asarray((beyond / sides).max(axis=1, initial=0.0))


@dataclass(frozen=True, eq=False)
class _Canvas:
    """A picture made smaller, with its mirror image around it."""

    pixels: Image
    border: int
    """px of the mirror image at each side."""
    scale: Array
    """(2,) px of the canvas to one of the picture, x and y."""
    size: Array
    """(2,) width and height of the picture, px."""

    @classmethod
    def of(cls, image: Image, scale: float) -> _Canvas:
        height, width = image.shape[:2]
        small = image
        if scale < 1.0:
            size = max(1, round(width * scale)), max(1, round(height * scale))
            small = np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), dtype=np.uint8)
        rows, columns = small.shape[:2]
        border = round(MIRROR * min(rows, columns))
        pixels = cv2.copyMakeBorder(small, border, border, border, border, cv2.BORDER_REFLECT)
        return cls(
            np.asarray(pixels, dtype=np.uint8),
            border,
            np.array([columns / width, rows / height]),
            np.array([width, height], dtype=np.float64),
        )

    def turned(self, turn: int) -> Image:
        """The canvas turned back by `turn` quarters, which makes a head upright that is turned clockwise by as many."""
        return np.ascontiguousarray(np.rot90(self.pixels, turn))

    def located(self, found: Detections, turn: int) -> Detections:
        """The faces `found` in the canvas turned back by `turn`, in px of the picture. A face in the mirror image is
        moved to the place that it mirrors, and its turn is mirrored too."""
        height, width = self.pixels.shape[:2]
        boxes, turns = [], []
        for box in found.boxes:
            corners = np.asarray(box, dtype=np.float64).reshape(2, 2)
            x, y = corners[:, 0], corners[:, 1]
            corners = np.stack([(x, y), (width - y, x), (width - x, height - y), (y, height - x)][turn], axis=1)
            corners = (corners - self.border) / self.scale
            own = turn
            for axis in (0, 1):
                centre = corners[:, axis].mean()
                if not 0.0 <= centre <= self.size[axis]:
                    corners[:, axis] = (0.0 if centre < 0.0 else 2.0 * self.size[axis]) - corners[:, axis]
                    # mirrored left to right, a crown at the right is one at the left; top to bottom, up is down
                    own = (own + 2) % 4 if own % 2 == 1 - axis else own
            boxes.append(np.concatenate([corners.min(axis=0), corners.max(axis=0)]))
            turns.append(np.arange(4) == own)
        return Detections(np.array(boxes).reshape(-1, 4), found.scores, np.array(turns, dtype=bool).reshape(-1, 4))
