"""Which detectors cover, and that what one of them sees is covered."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pytest

from drsf_cli.readers.around import Around
from drsf_cli.readers.covering import load_companions, see_all
from victims.base import Detector, ExportSpec, Image, Objective, Window
from victims.face import Array, Detections
from victims.mediapipe.blazeface import BlazeFace, load_blazeface
from victims.mtcnn import load_mtcnn
from victims.registry import VICTIMS
from victims.retinaface import load_retinaface
from victims.track import CERTAIN_SCORE, cover_boxes, link
from weights.errors import UsageError, WeightsError

A, B = (10.0, 10.0, 50.0, 60.0), (200.0, 20.0, 240.0, 70.0)


class Sees(Detector):
    """Given boxes with given scores, in every image that is upright; those over 0.5 are its own."""

    name = "sees"
    cover_threshold = 0.3

    def __init__(self, *faces: tuple[tuple[float, ...], float]) -> None:
        super().__init__({}, {})
        self.faces = faces

    def detect(self, images: Sequence[Image], threshold: float | None = None) -> list[Detections]:
        kept = [face for face in self.faces if face[1] > (0.5 if threshold is None else threshold)]
        found = []
        for image in images:
            ys, xs = np.nonzero(image[..., 0])
            # of the picture in what is looked at: at its top left if upright; not in a strip at its right border
            corner = np.array([xs.max(), ys.max()]) if len(xs) else np.array(image.shape[1::-1])
            upright = (corner < np.array([image.shape[1], image.shape[0]]) / 2).all()
            own = kept if upright and image.shape[0] != image.shape[1] else []  # diagonal looks are squares
            boxes = np.array([box for box, _ in own]).reshape(-1, 4) + np.tile(corner, 2)
            found.append(Detections(boxes, np.array([score for _, score in own])))
        return found

    def objective(self, frames: Sequence[Image], windows: Sequence[Window], boxes: Array) -> Objective:
        raise AssertionError("nothing is attacked here")

    def export_specs(self) -> dict[str, ExportSpec]:
        return {}


IMAGE = np.zeros((100, 300, 3), np.uint8)
IMAGE[0, 0] = 255
AROUND = Around(1.0)


def test_the_union_is_covered_and_only_the_own_is_reported() -> None:
    reported, covering = see_all(Sees((A, 0.9)), [Sees((B, 0.35))], [IMAGE, IMAGE], AROUND)
    assert [found.boxes.tolist() for found in reported] == [[list(A)]] * 2
    assert [sorted(found.boxes.tolist()) for found in covering] == [[list(A), list(B)]] * 2


def test_what_is_reported_once_with_a_low_score_is_covered() -> None:
    """A detector that reads from 0.5 on: nothing that can be read may stay open."""
    _, (once,) = see_all(Sees((A, 0.55)), [], [IMAGE], AROUND)
    nothing = Detections(np.zeros((0, 4)), np.zeros(0))
    times = np.arange(5) / 25
    covers = cover_boxes(link([nothing, nothing, once, nothing, nothing], times), times)
    assert all(covers)


def test_what_only_a_companion_sees_is_not_held_to_the_end() -> None:
    nothing = Detections(np.zeros((0, 4)), np.zeros(0))
    seen = [see_all(Sees((A, 0.9)), [Sees((B, 0.99))], [IMAGE], AROUND)[1][0]] * 4 + [nothing] * 96
    times = np.arange(100) / 25
    covers = cover_boxes(link(seen, times), times)
    right = [any(cover.box[0] > 120 for cover in frame) for frame in covers]
    left = [any(cover.box[0] < 120 for cover in frame) for frame in covers]
    assert all(left)
    assert all(right[:29])  # the four frames and a second
    assert not any(right[29:])


class Misses(Sees):
    """Reads, and is not for covering."""

    covers = False


def test_a_detector_that_is_not_for_covering_gives_way_to_mtcnn() -> None:
    assert load_companions((), Misses())[0].name == "mtcnn"
    assert [one.name for one in load_companions(("mtcnn",), Misses())] == ["mtcnn"]
    reported, (covering,) = see_all(Misses((A, 0.99)), [Sees((B, 0.9))], [IMAGE], AROUND)
    assert reported[0].boxes.tolist() == [list(A)]
    scores = dict(zip([tuple(box) for box in covering.boxes], covering.scores, strict=True))
    # both are covered; only what the detector for covering sees may be held to the ends of a clip
    assert scores[B] >= CERTAIN_SCORE > scores[A]


def test_below_every_threshold_nothing_is_covered() -> None:
    assert not len(see_all(Sees((A, 0.2)), [Sees((B, 0.2))], [IMAGE], AROUND)[1][0])


def test_every_detector_covers_from_a_lower_score_than_it_reads() -> None:
    from victims import mtcnn, mtcnn_cascade, retinaface

    assert mtcnn.Mtcnn.cover_threshold < min(mtcnn_cascade.THRESHOLDS)
    assert retinaface.RetinaFace.cover_threshold < retinaface.THRESHOLD
    covering = {load_mtcnn, load_retinaface}
    loaders = {entry.load for entry in VICTIMS.values() if entry.role == "detector"}
    assert loaders == covering | {load_blazeface}
    assert not BlazeFace.covers


def test_companions_without_any_weights() -> None:
    assert load_companions((), load_mtcnn()) == []
    with pytest.raises(WeightsError, match="retinaface"):
        load_companions(("retinaface",), load_mtcnn())
    with pytest.raises(UsageError, match="mtcnn"):
        load_companions(("nobody",), load_mtcnn())


def test_companions_at_hand(stored: Callable[..., None]) -> None:
    stored("retinaface_mobilenet0.25.pth")
    assert [one.name for one in load_companions((), load_mtcnn())] == ["retinaface"]
    assert [one.name for one in load_companions((), load_retinaface("retinaface"))] == ["mtcnn"]
    assert [one.name for one in load_companions(("mtcnn",), load_mtcnn())] == []
