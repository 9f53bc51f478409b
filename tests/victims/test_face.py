"""Which face is the frame's."""

from __future__ import annotations

import numpy as np
import pytest

from victims.face import Detections, Face, FrameObservation, by_prominence


@pytest.mark.parametrize(
    ("faces", "order"),
    [
        ([((0, 0, 10, 10), 0.99), ((0, 0, 20, 20), 0.95)], [1, 0]),
        # seen in a real clip: an arm at the border, taken for a larger face than the one that speaks
        ([((318, 166, 458, 346), 0.9999), ((737, -117, 921, 166), 0.794)], [0, 1]),
        # and the face of somebody whose head is cut by the border: 39 % of its box are outside
        ([((323, 175, 456, 350), 0.9998), ((764, -110, 939, 172), 0.906)], [0, 1]),
        ([((0, 0, 10, 10), 0.5), ((0, 0, 20, 20), 0.4)], [1, 0]),
        ([((0, 0, 10, 10), 0.9), ((0, 0, 20, 20), 0.89)], [0, 1]),
        # a quarter over the border is still there, more is not; sure beats whole, and size decides at last
        ([((0, 0, 10, 10), 0.9), ((1180, 0, 1300, 120), 0.9), ((1250, 0, 1290, 40), 0.9)], [1, 2, 0]),
        ([((0, 0, 10, 10), 0.9), ((1180, 0, 1320, 120), 0.9), ((0, 0, 200, 200), 0.8)], [0, 1, 2]),
        ([((-60, 0, 40, 100), 0.95), ((0, 690, 50, 740), 0.99), ((0, 0, 10, 10), 0.2)], [0, 1, 2]),
    ],
)
def test_sure_and_whole_and_large_faces_come_first(faces: list, order: list[int]) -> None:
    boxes, scores = (np.array(values, float) for values in zip(*faces, strict=True))
    found = by_prominence(Detections(boxes, scores), 720, 1280)
    assert np.array_equal(found.boxes, boxes[order])
    assert np.array_equal(found.scores, scores[order])


def test_the_frames_own_is_the_first() -> None:
    first, second = (Face(np.array([0.0, 0, size, size]), 0.99) for size in (10, 20))
    assert FrameObservation(0, 0.0, (first, second)).own is first


def test_a_frame_without_a_face_has_none() -> None:
    assert FrameObservation(0, 0.0).own is None
    assert len(by_prominence(Detections(np.zeros((0, 4)), np.zeros(0)), 720, 1280)) == 0
