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


class FacesEmbedder:
    """Embeds runs of frames of one clip, in order."""

    def __init__(self, clip: SurveyedClip, embedder: Embedder) -> None:
        self._clip, self._embedder = clip, embedder

    def embed(
        self, frames: Sequence[Frame], covered: Sequence[CoveredImage]
    ) -> tuple[list[CoveredImage], dict[FaceKey, Embedded]]:
        """The `covered` frames with all perturbations in them, and the perturbations."""
        images = list(covered)
        done: dict[FaceKey, Embedded] = {}
        rows = {frame.index: row for row, frame in enumerate(frames)}
        for track in self._order(frames):
            targets = [
                target
                for frame, image in zip(frames, images, strict=True)
                if track in self._clip.tracks(frame) and (target := self._clip.target(frame, image, track)) is not None
            ]
            targets = [replace(one, beside=self._beside(done, one.index)) for one in targets]
            for one in self._embedder.embed(targets, track):
                row = rows[one.index]
                images[row] = one.apply(images[row])
                done[one.index, track] = one
        return images, done

    def _order(self, frames: Sequence[Frame]) -> list[int]:
        """The tracks in the order of embedding. The frame's own comes last, when all others are as they will be."""
        tracks = [track for frame in frames for track in self._clip.tracks(frame)]
        return list(dict.fromkeys(tracks))[::-1]

    @staticmethod
    def _beside(done: Mapping[FaceKey, Embedded], index: int) -> tuple[Rect, ...]:
        return tuple(one.focus for key, one in done.items() if key[0] == index)


class Redrawing:
    """A clip with what was embedded in it: `store` has the pixels of every face in `embedded`."""

    def __init__(self, clip: SurveyedClip, store: ChangeStore, embedded: Mapping[FaceKey, Embedded]) -> None:
        self._clip, self._store, self._embedded = clip, store, embedded

    def image(self, frame: Frame) -> CoveredImage:
        """The covered frame with everything embedded in it."""
        image = self._clip.covered(frame)
        for track in sorted(self._clip.tracks(frame)):
            key = frame.index, track
            if key in self._embedded:
                image = self._store.get(key, self._embedded[key]).apply(image)
        return image


def focus_of(embedded: Mapping[FaceKey, Embedded]) -> dict[int, list[Rect]]:
    """By frame, where it is to be coded more finely."""
    rects: dict[int, list[Rect]] = {}
    for (index, _), one in embedded.items():
        rects.setdefault(index, []).append(one.focus)
    return rects
