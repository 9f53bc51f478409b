"""Many inputs on the workers of a Ray cluster (extra `drsf[ray]`).

Each worker is an actor that keeps the models loaded and does one job at a time with `process`, as one process would. A
job whose worker is lost is given to another, once. All nodes must see the inputs and the outputs under the same paths.
"""

from __future__ import annotations

import logging
import os
import socket
import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from drsf_cli.batch import ModelShelf, Result, Watch, process
from drsf_cli.outputs import Job
from drsf_cli.resume import clear_leftovers
from drsf_cli.settings import DeidSettings
from export.session import usable_cpus
from weights.errors import DrsfError, InputError, UsageError

POLL_S = 0.25
"""How often workers tell, and the driver looks, how far they are."""
START_S = 300.0
"""How long the driver waits for a worker while there is none."""
ATTEMPTS = 2
"""How often a job is begun before it is given up."""
_STORE_BYTES = 100 * 1024**2  # only results pass through the object store


class Worker:
    """Does jobs, one at a time. Runs on a node of the cluster."""

    def __init__(self, folder: str, threads: int, board: Any) -> None:
        import ray

        # host, node of the cluster, process
        node = ray.get_runtime_context().get_node_id()
        self.name = f"{socket.gethostname()}-{node[:6]}/{os.getpid()}"
        self._folder, self._threads, self._board = folder, threads, board
        self._shelf = ModelShelf()

    def start(self, settings: DeidSettings | None) -> DrsfError | None:
        """Get ready, with the models of `settings` loaded. Returns what is in the way."""
        try:
            os.chdir(self._folder)
        except OSError as error:
            return InputError(
                f"{self._folder} is not there on {self.name} ({error.strerror}); every node must see the same folders."
            )
        torch.set_num_threads(self._threads)
        try:
            if settings is not None:
                self._shelf.get(settings)
        except DrsfError as error:
            return error
        return None

    def process(self, job: Job, resume: bool) -> Result:
        return process(job, self._shelf, resume, _Posting(self._board, self.name, job.source.name), self.name)


class _Posting:
    """A job's progress, told to the board, but not more often than it is read."""

    def __init__(self, board: Any, worker: str, name: str) -> None:
        self._board, self._worker, self._name = board, worker, name
        self._title, self._total, self._done, self._told = "", None, 0, 0.0

    def begin(self, title: str, total: int | None) -> None:
        self._title, self._total, self._done = title, total, 0  # type: ignore[assignment]
        self._tell()

    def advance(self, parts: int = 1) -> None:
        self._done += parts
        if time.monotonic() - self._told >= POLL_S:
            self._tell()

    def _tell(self) -> None:
        self._told = time.monotonic()
        self._board.post.remote(self._worker, self._name, self._title, self._done, self._total)


class Board:
    """Where workers say how far they are. Runs on the driver's node."""

    def __init__(self) -> None:
        self._steps: dict[str, tuple[str, str, int, int | None]] = {}

    def post(self, worker: str, name: str, title: str, done: int, total: int | None) -> None:
        self._steps[worker] = (name, title, done, total)

    def take(self) -> dict[str, tuple[str, str, int, int | None]]:
        """What is new since the last time."""
        steps, self._steps = self._steps, {}
        return steps


@dataclass
class _Task:
    job: Job
    attempt: int = 1


class RayEngine:
    """Runs jobs on a Ray cluster: the one at `address`, or one that is started on this machine and ended again.

    `workers`: how many; by default as many as have room, each on the cores that its jobs' `threads` asks for, by
    default as many as torch takes in this process. On a cluster with GPUs each worker gets one, unless the jobs are
    to run on the CPU.

    Raises UsageError where Ray is not installed, the cluster is not reached, or the workers have no room; DrsfError
    where no worker can start.
    """

    def __init__(self, address: str | None = None, workers: int | None = None) -> None:
        if workers is not None and workers < 1:
            raise UsageError(f"--workers {workers} is too small; it takes 1 or more.")
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is told to anybody
        try:
            import ray  # noqa: F401
        except ImportError as error:
            raise UsageError("--engine ray needs Ray, which is not installed; install drsf[ray].") from error
        self._address, self._workers = address, workers

    def run(self, jobs: Sequence[Job], resume: bool, watch: Watch) -> Iterator[Result]:
        import ray

        if not jobs:
            return
        own = not ray.is_initialized()
        if own:
            self._connect()
        pool = None
        try:
            pool = _Pool(jobs, self._workers)
            yield from pool.results(jobs, resume, watch)
        finally:
            if pool is not None:
                pool.close()
            if own:
                ray.shutdown()

    def _connect(self) -> None:
        import ray

        quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
        try:
            if self._address is None:
                ray.init(
                    "local",
                    num_cpus=usable_cpus(),
                    object_store_memory=_STORE_BYTES,
                    include_dashboard=False,
                    **quiet,
                )
            else:
                ray.init(self._address, **quiet)
        except Exception as error:  # where a node does not start in 30 s, Ray raises just that
            where = "here" if self._address is None else f"at --address {self._address}"
            reason = str(error).strip().splitlines()[0].rstrip(".")
            raise UsageError(f"no Ray cluster can be used {where} ({reason}); see ray status there.") from error


