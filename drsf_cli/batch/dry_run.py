"""`drsf deid --dry-run`: what a run would do and how long it would take, measured on the first few frames.

These frames go through the whole job, into a temporary folder that is removed, so nothing appears where the output
would. The time for the whole clip is estimated step by step: the first group of frames costs what it cost here (it
includes loading models), and every other frame costs what a later frame cost.
"""

from __future__ import annotations

import itertools
import os
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path

from drsf_cli.batch.jobs import Job
from drsf_cli.deid.baselines import SHOWN_STEP
from drsf_cli.deid.pipeline import deidentify
from drsf_cli.deid.targets import read_targets
from drsf_cli.deid.work import FIT_STEP
from drsf_cli.media.files import refuse_existing
from drsf_cli.media.probe import VideoInfo
from drsf_cli.media.reader import open_source
from drsf_cli.progress import SILENT, Progress
from drsf_cli.readers.models import Models
from drsf_cli.readers.rotation import turned
from drsf_cli.report.schema import SAMPLES, Report
from drsf_cli.settings import DeidSettings
from victims.drawn_regions import refuse_idle
from weights.errors import NoFaceError, OutputError

TRIAL_GROUPS = 2
"""Groups of `batch_size` frames that are tried: the first one loads models, the next shows what the others cost."""
TRIAL_FRAMES = 4
"""At least this many frames are tried, because a single warm frame tells little."""


@dataclass(frozen=True)
class Forecast:
    """The outcome and the time that are expected of one input's run."""

    source: Path
    writes: tuple[Path, ...]
    frames: int
    """Frames of the input between --start and --end: counted if each packet is a frame, else estimated."""
    info: VideoInfo
    tried: int
    """Frames that were measured."""
    seconds: float
    """Expected seconds of the run, without loading the models."""
    settings: DeidSettings
    trial: Report
    """The report of the trial."""
    notes: tuple[str, ...]


@dataclass
class Step:
    """Times of one step, s from when it began."""

    began: float
    first: tuple[float, int] | None = None
    """When the first parts were done, and how many."""
    parts: int = 0
    ended: float = 0.0

    def forecast(self, parts: float) -> float:
        """Seconds that `parts` would take."""
        if self.first is None:
            return self.ended
        after, count = self.first
        if self.parts > count:
            return after + max(0.0, parts - count) * (self.ended - after) / (self.parts - count)
        return max(self.ended, self.ended * parts / count)


@dataclass
class Stopwatch:
    """Passes progress on and keeps the times."""

    passed_on: Progress
    clock: Callable[[], float] = time.monotonic
    steps: dict[str, Step] = field(default_factory=dict)
    _current: Step | None = None

    def begin(self, title: str, total: int | None) -> None:
        """See Progress; the step before ends here."""
        self.stop()
        self._current = self.steps[title] = Step(self.clock())
        self.passed_on.begin(title, total)

    def advance(self, parts: int = 1) -> None:
        """See Progress; the first call also keeps when it came."""
        step = self._current
        if step is not None:
            step.parts += parts
            if step.first is None:
                step.first = (self.clock() - step.began, step.parts)
        self.passed_on.advance(parts)

    def stop(self) -> None:
        """End the step that is running."""
        if self._current is not None:
            self._current.ended = self.clock() - self._current.began
        self._current = None

    def forecast(self, elapsed: float, tried: int, frames: int, fitted: float = 0.0) -> float:
        """Expected seconds for `frames`, if the first `tried` frames took `elapsed`.

        `fitted`: how many faces the drawer is fitted with. That and the frames that are shown do not grow with a clip
        as all else does.
        """
        seconds = elapsed - sum(step.ended for step in self.steps.values())  # between the steps, and once a run
        own = {SHOWN_STEP: float(min(SAMPLES, frames)), FIT_STEP: fitted}
        for title, step in self.steps.items():
            seconds += step.forecast(own.get(title, step.parts * frames / tried))
        return seconds


def fitted_faces(settings: DeidSettings, rate: float, frames: int) -> float:
    """How many faces the drawer is fitted with in `frames` of `rate` a second, one face in each."""
    tuning = settings.effort_settings.tuning
    if tuning is None:
        return 0.0
    segment = min(max(settings.segment * rate, 1.0), float(frames))
    return tuning.samples_of(min(int(segment), tuning.sample)) * frames / segment


def dry_run_of(job: Job, models: Models, *, folder_is_made: bool = False, progress: Progress = SILENT) -> Forecast:
    """Try the first frames.

    Raises what the run would raise for its input and its outputs. `folder_is_made`: as for one of several inputs.
    """
    source, output, settings = job.source, job.output, job.settings
    reader = turned(open_source(source, settings), settings.rotate, models.reader("onnx").detector)
    for path in job.files:
        _refuse(path, settings.overwrite, folder_is_made)
    if settings.targets is not None:
        read_targets(settings.targets, reader.info)  # that it fits the frames only the run can tell
    times = reader.times()
    refuse_idle(settings.manual_regions, times)
    frames = len(times)
    most = max(TRIAL_FRAMES, TRIAL_GROUPS * settings.frames_at_once)
    first = list(islice(iter(reader), most + 1))
    tried = min(len(first), most)
    trial = replace(settings, html=False, targets=None, max_error=None, keep_failed=True, overwrite=True)
    if len(first) > tried:  # halfway to the first frame that is too many
        trial = replace(trial, end=(first[tried - 1].pts + first[tried].pts) / 2)
    else:
        frames = tried
    shown = [frame.pts for frame in first[:tried]]
    met = [any(region.start <= pts <= region.end for pts in shown) for region in settings.manual_regions]
    trial = replace(trial, regions=tuple(itertools.compress(settings.regions, met)))
    notes = list(reader.notes)
    with tempfile.TemporaryDirectory(prefix="drsf-dry-run-") as folder:
        target = Path(folder) / output.name
        watch = Stopwatch(progress)
        began = time.monotonic()
        try:
            document = deidentify(source, target, trial, models=models, progress=watch)
        except NoFaceError:
            notes.append(
                f"No face is seen in the first {tried} frames. The time does not include embedding, and the run stops "
                "with an error (--on-no-face) if no face appears later."
            )
            watch = Stopwatch(progress)
            began = time.monotonic()
            document = deidentify(source, target, replace(trial, on_no_face="solid"), models=models, progress=watch)
        watch.stop()
        elapsed = time.monotonic() - began
    audit = document["audit"]
    if audit is not None and not audit["passed"]:
        notes.append(f"The audit of the trial failed: {audit['problems'][0]}")
    return Forecast(
        source=source,
        writes=job.files,
        frames=frames,
        info=reader.info,
        tried=tried,
        seconds=watch.forecast(elapsed, tried, frames, fitted_faces(settings, float(reader.info.average_rate), frames)),
        settings=settings,
        trial=document,
        notes=tuple(notes),
    )


def _refuse(path: Path, overwrite: bool, folder_is_made: bool) -> None:
    """As the run would, but without touching the place."""
    if not (path.is_dir() and not any(path.iterdir())):
        refuse_existing(path, overwrite)
    folder = path.parent
    while folder_is_made and not folder.exists():
        folder = folder.parent
    if not folder.is_dir() or not os.access(folder, os.W_OK):
        raise OutputError(f"{path} cannot be written there; choose another folder.")
