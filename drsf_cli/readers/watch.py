"""Seeing every frame of a clip for covering, without looking around in each of them.

Looking around (drsf_cli/readers/around.py) costs several times what reading costs. A head that is turned or cut is so
in many frames that follow one another, and tracking covers it in those between two sightings, and before and after. So
every frame is seen as the detector reads, and these are looked at all around:

* the first and the last frame of a segment, and every frame of pictures, which may have nothing to do with each other;
* the first frame that comes `LOOK_S` or more after the last of them;
* a frame that is much unlike the last of them: another scene;
* a frame in which a face of the frame before is not seen by reading: as long as a head is turned or cut, or seen only
  by a companion, every frame is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from drsf_cli.media.reader import Frame
from drsf_cli.readers.around import Around
from drsf_cli.readers.covering import Plain, see_around, see_plain
from victims.base import Detector, Image
from victims.boxes import iou
from victims.face import Array, Detections
from victims.merging import merge_detections
from victims.track import CONFIRM_SCORE

LOOK_S = 0.16
"""s: every fourth frame at 25 a second."""
THUMB = (32, 18)
"""Width and height, px, at which frames are compared."""
ANOTHER_SCENE = 8.0
"""Mean difference of thumbs in grey levels, without that of their brightness."""
SAME_PLACE = 0.2
"""IoU from which a face of the frame before is seen again."""


@dataclass(frozen=True)
class Seen:
    """What is seen in one frame."""

    reported: Detections
    """As the detector reads."""
    covering: Detections
    """What must be covered."""
    around: bool
    """Whether it was looked at all around."""


class Watch:
    """What must be covered in the frames of a clip, shown one after the other."""

    def __init__(self, own: Detector, companions: Sequence[Detector], around: Around, always: bool) -> None:
        """`own` and `companions`: see `see_all`. `always`: look around in every frame."""
        self.own, self.companions, self.around, self.always = own, companions, around, always
        self.begin()

    def begin(self) -> None:
        """What comes does not follow from what was shown before."""
        self._before = Detections(np.zeros((0, 4)), np.zeros(0))
        self._looked: tuple[float, Array] | None = None  # when the last frame was looked at, and its thumb

    def read(self, frames: Sequence[Frame]) -> Plain:
        """What is seen in frames as the detector reads, whatever was shown before."""
        return see_plain(self.own, self.companions, [frame.image for frame in frames])

    def see(self, frames: Sequence[Frame], last: bool, plain: Plain | None = None) -> list[Seen]:
        """What is seen in frames that follow the ones before.

        `last`: none of this segment come after them. `plain`: what `read` says of them, if it was asked already.
        """
        reported, plainly = plain or self.read(frames)
        found = []
        for k, (frame, own, read) in enumerate(zip(frames, reported, plainly, strict=True)):
            thumb, seen = _thumb(frame.image), merge_detections(read)
            due = self.always or (last and k == len(frames) - 1) or self._due(frame.pts, thumb, seen)
            if due:
                (looked,) = see_around(self.own, self.companions, [frame.image], self.around, [seen])
                seen = merge_detections([*read, *looked])
                self._looked = frame.pts, thumb
            self._before = seen
            found.append(Seen(own, seen, due))
        return found

    def _due(self, now: float, thumb: Array, seen: Detections) -> bool:
        if self._looked is None:
            return True
        then, other = self._looked
        if now - then >= LOOK_S - 1e-6 or float(np.abs(thumb - other).mean()) > ANOTHER_SCENE:
            return True
        faces = self._before.boxes[self._before.scores >= CONFIRM_SCORE]
        return bool((~(iou(faces[:, None], seen.boxes[None]) > SAME_PLACE).any(axis=1)).any())


def _thumb(image: Image) -> Array:
    grey = cv2.cvtColor(cv2.resize(image, THUMB, interpolation=cv2.INTER_AREA), cv2.COLOR_RGB2GRAY).astype(np.float64)
    return np.asarray(grey - grey.mean())
