"""The detectors that decide what is covered: the one whose boxes are embedded, and others beside it.

Detectors miss different faces, and one that is missed is one that is shown; so covering takes the union of all at hand.
None of the others is embedded for. What only they see is covered where they see it and for a second around, but not
held for longer: their false alarms (a hand in front of the camera) would else cover a frame to the end of the clip.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from export.device import Device
from export.session import authorised
from victims import registry
from victims.base import Detector, Image
from victims.face import Detections
from victims.track import CERTAIN_SCORE, merge_detections
from weights.errors import WeightsError

COMPANIONS = ("mtcnn", "retinaface")
"""Taken where their weights are here, unless detectors are named. ResNet-50's RetinaFace is too slow on a CPU."""


def load_companions(
    names: Sequence[str],
    own: Detector,
    device: Device = "auto",
    allow_unknown: bool = False,
    threads: int | None = None,
) -> list[Detector]:
    """The detectors that cover beside `own`, which is always one, through ONNX Runtime.

    `names` as typed with --cover-detector; none named: those of `COMPANIONS` that are at hand. Raises UsageError,
    WeightsError.
    """
    found: list[Detector] = []
    known = [(own.name, own.weights)]
    for name in names or COMPANIONS:
        try:
            one = registry.load_detector(name, allow_unknown)
        except WeightsError:
            if names:
                raise
            continue
        if (one.name, one.weights) not in known:
            known.append((one.name, one.weights))
            found.append(authorised(one, device, threads=threads))
    return found


def see_all(
    own: Detector, companions: Sequence[Detector], images: Sequence[Image]
) -> tuple[list[Detections], list[Detections]]:
    """Of each image: what `own` reports, and what must be covered.

    What must be covered is what `own` reports, whose scores are lifted to `CERTAIN_SCORE`, and what it and the
    companions see at their lower thresholds for covering; the companions' scores are kept below `CERTAIN_SCORE`.
    """
    reported, low = own.sweep(images, own.cover_threshold)
    certain = [Detections(found.boxes, np.maximum(found.scores, CERTAIN_SCORE)) for found in reported]
    others = [
        [Detections(found.boxes, np.minimum(found.scores, CERTAIN_SCORE - 0.01)) for found in seen]
        for seen in (one.detect(images, one.cover_threshold) for one in companions)
    ]
    return reported, [merge_detections(seen) for seen in zip(certain, low, *others, strict=True)]
