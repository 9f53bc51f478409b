"""Face finders that need no download; the audit uses them to look for faces that are not covered."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import cv2
import numpy as np

from drsf_cli.readers.around import Around, Finder
from drsf_cli.readers.covering import covering_alone
from victims.base import Detector, Image
from victims.face import Array, Detections
from victims.track import CONFIRM_SCORE

FaceFinder = Callable[[Image], Detections]


def finders_at_hand() -> dict[str, FaceFinder]:
    """Face finders that need no download.

    `lbp-cascade` is scikit-image's and belongs to a different family (local binary patterns, no network).
    `haar-cascade` is OpenCV 4's; OpenCV 5 has dropped it. Both see only frontal faces and give no score (NaN).
    """
    haar = haar_cascade()
    return {"lbp-cascade": lbp_cascade()} | ({} if haar is None else {"haar-cascade": haar})


def finders_around(detectors: Sequence[Detector], around: Around) -> dict[str, FaceFinder]:
    """The same finders for an audit.

    The cascades look around, and a detector reports exactly the faces for which a single frame must be covered
    (`drsf_cli.readers.covering.see_all`, `victims.track.link`), so that the audit looks for everything that covering
    looked for. The first of `detectors` is the one that reads.
    """
    finders: dict[str, FaceFinder] = {}
    for name, find in finders_at_hand().items():
        finders[name] = partial(_found_around, around, find)
    for detector, alone in zip(detectors, covering_alone(detectors[0], detectors[1:], around), strict=True):
        finders[detector.name] = partial(_confirmed, alone)
    return finders


def _found_around(around: Around, find: FaceFinder, image: Image) -> Detections:
    return around.find(lambda pictures: [find(one) for one in pictures], [image])[0]


def _confirmed(covering: Finder, image: Image) -> Detections:
    (found,) = covering([image])
    sure = found.scores >= CONFIRM_SCORE
    return Detections(found.boxes[sure], found.scores[sure], found.head_turns[sure])


def lbp_cascade() -> FaceFinder:
    """scikit-image's cascade of local binary patterns for frontal faces; it gives no score."""
    from skimage.data import lbp_frontal_face_cascade_filename
    from skimage.feature import Cascade

    cascade = Cascade(lbp_frontal_face_cascade_filename())

    def find(image: Image) -> Detections:
        scale = min(1.0, 480 / max(image.shape[:2]))
        small = cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
        if min(small.shape[:2]) < 32:
            return _unscored([])
        found = cascade.detect_multi_scale(
            small, scale_factor=1.2, step_ratio=1.5, min_size=(24, 24), max_size=(small.shape[0], small.shape[0])
        )
        return _unscored(
            [
                np.array([f["c"], f["r"], f["c"] + f["width"], f["r"] + f["height"]], dtype=np.float64) / scale
                for f in found
            ]
        )

    return find


def haar_cascade() -> FaceFinder | None:
    """OpenCV 4's cascade for frontal faces, which gives no score; None where OpenCV has none."""
    kind = getattr(cv2, "CascadeClassifier", None)
    if kind is None:
        return None
    path = Path(cv2.__file__).parent / "data" / "haarcascade_frontalface_default.xml"
    cascade = kind(str(path))
    if cascade.empty():
        return None

    alone = threading.Lock()  # it keeps the picture

    def find(image: Image) -> Detections:
        grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
        with alone:
            found = cascade.detectMultiScale(grey, 1.1, 6)
        return _unscored([np.array([x, y, x + w, y + h], dtype=np.float64) for x, y, w, h in found])

    return find


def _unscored(boxes: list[Array]) -> Detections:
    return Detections(np.array(boxes, dtype=np.float64).reshape(-1, 4), np.full(len(boxes), np.nan))
