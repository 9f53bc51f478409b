"""The detectors that decide what is covered: the one whose boxes are embedded, and others beside it.

Detectors miss different faces, and one that is missed is one that is shown; so covering takes the union of all at hand,
and has each of them look around for heads that are turned or cut by the border (drsf_cli/readers/around.py). None of
the others is embedded for. What only they see is covered where they see it and for a second around, but not held for
longer: their false alarms (a hand in front of the camera) would else cover a frame to the end of the clip.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from drsf_cli.readers.around import Around
from export.device import Device
from export.session import authorised
from victims import registry
from victims.base import Detector, Image
from victims.face import Detections
from victims.track import CERTAIN_SCORE, merge_detections
from weights.errors import UsageError, WeightsError

LEADER = "mtcnn"
"""Covers in the place of a detector that is not for covering; its weights are always here."""
COMPANIONS = (LEADER, "retinaface")
"""Taken where their weights are here, unless detectors are named. ResNet-50's RetinaFace is too slow on a CPU."""


def load_companions(
    names: Sequence[str],
    own: Detector,
    device: Device = "auto",
    allow_unknown: bool = False,
    threads: int | None = None,
) -> list[Detector]:
    """The detectors that cover beside `own`, which is always one, through ONNX Runtime.

    `names` as typed with --cover-detector; none named: those of `COMPANIONS` that are at hand. Where `own` is not for
    covering, `LEADER` is the first in any case. Raises UsageError, WeightsError.
    """
    wanted = tuple(names) or COMPANIONS
    if not own.covers:
        wanted = (LEADER, *wanted)
    found: list[Detector] = []
    known = [(own.name, own.weights)]
    for name in wanted:
        try:
            one = registry.load_detector(name, allow_unknown)
        except WeightsError:
            if names or name == LEADER:
                raise
            continue
        if not one.covers:
            raise UsageError(f"--cover-detector {name}: it misses too many faces to cover by; use another.")
        if (one.name, one.weights) not in known:
            known.append((one.name, one.weights))
            found.append(authorised(one, device, threads=threads))
    return found


def see_all(
    own: Detector, companions: Sequence[Detector], images: Sequence[Image], around: Around
) -> tuple[list[Detections], list[Detections]]:
    """Of each image: what `own` reports, and what must be covered.

    What must be covered is what `own` reports, whose scores are lifted to `CERTAIN_SCORE`, and what it and the
    companions see at their lower thresholds for covering, `own` as it reads and all of them as they look around; the
    companions' scores are kept below `CERTAIN_SCORE`. Where `own` is not for covering, the first companion stands in
    its place, and what `own` reports is covered as what a companion sees.
    """
    if not own.covers:
        reported = own.detect(images)
        _, covering = see_all(companions[0], companions[1:], images, around)
        return reported, [
            merge_detections([found, _uncertain(seen)]) for found, seen in zip(covering, reported, strict=True)
        ]
    reported, low = own.sweep(images, own.cover_threshold)
    certain = [replace(found, scores=np.maximum(found.scores, CERTAIN_SCORE)) for found in reported]
    others = [[_uncertain(found) for found in seen] for seen in (around.detect(one, images) for one in companions)]
    seen = zip(certain, low, around.detect(own, images), *others, strict=True)
    return reported, [merge_detections(one) for one in seen]


def _uncertain(found: Detections) -> Detections:
    return replace(found, scores=np.minimum(found.scores, CERTAIN_SCORE - 0.01))
