"""Embedding in several faces of a frame, one after the other.

No pixel belongs to two faces, so the perturbation of one stays within `--eps` and the next does not overwrite it. Each
face is embedded in frames that already show the perturbations before it, as a reader will see them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from attacks.codec import Rect
from attacks.embed import Embedded, Embedder
from attacks.obscure import CoveredImage
from drsf_cli.deid.changes import ChangeStore, FaceKey
from drsf_cli.deid.clip import SurveyedClip
from drsf_cli.media.reader import Frame


def embed_faces(
    clip: SurveyedClip, embedder: Embedder, frames: Sequence[Frame], covered: Sequence[CoveredImage]
) -> tuple[list[CoveredImage], dict[FaceKey, Embedded]]:
    """The `covered` frames, a run of a clip's, with all perturbations in them, and the perturbations.

    The frame's own face comes last, when all others are as they will be.
    """
    images = list(covered)
    done: dict[FaceKey, Embedded] = {}
    rows = {frame.index: row for row, frame in enumerate(frames)}
    tracks = dict.fromkeys(track for frame in frames for track in clip.tracks(frame))
    for track in reversed(tracks):
        targets = [
            target
            for frame, image in zip(frames, images, strict=True)
            if track in clip.tracks(frame) and (target := clip.target(frame, image, track)) is not None
        ]
        beside = focus_of(done)
        targets = [replace(one, beside=tuple(beside.get(one.index, ()))) for one in targets]
        for one in embedder.embed(targets, track):
            row = rows[one.index]
            images[row] = one.apply(images[row])
            done[one.index, track] = one
    return images, done


def redrawn(clip: SurveyedClip, store: ChangeStore, embedded: Mapping[FaceKey, Embedded], frame: Frame) -> CoveredImage:
    """The covered frame with everything embedded in it: `store` has the pixels of every face in `embedded`."""
    image = clip.covered(frame)
    for track in sorted(clip.tracks(frame)):
        key = frame.index, track
        if key in embedded:
            image = store.get(key, embedded[key]).apply(image)
    return image


def focus_of(embedded: Mapping[FaceKey, Embedded]) -> dict[int, list[Rect]]:
    """By frame, where it is to be coded more finely."""
    rects: dict[int, list[Rect]] = {}
    for (index, _), one in embedded.items():
        rects.setdefault(index, []).append(one.focus)
    return rects
