"""Which detectors cover, and that what one of them sees is covered."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pytest

from drsf_cli.readers.covering import load_companions, see_all
from victims.base import Detector, ExportSpec, Image, Objective, Window
from victims.face import Array, Detections
from victims.mtcnn import load_mtcnn
from victims.registry import VICTIMS
from victims.retinaface import load_retinaface
from victims.track import cover_boxes, link
from weights.errors import UsageError, WeightsError

A, B = (10.0, 10.0, 50.0, 60.0), (200.0, 20.0, 240.0, 70.0)


class Sees(Detector):
    """Given boxes with given scores, in every image; those over 0.5 are its own."""

    name = "sees"
    cover_threshold = 0.3

    def __init__(self, *faces: tuple[tuple[float, ...], float]) -> None:
        super().__init__({}, {})
        self.faces = faces

    def detect(self, images: Sequence[Image], threshold: float | None = None) -> list[Detections]:
        kept = [face for face in self.faces if face[1] > (0.5 if threshold is None else threshold)]
        boxes = np.array([box for box, _ in kept]).reshape(-1, 4)
        return [Detections(boxes, np.array([score for _, score in kept])) for _ in images]

    def objective(self, frames: Sequence[Image], windows: Sequence[Window], boxes: Array) -> Objective:
        raise AssertionError("nothing is attacked here")

    def export_specs(self) -> dict[str, ExportSpec]:
        return {}


IMAGE = np.zeros((100, 300, 3), np.uint8)


def test_the_union_is_covered_and_only_the_own_is_reported() -> None:
    reported, covering = see_all(Sees((A, 0.9)), [Sees((B, 0.35))], [IMAGE, IMAGE])
    assert [found.boxes.tolist() for found in reported] == [[list(A)]] * 2
    assert [sorted(found.boxes.tolist()) for found in covering] == [[list(A), list(B)]] * 2


def test_what_is_reported_once_with_a_low_score_is_covered() -> None:
    """A detector that reads from 0.5 on: nothing that can be read may stay open."""
    _, (once,) = see_all(Sees((A, 0.55)), [], [IMAGE])
    nothing = Detections(np.zeros((0, 4)), np.zeros(0))
    times = np.arange(5) / 25
    covers = cover_boxes(link([nothing, nothing, once, nothing, nothing], times), times)
    assert all(covers)


def test_what_only_a_companion_sees_is_not_held_to_the_end() -> None:
    nothing = Detections(np.zeros((0, 4)), np.zeros(0))
    seen = [see_all(Sees((A, 0.9)), [Sees((B, 0.99))], [IMAGE])[1][0]] * 4 + [nothing] * 96
    times = np.arange(100) / 25
    covers = cover_boxes(link(seen, times), times)
    right = [any(cover.box[0] > 120 for cover in frame) for frame in covers]
    left = [any(cover.box[0] < 120 for cover in frame) for frame in covers]
    assert all(left)
    assert all(right[:29])  # the four frames and a second
    assert not any(right[29:])


def test_below_every_threshold_nothing_is_covered() -> None:
    assert not len(see_all(Sees((A, 0.2)), [Sees((B, 0.2))], [IMAGE])[1][0])


def test_every_detector_covers_from_a_lower_score_than_it_reads() -> None:
    from victims import mtcnn, retinaface

    assert mtcnn.Mtcnn.cover_threshold < min(mtcnn.THRESHOLDS)
    assert retinaface.RetinaFace.cover_threshold < retinaface.THRESHOLD
    assert {entry.load for entry in VICTIMS.values() if entry.role == "detector"} == {load_mtcnn, load_retinaface}


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
