"""Two baselines for the errors of the written file: the codec alone, and obscuring alone.

Both read only a few frames, however long the clip is, and never write them to the disk.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from attacks.codec import CodecState, EncoderSettings, Rect
from drsf_cli.deid.clip import SurveyedClip
from drsf_cli.deid.fidelity import fidelity
from drsf_cli.measure.evaluation import Evaluation
from drsf_cli.media.reader import Frame
from drsf_cli.progress import Progress, counted
from victims.crew import Each
from victims.face import FrameObservation
from victims.observe import Observer

FLOOR_FRAMES = 60
"""The codec's noise floor is read from this many frames at most."""
FLOOR_STEP, SHOWN_STEP = "Measuring the codec's own noise", "Reading what is obscured only"


def noise_floor(
    clip: SurveyedClip,
    observer: Observer,
    settings: EncoderSettings,
    focus: Mapping[int, Sequence[Rect]],
    progress: Progress,
    each: Each = map,
) -> Evaluation | None:
    """The errors that the codec alone causes: those of frames of the untouched clip after encoding.

    The whole clip is encoded with the output's settings, and more finely where the output is (`focus`, by frame).
    `each` shares the reading among cores.
    """
    step = -(-len(clip) // FLOOR_FRAMES)
    state = CodecState(settings)
    waiting: dict[int, Frame] = {}

    def delivered() -> Iterator[Frame]:
        for frame in itertools.chain(counted(clip.frames(), progress), [None]):
            if frame is None:
                state.finish()
            else:
                if frame.index % step == step // 2:
                    waiting[frame.pts_ticks] = frame
                state.push(frame.image, frame.pts_ticks, list(focus.get(frame.index, ())))
            for ticks, image in state.take(waiting):
                yield replace(waiting.pop(ticks), image=image)

    progress.begin(FLOOR_STEP, len(clip))
    seen = [one for (one,) in each(lambda frame: observer.observe([frame]), delivered())]
    return fidelity(clip.survey, seen).frames if seen else None


def obscured_only(
    clip: SurveyedClip, observer: Observer, shown: Sequence[int], progress: Progress, each: Each = map
) -> dict[int, FrameObservation]:
    """What is read from frames `shown` when they are obscured and nothing is embedded."""
    wanted = set(shown)
    progress.begin(SHOWN_STEP, len(wanted))
    frames = (frame for frame in clip.frames() if frame.index in wanted)
    read = each(lambda frame: observer.observe([replace(frame, image=clip.covered(frame))])[0], frames)
    return {one.index: one for one in counted(read, progress)}
