"""A clip after the first pass: its frames once more, each with what must be hidden and what is to be embedded."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from attacks.embed import Target
from attacks.obscure import CoveredImage, Obscuring, Region, head_mask, obscure, region_mask
from drsf_cli.deid.survey import Survey
from drsf_cli.media.reader import Frame, VideoReader
from victims.face import Array
from weights.errors import AuditError


class SourceChangedError(AuditError):
    """The frames are not those of the survey."""


@dataclass(frozen=True)
class SurveyedClip:
    """The original or a part of it, with what was seen in it and what must therefore be hidden."""

    reader: VideoReader
    survey: Survey
    regions: Sequence[tuple[Region, ...]]
    """Of each frame."""
    obscuring: Obscuring
    targets: Survey
    """What should be read from the output, frame by frame: the survey, or one with other attributes
    (drsf_cli/deid/targets.py)."""

    def __len__(self) -> int:
        """Frames."""
        return len(self.survey.times)

    def frames(self) -> Iterator[Frame]:
        """Read the source again. Raises SourceChangedError unless it is what it was in the survey."""
        count = 0
        for frame in self.reader:
            if count >= len(self) or frame.pts != self.survey.times[count]:
                raise self.changed()
            count += 1
            yield frame
        if count != len(self):
            raise self.changed()

    def changed(self) -> SourceChangedError:
        """The error for a source that is not what it was in the survey."""
        return SourceChangedError(f"{self.reader.path} changed while it was read; run again on a file at rest.")

    def covered(self, frame: Frame) -> CoveredImage:
        """The frame with every head obscured."""
        return obscure(frame.image, self.regions[frame.index], self.obscuring)

    def tracks(self, frame: Frame) -> tuple[int, ...]:
        """Whose attributes are to be embedded in this frame."""
        return self.targets.tracks[frame.index]

    def target(self, frame: Frame, covered: CoveredImage, track: int) -> Target | None:
        """What to embed in this frame for one of its `tracks`, before anything is embedded for it.

        It lies within the obscured part of the head; None if no part of the head is obscured. Each pixel belongs to one
        face.
        """
        faces = self.targets.observations[frame.index].faces
        own = self.tracks(frame).index(track)
        mask = region_mask(self.regions[frame.index], *covered.shape[:2])
        # what is hidden beside the head, a false alarm perhaps, would only make the window larger
        mask &= head_mask(faces[own].box, *mask.shape)
        if len(faces) > 1:
            mask &= nearest_face([face.box for face in faces], *mask.shape) == own
        if not mask.any():
            return None
        return Target(frame.index, covered, mask, faces[own], frame.pts_ticks)


def nearest_face(boxes: Sequence[Array], height: int, width: int) -> NDArray[np.intp]:
    """(height, width): which of the boxes (4,) each pixel is nearest to, in sizes of the boxes."""
    ys, xs = np.mgrid[:height, :width].astype(np.float32) + 0.5
    distances = [
        np.hypot((xs - (x1 + x2) / 2) / max(x2 - x1, 1.0), (ys - (y1 + y2) / 2) / max(y2 - y1, 1.0))
        for x1, y1, x2, y2 in boxes
    ]
    return np.asarray(np.argmin(np.stack(distances), axis=0))
