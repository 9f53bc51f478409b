"""What the errors of the written file are set against: the codec's own noise, and the clip with nothing embedded.

Both look at a few frames only, however long the clip is, and in memory only.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from attacks.codec import DeliveryCodec, Rect
from drsf_cli.clip import SurveyedClip
from drsf_cli.evaluation import Evaluation
from drsf_cli.fidelity import fidelity
from drsf_cli.progress import Progress
from drsf_cli.video import Frame
from victims.face import FrameObservation
from victims.observe import Observer

FLOOR_RUNS, FLOOR_LENGTH = 4, 8
"""The codec's noise floor is measured on this many runs of this many frames."""
FLOOR_STEP, SHOWN_STEP = "Measuring the codec's own noise", "Reading what is obscured only"
"""Steps that do not grow with the clip."""


def floor_frames(count: int) -> int:
    """Frames of a clip of `count` that the codec's noise floor is measured on, at most."""
    return FLOOR_LENGTH * min(FLOOR_RUNS, max(1, count // (4 * FLOOR_LENGTH)))


def noise_floor(
    clip: SurveyedClip,
    observer: Observer,
    codec: DeliveryCodec,
    focus: Mapping[int, Sequence[Rect]],
    progress: Progress,
) -> Evaluation | None:
    """What the codec alone costs: errors read from untouched frames that went through it, as finely coded as the
    output, which is coded more finely at `focus`, by frame."""
    count = len(clip)
    runs_wanted = floor_frames(count) // FLOOR_LENGTH
    starts = {round((k + 0.5) * count / runs_wanted - FLOOR_LENGTH / 2) for k in range(runs_wanted)}
    progress.begin(FLOOR_STEP, len(starts) * FLOOR_LENGTH)
    seen: list[FrameObservation] = []
    group: list[Frame] = []
    for frame in clip.frames():
        if any(start <= frame.index < start + FLOOR_LENGTH for start in starts):
            group.append(frame)
        if group and (len(group) == FLOOR_LENGTH or frame.index == count - 1):
            rects = [list(focus.get(one.index, ())) for one in group]
            decoded = codec.roundtrip(np.stack([one.image for one in group]), focus=rects)
            seen += observer.observe(
                [Frame(f.index, f.pts, f.pts_ticks, image) for f, image in zip(group, decoded, strict=True)]
            )
            progress.advance(len(group))
            group = []
    return fidelity(clip.survey, seen).frames if seen else None


def obscured_only(
    clip: SurveyedClip, observer: Observer, shown: Sequence[int], progress: Progress
) -> dict[int, FrameObservation]:
    """What is read from frames `shown` when they are obscured and nothing is embedded."""
    wanted = set(shown)
    seen: dict[int, FrameObservation] = {}
    progress.begin(SHOWN_STEP, len(wanted))
    for frame in clip.frames():
        if frame.index in wanted:
            seen[frame.index] = observer.observe([replace(frame, image=clip.covered(frame))])[0]
            progress.advance()
    return seen
