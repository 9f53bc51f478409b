"""Running many inputs: a failure of one does not stop the others, and a summary lists all results.

`process` does one job and is the same wherever it runs. An engine decides where it runs: `Local` in this process, and
drsf_cli/batch/ray_engine.py on the workers of a Ray cluster.
"""

from __future__ import annotations

import json
import time
import traceback
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal, Protocol

from drsf_cli.batch.inputs import PassedOver, expand
from drsf_cli.batch.jobs import Job, Wish, plan_jobs
from drsf_cli.batch.manifest import manifest_wishes
from drsf_cli.batch.resume import clear_leftovers, finished, restore_page
from drsf_cli.batch.shards import Shard
from drsf_cli.deid.pipeline import deidentify
from drsf_cli.measure.metrics import PLOTTED
from drsf_cli.media.atomic import leftovers
from drsf_cli.progress import Progress, Told
from drsf_cli.readers.models import Models
from drsf_cli.report.schema import Report
from drsf_cli.report.versions import versions
from drsf_cli.settings import DeidSettings
from weights.errors import DrsfError, UsageError
from weights.files import make_folder, write_atomically

State = Literal["done", "skipped", "failed"]

SUMMARY = "drsf-summary"
"""Stem of the summary's name."""


@dataclass(frozen=True)
class Result:
    """The result of one job."""

    job: Job
    state: State
    seconds: float = 0.0
    worker: str = ""
    """Where it ran; empty in this process."""
    attempts: int = 1
    """How often it was started in this run: more than once if a worker was lost."""
    figures: Mapping[str, Any] = field(default_factory=dict)
    """Frames, missed frames and mean errors."""
    error: str | None = None
    exit_code: int = 0
    """What the command would have exited with for this input alone."""
    trace: str | None = None
    """The traceback of an error that is not a DrsfError."""


class Watch(Protocol):
    """Receives progress from every worker ('' is this process)."""

    def step(self, worker: str, name: str, title: str, done: int, total: int | None) -> None:
        """A worker is `done` parts into step `title` of the input `name`."""

    def result(self, result: Result) -> None:
        """A job has ended."""


class Engine(Protocol):
    """Runs jobs and yields their results, in the order in which they end."""

    def run(self, jobs: Sequence[Job], resume: bool, watch: Watch) -> Iterator[Result]:
        """The result of each job; `watch` is told what goes on meanwhile."""


class ModelShelf:
    """Keeps loaded victims by the settings that select them.

    The last two sets are kept, so that inputs with different victims can alternate. `threads`: the cores that they use
    where the settings do not say.
    """

    KEPT = 2

    def __init__(self, threads: int | None = None) -> None:
        self._loaded: dict[tuple[Any, ...], Models] = {}
        self._threads = threads

    def get(self, settings: DeidSettings) -> Models:
        """Loaded on first use. Raises as Models.load."""
        names, device, allow_unknown, threads = Models.key(settings)
        key = names, device, allow_unknown, threads or self._threads
        models = self._loaded.pop(key, None) or Models.load(*key)
        self._loaded[key] = models
        while len(self._loaded) > self.KEPT:
            del self._loaded[next(iter(self._loaded))]
        return models


def process(job: Job, shelf: ModelShelf, resume: bool, progress: Progress, worker: str = "") -> Result:
    """Do one job."""

    def work() -> Report:
        models = shelf.get(job.settings)
        return deidentify(job.source, job.output, job.settings, models=models, report=job.report, progress=progress)

    return attempted(job, resume, work, worker)


def attempted(
    job: Job, resume: bool, work: Callable[[], Report], worker: str = "", keep: Collection[Path] = ()
) -> Result:
    """The result of a job that `work` does; `work` returns the report.

    Every exception becomes a failed result, so that it does not stop other jobs; only KeyboardInterrupt and the like
    pass. `keep`: files that are not leftovers.
    """
    began = time.monotonic()

    def failed(message: str, code: int, trace: str | None = None) -> Result:
        seconds = time.monotonic() - began
        return Result(job, "failed", seconds, worker, error=message, exit_code=code, trace=trace)

    try:
        if resume:
            document = finished(job)
            if document is not None:
                restore_page(job, document)
                return Result(job, "skipped", time.monotonic() - began, worker, figures=figures(document))
            clear_leftovers(job, keep)
        make_folder(job.output.parent, "-o")
        document = work()
    except DrsfError as error:
        return failed(str(error), error.exit_code)
    except Exception as error:  # noqa: BLE001  # a bug that one file triggers must not stop the other files of a long run
        return failed(
            f"{job.source}: {type(error).__name__}: {error} (a fault in drsf; drsf --debug shows where).",
            DrsfError.exit_code,
            traceback.format_exc(),
        )
    return Result(job, "done", time.monotonic() - began, worker, figures=figures(document))


class Local:
    """One after another, in this process, with the models loaded once."""

    def run(self, jobs: Sequence[Job], resume: bool, watch: Watch) -> Iterator[Result]:
        """See Engine; one job after another, in this process."""
        shelf = ModelShelf()
        if len({Models.key(job.settings) for job in jobs}) == 1:
            shelf.get(jobs[0].settings)  # without models every input would fail, so fail once and immediately
        for job in jobs:
            told = Told(partial(watch.step, "", job.source.name))
            yield process(job, shelf, resume, told)


