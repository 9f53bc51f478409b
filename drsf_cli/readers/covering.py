"""The detectors that decide what is covered: the one whose boxes are embedded, and others beside it.

Detectors miss different faces, and a face that is missed is shown. So covering takes the union of all installed
detectors, and each of them looks around for heads that are turned or cut by the border (drsf_cli/readers/around.py).
Nothing is embedded for the others. A face that only they see is covered in the frames in which they see it and for a
second before and after, but not longer: a false alarm (a hand in front of the camera) would otherwise cover the picture
to the end of the clip.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import numpy as np

from drsf_cli.readers.around import Around, Finder
from export.device import Device
from export.session import authorised
from victims import registry
from victims.base import Detector, Image
from victims.face import Detections
from victims.merging import merge_detections
from victims.track import CERTAIN_SCORE
from weights.errors import UsageError, WeightsError

LEADER = "mtcnn"
"""Covers in place of a detector that is not fit for covering; its weights are always installed."""
COMPANIONS = (LEADER, "retinaface")
"""Used if their weights are installed, unless detectors are named. RetinaFace with ResNet-50 is too slow on a CPU."""


def load_companions(
    names: Sequence[str], own: Detector, device: Device = "auto", allow_unknown: bool = False
) -> list[Detector]:
    """The detectors that cover beside `own`, which always covers, through ONNX Runtime.

    `names` of detectors; if none is named, those of `COMPANIONS` that are installed. If `own` is not fit for covering,
    `LEADER` is always the first. Raises UsageError, WeightsError.
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
            raise UsageError(f"cover_detectors {name} misses too many faces to be used for covering; use another.")
        if (one.name, one.weights) not in known:
            known.append((one.name, one.weights))
            found.append(authorised(one, device))
    return found


def see_all(
    own: Detector, companions: Sequence[Detector], images: Sequence[Image], around: Around
) -> tuple[list[Detections], list[Detections]]:
    """For each image: the faces that `own` reports, and the faces that must be covered.

    Faces that must be covered are those that `own` reports, with scores raised to `CERTAIN_SCORE`, and those that it
    and the companions see at their lower thresholds for covering: `own` as it reads, and all detectors as they look
    around. The companions' scores are kept below `CERTAIN_SCORE`. If `own` is not fit for covering, the first companion
    takes its place, and the faces that `own` reports are treated like a companion's.
    """
    reported, plain = see_plain(own, companions, images)
    looked = see_around(own, companions, images, around, [merge_detections(one) for one in plain])
    return reported, [merge_detections([*a, *b]) for a, b in zip(plain, looked, strict=True)]


Plain = tuple[list[Detections], list[list[Detections]]]
"""What `see_plain` says of images."""


def see_plain(own: Detector, companions: Sequence[Detector], images: Sequence[Image]) -> Plain:
    """The part of `see_all` that is seen as the detector reads.

    These are the faces that `own` reports in each image, and those that must be covered, not merged.
    """
    if not own.covers:
        reported = own.detect(images)
        _, plain = see_plain(companions[0], companions[1:], images)
        return reported, [[*found, _uncertain(seen)] for found, seen in zip(plain, reported, strict=True)]
    reported, low = own.sweep(images, own.cover_threshold)
    certain = [replace(found, scores=np.maximum(found.scores, CERTAIN_SCORE)) for found in reported]
    return reported, [list(both) for both in zip(certain, low, strict=True)]


def see_around(
    own: Detector, companions: Sequence[Detector], images: Sequence[Image], around: Around, plain: Sequence[Detections]
) -> list[list[Detections]]:
    """The part of `see_all` that is seen by looking around: what must be covered in each image, not merged.

    `plain`: what `see_plain` says of it.
    """
    if not own.covers:
        own, companions = companions[0], companions[1:]
    others = [_accompanies(one, around, images) for one in companions]
    return [list(seen) for seen in zip(around.detect(own, images, plain), *others, strict=True)]


def covering_alone(own: Detector, companions: Sequence[Detector], around: Around) -> list[Finder]:
    """For `own` and each companion: what finds the faces that `see_all` covers because of it alone."""
    if not own.covers:
        others = covering_alone(companions[0], companions[1:], around)
        return [lambda images: [_uncertain(seen) for seen in own.detect(images)], *others]
    return [
        lambda images: see_all(own, [], images, around)[1],
        *(partial(_accompanies, one, around) for one in companions),
    ]


def _accompanies(companion: Detector, around: Around, images: Sequence[Image]) -> list[Detections]:
    return [_uncertain(found) for found in around.detect(companion, images)]


def _uncertain(found: Detections) -> Detections:
    return replace(found, scores=np.minimum(found.scores, CERTAIN_SCORE - 0.01))
