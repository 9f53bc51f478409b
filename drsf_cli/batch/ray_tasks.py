"""The tasks that the workers of a Ray cluster get, and what happens to a job when a worker is lost."""

from __future__ import annotations

import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from drsf_cli.batch.jobs import Job
from drsf_cli.batch.resume import clear_leftovers
from drsf_cli.batch.run import Result
from drsf_cli.deid.segments import Part
from drsf_cli.media.atomic import hidden_beside
from weights.errors import DrsfError

ATTEMPTS = 2
"""How often a step is begun before its job is given up."""


@dataclass(eq=False)
class LongJob:
    """A job that is done in parts: its results so far, as references to objects that the workers hold."""

    job: Job
    parts: list[Part]
    began: float
    surveys: dict[int, Any] = field(default_factory=dict)
    regions: list[Any] = field(default_factory=list)
    embedded: dict[int, Any] = field(default_factory=dict)
    paths: list[Path] = field(default_factory=list)
    """Every file that an attempt may have written."""
    seconds: float = 0.0
    attempts: int = 1
    """Most of any step."""
    running: int = 0
    instead: Task | Result | None = None
    """If the job cannot be done in parts or is given up: what follows once none of its steps is running."""

    def clear(self) -> None:
        """Remove the files that pass results from step to step."""
        for path in self.paths:
            path.unlink(missing_ok=True)


@dataclass
class Task:
    """One step of a job for one worker.

    It is the whole job or, for a long job, the survey or the embedding of a part, the planning, or the finish.
    """

    job: Job
    attempt: int = 1
    step: Literal["whole", "survey", "plan", "embed", "complete"] = "whole"
    long: LongJob | None = None
    part: int = 0
    may_split: bool = True
    made: tuple[Any, ...] = ()
    """References to the results, besides the one that tells how the step went."""

    def begin(self, worker: Any, resume: bool) -> Any:
        """Start the step. Returns the reference that tells how it went."""
        # whoever had it before may have left something, or have been lost only after it was done
        again = resume or self.attempt > 1
        long = self.long
        if long is None:
            return worker.process.remote(self.job, again, self.may_split)
        long.running += 1
        long.attempts = max(long.attempts, self.attempt)
        count, part = len(long.parts), long.parts[self.part]
        which = f", part {self.part + 1} of {count}"
        surveys = [long.surveys[number] for number in range(count)] if self.step != "survey" else []
        if self.step == "survey":
            status, *made = worker.survey.options(num_returns=2).remote(self.job, part, which)
        elif self.step == "plan":
            status, *made = worker.plan.options(num_returns=1 + count).remote(self.job, *surveys)
        elif self.step == "embed":
            long.paths.append(hidden_beside(self.job.output))
            given = (which, surveys[self.part], long.regions[self.part], long.paths[-1])
            status, *made = worker.embed.options(num_returns=2).remote(self.job, part, *given)
        else:
            all_parts = (*surveys, *long.regions, *(long.embedded[number] for number in range(count)))
            status, made = worker.complete.remote(self.job, again, long.seconds, long.paths, *all_parts), []
        self.made = tuple(made)
        return status

    def ended(self, value: Any) -> list[Task] | Result:
        """The tasks that come next, or the job's result."""
        long = self.long
        if long is None:
            if isinstance(value, Result):
                return replace(value, attempts=self.attempt)
            long = LongJob(self.job, value, time.monotonic())
            return [Task(self.job, 1, "survey", long, number) for number in range(len(value))]
        long.running -= 1
        if isinstance(value, Result):
            long.clear()
            return replace(value, attempts=long.attempts, seconds=time.monotonic() - long.began)
        if value is None and long.instead is None:
            long.instead = Task(self.job, long.attempts, may_split=False)
        if long.instead is not None:
            return self._instead()
        long.seconds += value
        return self._following(long)

    def _following(self, long: LongJob) -> list[Task]:
        """The tasks that come next after this step of a long job went well."""
        if self.step == "survey":
            long.surveys[self.part] = self.made[0]
            return [Task(self.job, 1, "plan", long)] if len(long.surveys) == len(long.parts) else []
        if self.step == "plan":
            long.regions = list(self.made)
            return [Task(self.job, 1, "embed", long, number) for number in range(len(long.parts))]
        long.embedded[self.part] = self.made[0]
        return [Task(self.job, 1, "complete", long)] if len(long.embedded) == len(long.parts) else []

    def lost(self, error: Exception, data_lost: bool) -> list[Task] | Result:
        """The tasks that come next after the worker was lost, or after data that it needs was lost (`data_lost`)."""
        long = self.long
        if long is not None:
            long.running -= 1
        if self.attempt < ATTEMPTS and not (data_lost and long is not None) and (long is None or not long.instead):
            return [replace(self, attempt=self.attempt + 1, made=())]
        if long is None:
            clear_leftovers(self.job)
            return _lost(self, error)
        if long.instead is None:
            whole = Task(self.job, ATTEMPTS, may_split=False)
            long.instead = whole if data_lost else _lost(self, error)
        return self._instead()

    def _instead(self) -> list[Task] | Result:
        long = self.long
        assert long is not None
        if long.running or long.instead is None:
            return []
        long.clear()
        if not isinstance(long.instead, Result):
            return [long.instead]
        clear_leftovers(self.job)
        return long.instead


def _lost(task: Task, error: Exception) -> Result:
    message = (
        f"{task.job.source}: its worker was lost {task.attempt} times ({first_line(error)}); it may be short of "
        "memory, so run it again with --resume and fewer workers (--engine ray:N)."
    )
    return Result(task.job, "failed", error=message, exit_code=DrsfError.exit_code, attempts=task.attempt)


def first_line(error: Exception) -> str:
    """The first line of the error's message, in a form that fits inside a sentence."""
    lines = str(error).strip().splitlines()
    return (lines[0] if lines else type(error).__name__).rstrip(".")