@dataclass(frozen=True)
class Batch:
    """The jobs that a command line asks for."""

    jobs: list[Job]
    several: bool
    """False for one input that was named by itself."""
    summary: Path | None = None
    """Where the summary goes; None where outputs lie beside their inputs, which may be anywhere."""
    passed_over: tuple[str, ...] = ()
    """What the search skipped, one sentence for each kind."""


def plan_batch(
    inputs: Sequence[Path],
    settings: DeidSettings,
    *,
    output: Path | None = None,
    manifest: Path | None = None,
    shard: Shard | None = None,
    into_folder: bool = False,
) -> Batch:
    """The jobs that inputs and a manifest stand for, or this shard of them.

    `into_folder`: `output` is meant as a folder, whether it is there or not. Nothing is read but names, and nothing
    written. Raises UsageError, InputError.
    """
    over = PassedOver()
    wishes = [Wish(one, settings) for one in expand(inputs, output, over)]
    if manifest is not None:
        wishes += manifest_wishes(manifest, settings, output, over)
    if not wishes:
        raise UsageError("there is no input; name files or folders, or a --manifest.")
    several = len(wishes) > 1 or wishes[0].input.searched or manifest is not None or shard is not None
    given = [wish.settings.targets for wish in wishes if wish.settings.targets is not None]
    if len(set(given)) < len(given):
        raise UsageError(f"--targets {given[0]} is of one clip; for several, give each row of a --manifest its own.")
    jobs = plan_jobs(wishes, output, several, into_folder)
    return Batch(
        jobs if shard is None else shard.of(jobs),
        several,
        summary_path(output, shard) if several and output is not None else None,
        tuple(over.sentences()),
    )


def run_batch(
    jobs: Sequence[Job],
    engine: Engine,
    watch: Watch,
    *,
    resume: bool = False,
    shard: Shard | None = None,
    summary: Path | None = None,
) -> list[Result]:
    """Do all jobs (with `resume`, those that are not finished), and rewrite the summary whenever one has ended.

    Returns the results, failures last, otherwise in the order of the jobs. Raises OutputError if the summary cannot be
    written, and whatever the engine raises before it has started.
    """
    results: list[Result] = []
    if summary is not None:
        make_folder(summary.parent, "-o")
        if resume:
            for path in leftovers(summary):  # left by a run that was killed while it wrote the summary
                path.unlink(missing_ok=True)
        _write_summary(summary, jobs, results, shard)
    for result in engine.run(jobs, resume, watch):
        results.append(result)
        watch.result(result)
        if summary is not None:
            _write_summary(summary, jobs, results, shard)
    return in_order(jobs, results)


def in_order(jobs: Sequence[Job], results: Sequence[Result]) -> list[Result]:
    """Results in the order of their jobs, failures last."""
    place = {job.output: number for number, job in enumerate(jobs)}
    return sorted(results, key=lambda result: (result.state == "failed", place[result.job.output]))


def summary_path(folder: Path, shard: Shard | None) -> Path:
    """Where the summary of a run goes: `drsf-summary.json`, of a share `drsf-summary.2-of-8.json`."""
    part = "" if shard is None else f".{shard.number}-of-{shard.count}"
    return folder / f"{SUMMARY}{part}.json"


def summary_to_dict(jobs: Sequence[Job], results: Sequence[Result], shard: Shard | None) -> dict[str, Any]:
    """The summary as JSON has it: counts, then each input, failures last."""
    ordered = in_order(jobs, results)
    counts = {state: sum(result.state == state for result in ordered) for state in ("done", "skipped", "failed")}
    return {
        "drsf": versions()["drsf"],
        "shard": None if shard is None else f"{shard.number}/{shard.count}",
        "inputs": len(jobs),
        **counts,
        "not_reached": len(jobs) - len(ordered),
        "files": [
            {
                "input": str(result.job.source),
                "output": str(result.job.output),
                "report": str(result.job.report),
                "state": result.state,
                "seconds": round(result.seconds, 3),
                "worker": result.worker,
                "attempts": result.attempts,
                **result.figures,
                "error": result.error,
                "exit_code": result.exit_code,
                "traceback": result.trace,
            }
            for result in ordered
        ],
    }


def figures(document: Report) -> dict[str, Any]:
    """The figures of one report that the summary shows."""
    recovered: Mapping[str, Any] = document["fidelity"]["recovered"]
    means = {one.key: recovered[one.key]["mean"] if one.key in recovered else None for one in PLOTTED}
    return {
        "frames": document["input"]["frames"],
        "missed": recovered["missed"],
        **means,
        "audit_passed": (document.get("audit") or {}).get("passed"),
        "seconds_per_frame": document["cost"]["seconds_per_frame"],
    }


def _write_summary(path: Path, jobs: Sequence[Job], results: Sequence[Result], shard: Shard | None) -> None:
    write_atomically(path, json.dumps(summary_to_dict(jobs, results, shard), indent=1) + "\n")