class _Pool:
    """The workers, and what each is at."""

    def __init__(self, jobs: Sequence[Job], workers: int | None) -> None:
        import ray
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        self._settings = jobs[0].settings
        uniform = len({ModelShelf.key(job.settings) for job in jobs}) == 1
        self._preload = self._settings if uniform else None
        self._threads = self._settings.threads or torch.get_num_threads()
        gpu, room = _room(self._threads, self._settings.device)
        if not room:
            raise UsageError(f"no node of the Ray cluster has {self._threads} cores; give fewer --threads.")
        if workers is not None and workers > room:
            raise UsageError(
                f"--workers {workers} of {self._threads} threads have no room on the Ray cluster, which takes {room}; "
                "give fewer, or fewer --threads."
            )
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=True)
        self._board = ray.remote(Board).options(num_cpus=0, scheduling_strategy=here).remote()
        self._remote = ray.remote(Worker).options(
            num_cpus=1 if gpu else self._threads, num_gpus=int(gpu), max_restarts=0, scheduling_strategy="SPREAD"
        )
        self._starting: dict[Any, Any] = {}
        self._idle: list[Any] = []
        self._busy: dict[Any, tuple[Any, _Task]] = {}
        for _ in range(min(workers or room, len(jobs))):
            self._make()

    def _make(self) -> None:
        worker = self._remote.remote(os.getcwd(), self._threads, self._board)
        self._starting[worker.start.remote(self._preload)] = worker

    def results(self, jobs: Sequence[Job], resume: bool, watch: Watch) -> Iterator[Result]:
        import ray

        waiting = deque(_Task(job) for job in jobs)
        last_sign = time.monotonic()
        while waiting or self._busy:
            while waiting and self._idle:
                worker, task = self._idle.pop(0), waiting.popleft()
                # whoever had it before may have left something, or have been lost only after it was done
                again = resume or task.attempt > 1
                self._busy[worker.process.remote(task.job, again)] = (worker, task)
            ready, _ = ray.wait([*self._busy, *self._starting], num_returns=1, timeout=POLL_S)
            self._pass_on(watch)
            for ref in ready:
                if ref in self._starting:
                    self._started(ref)
                    continue
                worker, task = self._busy.pop(ref)
                try:
                    result: Result = ray.get(ref)
                except ray.exceptions.RayError as error:
                    ray.kill(worker)
                    self._make()
                    if task.attempt < ATTEMPTS:
                        waiting.appendleft(_Task(task.job, task.attempt + 1))
                    else:
                        clear_leftovers(task.job)
                        yield _lost(task, error)
                    continue
                self._idle.append(worker)
                if result.state == "skipped" and not resume:
                    result = replace(result, state="done")
                yield replace(result, attempts=task.attempt)
            if self._busy or self._idle or ready:
                last_sign = time.monotonic()
            elif time.monotonic() - last_sign > START_S:
                raise DrsfError(f"no worker of the Ray cluster has started in {START_S:.0f} s; see ray status there.")

    def _started(self, ref: Any) -> None:
        import ray

        worker = self._starting.pop(ref)
        try:
            problem = ray.get(ref)
        except ray.exceptions.RayError as error:
            problem = DrsfError(f"a worker of the Ray cluster could not start ({_first_line(error)}).")
            problem.__cause__ = error
        if problem is None:
            self._idle.append(worker)
            return
        ray.kill(worker)
        if not (self._idle or self._busy or self._starting):
            raise problem

    def _pass_on(self, watch: Watch) -> None:
        import ray

        try:
            steps = ray.get(self._board.take.remote(), timeout=5 * POLL_S)
        except ray.exceptions.RayError:  # how far they are is not worth stopping for
            return
        for worker, step in steps.items():
            watch.step(worker, *step)

    def close(self) -> None:
        """End the workers; what they were at is cleared away once they are gone."""
        import ray

        for worker in [*self._idle, *self._starting.values(), *(worker for worker, _ in self._busy.values())]:
            ray.kill(worker)
        ray.kill(self._board)
        if self._busy:
            gone, _ = ray.wait(list(self._busy), num_returns=len(self._busy), timeout=20 * POLL_S)
            for ref in gone:
                clear_leftovers(self._busy[ref][1].job)


def _room(threads: int, device: str) -> tuple[bool, int]:
    """Whether workers get a GPU each, and how many find a place."""
    import ray

    held = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    gpus = int(sum(own.get("GPU", 0) for own in held))
    if gpus and device != "cpu":
        return True, gpus
    return False, int(sum(own.get("CPU", 0) // threads for own in held))


def _lost(task: _Task, error: Exception) -> Result:
    message = (
        f"{task.job.source}: its worker was lost {task.attempt} times ({_first_line(error)}); it may be short of "
        "memory, so run it again with --resume and fewer --workers."
    )
    return Result(task.job, "failed", error=message, exit_code=DrsfError.exit_code, attempts=task.attempt)


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return (lines[0] if lines else type(error).__name__).rstrip(".")
