"""Which face is the frame's."""

from __future__ import annotations

import numpy as np
import pytest

from victims.face import Face, FrameObservation


@pytest.mark.parametrize(
    ("faces", "chosen"),
    [
        ([((0, 0, 10, 10), 0.99), ((0, 0, 20, 20), 0.95)], 1),
        # seen in a real clip: an arm at the border, taken for a larger face than the one that speaks
        ([((318, 166, 458, 346), 0.9999), ((737, -117, 921, 166), 0.794)], 0),
        ([((0, 0, 10, 10), 0.5), ((0, 0, 20, 20), 0.4)], 1),
        ([((0, 0, 10, 10), 0.9), ((0, 0, 20, 20), 0.89)], 0),
    ],
)
def test_the_largest_of_those_that_are_sure(faces: list, chosen: int) -> None:
    seen = tuple(Face(np.array(box, float), score) for box, score in faces)
    assert FrameObservation(0, 0.0, seen).largest is seen[chosen]


def test_a_frame_without_a_face_has_none() -> None:
    assert FrameObservation(0, 0.0).largest is None
