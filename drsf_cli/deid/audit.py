"""`drsf audit`: what others can read, measured on two files.

"Obscured only" hides what the written file hides: the regions that the report of the run has. Where they are not known,
the covering is planned again from the original with the settings of the run.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from drsf_cli.deid.known_run import KnownRun
from drsf_cli.deid.work import Work
from drsf_cli.measure.identity import IdentityMeter
from drsf_cli.measure.leakage import Covered, Readers, measure
from drsf_cli.measure.leakage_form import Leakage
from drsf_cli.media.reader import Frame
from drsf_cli.progress import SILENT, Progress
from drsf_cli.readers.models import Models
from drsf_cli.readers.outsiders import Outsider
from drsf_cli.settings import Whose
from victims.face import FrameObservation
from victims.observe import Observer


def audit(
    original: str | Path,
    written: str | Path,
    run: KnownRun,
    models: Models,
    outsiders: Mapping[str, Outsider],
    *,
    identity: IdentityMeter | None = None,
    every: int | None = None,
    progress: Progress = SILENT,
) -> Leakage:
    """`measure` for two files. `run`: how `written` was made.

    Raises InputError for files that cannot be read or do not belong together, and what `Work.cover` raises.
    """
    work = Work.on(Path(original), run.settings, models)
    regions = run.regions
    if regions is None:
        regions = work.cover(work.survey(progress))
    repelled = {name for name, one in outsiders.items() if set(one.victim.weights.values()) in run.repelled}
    return measure(
        work.reader,
        Path(written),
        Covered(_driver_reader(work.observer, work.settings.whose), regions, work.settings.obscuring, work.delivery),
        Readers(work.observer, outsiders, repelled, models.device, models.each),
        identity=identity,
        every=every,
        batch_size=work.settings.frames_at_once,
        progress=progress,
    )


def _driver_reader(observer: Observer, whose: Whose) -> Callable[[Sequence[Frame]], list[FrameObservation]]:
    """What reads frames of the original, with the face first for which the run embedded."""

    def read(frames: Sequence[Frame]) -> list[FrameObservation]:
        seen = observer.observe(frames)
        return seen if isinstance(whose, str) else [_nearest_first(one, whose) for one in seen]

    return read


def _nearest_first(seen: FrameObservation, point: tuple[float, float]) -> FrameObservation:
    def distance(box: np.ndarray) -> float:
        return float(np.linalg.norm((box[:2] + box[2:]) / 2 - np.array(point)))

    return replace(seen, faces=tuple(sorted(seen.faces, key=lambda face: distance(face.box))))
