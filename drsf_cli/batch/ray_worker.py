"""The actors on the nodes of a Ray cluster: the workers, and the board that collects their progress."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from drsf_cli.batch.jobs import Job
from drsf_cli.batch.parts import EmbeddedPart, Regions, complete, embed_part, plan_parts
from drsf_cli.batch.resume import finished
from drsf_cli.batch.run import ModelShelf, Result, attempted, process
from drsf_cli.deid.clip import SourceChangedError
from drsf_cli.deid.pipeline import deidentify, opened
from drsf_cli.deid.segments import Part, parts_of
from drsf_cli.deid.survey import Survey
from drsf_cli.deid.work import Work
from drsf_cli.media.reader import open_source
from drsf_cli.progress import SILENT, Told
from drsf_cli.report.schema import Report
from drsf_cli.settings import DeidSettings
from weights.errors import DrsfError, InputError
from weights.files import make_folder

TELL_S = 0.25
"""How often a worker reports its progress."""


class Worker:
    """Does jobs, one at a time. Runs on a node of the cluster."""

    def __init__(self, folder: str, threads: int, board: Any) -> None:
        import ray

        # host, node of the cluster, process
        node = ray.get_runtime_context().get_node_id()
        self.name = f"{socket.gethostname()}-{node[:6]}/{os.getpid()}"
        self._folder, self._board = folder, board
        self._shelf = ModelShelf(threads)

    def start(self, settings: DeidSettings | None) -> DrsfError | None:
        """Load the models of `settings`. Returns an error if the worker cannot work."""
        try:
            os.chdir(self._folder)
        except OSError as error:
            return InputError(
                f"{self._folder} is not there on {self.name} ({error.strerror}); every node must see the same folders."
            )
        torch.set_num_threads(1)  # as the command does
        try:
            if settings is not None:
                self._shelf.get(settings)
        except DrsfError as error:
            return error
        return None

    def process(self, job: Job, resume: bool, may_split: bool) -> Result | list[Part]:
        """Do a job. If it may be split and is longer than one part, return its parts instead."""
        # given attributes count the frames of the whole clip
        parts = self._parts(job, resume) if may_split and job.settings.targets is None else []
        if len(parts) > 1:
            return parts
        return process(job, self._shelf, resume, self._posting(job), self.name)

    def survey(self, job: Job, part: Part, which: str) -> tuple[float | None, Survey | None]:
        """Survey a part.

        Like all methods for parts, this returns the seconds that it took, or None if the job cannot be done in parts,
        and the result.
        """
        return _timed(lambda: self._work(job).part(part).survey(self._posting(job, which)))

    def plan(self, job: Job, *surveys: Survey) -> tuple[Any, ...]:
        """Plan the covering. Returns the seconds, and the regions of each part."""
        seconds, regions = _timed(lambda: plan_parts(self._work(job), surveys))
        return seconds, *(regions or [None] * len(surveys))

    def embed(
        self, job: Job, part: Part, which: str, survey: Survey, regions: Regions, path: Path
    ) -> tuple[float | None, EmbeddedPart | None]:
        """Embed in a part, whose changes go to `path`; see `survey` for what is returned."""
        return _timed(lambda: embed_part(self._work(job), part, survey, regions, path, self._posting(job, which)))

    def complete(self, job: Job, resume: bool, seconds: float, paths: Sequence[Path], *parts: Any) -> Result:
        """Finish the job. `parts`: all surveys, then all regions, then all embedded parts. `paths`: files of parts."""
        count = len(parts) // 3

        def work() -> Report:
            ready, posting = self._work(job), self._posting(job)
            try:
                return complete(job, ready, parts[:count], parts[count:-count], parts[-count:], seconds, posting)
            except SourceChangedError:  # the file gives other frames when read from the middle: process it as a whole
                given: dict[str, Any] = {"models": ready.models, "report": job.report, "progress": posting}
                return deidentify(job.source, job.output, job.settings, **given)

        return attempted(job, resume, work, self.name, paths)

    def _parts(self, job: Job, resume: bool) -> list[Part]:
        """The job's parts. Empty if there is any problem: doing the whole job then reports it."""
        s = job.settings
        try:
            parts = parts_of(open_source(job.source, s), s.segment)
            if len(parts) < 2 or (resume and finished(job) is not None):
                return []
            make_folder(job.output.parent, "-o")
            with opened(self._work(job), job.output, job.report, SILENT):
                return parts
        except Exception:  # noqa: BLE001
            return []

    def _work(self, job: Job) -> Work:
        return Work.on(job.source, job.settings, self._shelf.get(job.settings))

    def _posting(self, job: Job, which: str = "") -> Told:
        """Reports progress to the board, but not more often than the board is read."""

        def tell(title: str, done: int, total: int | None) -> None:
            self._board.post.remote(self.name, job.source.name, title + which, done, total)

        return Told(tell, TELL_S)


def _timed(work: Callable[[], Any]) -> tuple[float | None, Any]:
    began = time.monotonic()
    try:
        result = work()
    except Exception:  # noqa: BLE001  # the error shows again when the job is done as a whole
        return None, None
    return time.monotonic() - began, result


class Board:
    """Collects the workers' progress. Runs on the driver's node."""

    def __init__(self) -> None:
        self._steps: dict[str, tuple[str, str, int, int | None]] = {}

    def post(self, worker: str, name: str, title: str, done: int, total: int | None) -> None:
        """What `worker` is at: part `done` of `total` of the step `title` for the file `name`."""
        self._steps[worker] = (name, title, done, total)

    def take(self) -> dict[str, tuple[str, str, int, int | None]]:
        """The progress that is new since the last call."""
        steps, self._steps = self._steps, {}
        return steps
