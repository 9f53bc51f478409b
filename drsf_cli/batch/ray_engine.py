"""Many inputs on the workers of a Ray cluster (extra `drsf[ray]`).

Each worker (drsf_cli/batch/ray_worker.py) is an actor that keeps the models loaded and does one task at a time: a whole
job, or a step of a job that is longer than a segment. The task of a worker that is lost is given to another, once. All
nodes must see the inputs and the outputs under the same paths.

The driver holds only references to the results of a long job; perturbations go through hidden files beside the output.
"""

from __future__ import annotations

import logging
import os
import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from drsf_cli.batch.jobs import Job
from drsf_cli.batch.ray_tasks import Task, first_line
from drsf_cli.batch.ray_worker import Board, Worker
from drsf_cli.batch.resume import clear_leftovers
from drsf_cli.batch.run import Result, Watch
from drsf_cli.readers.models import Models
from export.session import usable_cpus
from export.waiting import PASSIVE_WAITING
from weights.errors import DrsfError, UsageError

POLL_S = 0.25
"""How often the driver asks for the workers' progress."""
START_S = 300.0
"""How long the driver waits for a worker while there is none."""
_STORE_BYTES = 100 * 1024**2  # only results pass through the object store


class RayEngine:
    """Runs jobs on a Ray cluster: the one at `address`, or a temporary one on this machine.

    `workers`: the number of workers; by default as many as there is room for. Each worker gets as many cores as its
    jobs' `threads`, by default as many as this process may run on. On a cluster with GPUs each worker gets one GPU,
    unless the jobs are to run on the CPU.

    Raises UsageError if Ray is not installed, the cluster cannot be reached, or there is no room for the workers;
    DrsfError if no worker can start.
    """

    def __init__(self, address: str | None = None, workers: int | None = None) -> None:
        if workers is not None and workers < 1:
            raise UsageError(f"--engine ray:{workers} has too few workers; it takes 1 or more.")
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # drsf sends no telemetry
        try:
            import ray  # noqa: F401
        except ImportError as error:
            raise UsageError("--engine ray needs Ray, which is not installed; install drsf[ray].") from error
        self._address, self._workers = address, workers

    def run(self, jobs: Sequence[Job], resume: bool, watch: Watch) -> Iterator[Result]:
        """See Engine; results come in the order in which jobs end."""
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
                    "local", num_cpus=usable_cpus(), object_store_memory=_STORE_BYTES, include_dashboard=False, **quiet
                )
            else:
                ray.init(self._address, **quiet)
        except Exception as error:  # where a node does not start in 30 s, Ray raises just that
            where = "here" if self._address is None else f"at {self._address} (--engine ray@HOST:PORT)"
            reason = str(error).strip().splitlines()[0].rstrip(".")
            raise UsageError(f"no Ray cluster can be used {where} ({reason}); see ray status there.") from error


class _Pool:
    """The workers, and the task of each."""

    def __init__(self, jobs: Sequence[Job], workers: int | None) -> None:
        import ray
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        self._settings = jobs[0].settings
        uniform = len({Models.key(job.settings) for job in jobs}) == 1
        self._preload = self._settings if uniform else None
        self._threads = self._settings.threads or usable_cpus()
        gpu, room = _room(self._threads, self._settings.device)
        if not room:
            raise UsageError(f"no node of the Ray cluster has {self._threads} cores; give fewer --threads.")
        if workers is not None and workers > room:
            raise UsageError(
                f"--engine ray:{workers}: so many workers have no room on the cluster, which has room for {room} with "
                f"{self._threads} threads each; give fewer workers, or fewer --threads."
            )
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=True)
        self._board = ray.remote(Board).options(num_cpus=0, scheduling_strategy=here).remote()
        self._remote = ray.remote(Worker).options(
            num_cpus=1 if gpu else self._threads,
            num_gpus=int(gpu),
            max_restarts=0,
            scheduling_strategy="SPREAD",
            # a worker's threads wait as this process's do (export/waiting.py)
            runtime_env={"env_vars": {name: os.environ[name] for name in PASSIVE_WAITING if name in os.environ}},
        )
        self._starting: dict[Any, Any] = {}
        self._idle: list[Any] = []
        self._busy: dict[Any, tuple[Any, Task]] = {}
        self._waiting: deque[Task] = deque()
        self._most = workers or room

    def _make(self) -> None:
        """Start workers for what is waiting, as many as have room."""
        there = len(self._idle) + len(self._busy) + len(self._starting)
        for _ in range(min(len(self._waiting) - len(self._idle) - len(self._starting), self._most - there)):
            worker = self._remote.remote(os.getcwd(), self._threads, self._board)
            self._starting[worker.start.remote(self._preload)] = worker

    def results(self, jobs: Sequence[Job], resume: bool, watch: Watch) -> Iterator[Result]:
        """The result of each job, in the order in which they end. Raises DrsfError where no worker starts."""
        import ray

        self._waiting.extend(Task(job, may_split=self._most > 1) for job in jobs)
        last_sign = time.monotonic()
        while self._waiting or self._busy:
            self._give_out(resume)
            if not (self._waiting or self._busy):
                return
            self._make()
            ready, _ = ray.wait([*self._busy, *self._starting], num_returns=1, timeout=POLL_S)
            self._pass_on(watch)
            for ref in ready:
                outcome = self._started(ref) if ref in self._starting else self._ended(ref)
                if isinstance(outcome, Result):
                    yield replace(outcome, state="done") if outcome.state == "skipped" and not resume else outcome
                else:
                    self._waiting.extendleft(reversed(outcome))
            if self._busy or self._idle or ready:
                last_sign = time.monotonic()
            elif time.monotonic() - last_sign > START_S:
                raise DrsfError(f"no worker of the Ray cluster has started in {START_S:.0f} s; see ray status there.")

    def _give_out(self, resume: bool) -> None:
        """Give what is waiting to the workers that are idle."""
        while self._waiting and self._idle:
            task = self._waiting.popleft()
            if task.long is None or task.long.instead is None:  # else it was given up meanwhile
                worker = self._idle.pop(0)
                self._busy[task.begin(worker, resume)] = (worker, task)

    def _ended(self, ref: Any) -> list[Task] | Result:
        """What comes next after a worker's task ended, or the worker was lost."""
        import ray

        worker, task = self._busy.pop(ref)
        try:
            value = ray.get(ref)
        except ray.exceptions.RayError as error:
            ray.kill(worker)
            return task.lost(error, isinstance(error, ray.exceptions.ObjectLostError))
        self._idle.append(worker)
        return task.ended(value)

    def _started(self, ref: Any) -> list[Task]:
        """Take a worker in that has started, or let it go. No task follows from it."""
        import ray

        worker = self._starting.pop(ref)
        try:
            problem = ray.get(ref)
        except ray.exceptions.RayError as error:
            problem = DrsfError(f"a worker of the Ray cluster could not start ({first_line(error)}).")
            problem.__cause__ = error
        if problem is None:
            self._idle.append(worker)
            return []
        ray.kill(worker)
        self._most -= 1
        if not (self._idle or self._busy or self._starting):
            raise problem
        return []

    def _pass_on(self, watch: Watch) -> None:
        import ray

        try:
            steps = ray.get(self._board.take.remote(), timeout=5 * POLL_S)
        except ray.exceptions.RayError:  # progress is not worth stopping for
            return
        for worker, step in steps.items():
            watch.step(worker, *step)

    def close(self) -> None:
        """End the workers, and then remove what their unfinished tasks left."""
        import ray

        for worker in [*self._idle, *self._starting.values(), *(worker for worker, _ in self._busy.values())]:
            ray.kill(worker)
        ray.kill(self._board)
        gone: list[Any] = []
        if self._busy:
            gone, _ = ray.wait(list(self._busy), num_returns=len(self._busy), timeout=20 * POLL_S)
        at_work = [self._busy[ref][1] for ref in gone]
        for task in at_work:
            clear_leftovers(task.job)
        for task in (*at_work, *self._waiting):
            if task.long is not None:
                task.long.clear()


def _room(threads: int, device: str) -> tuple[bool, int]:
    """Whether each worker gets a GPU, and how many workers there is room for."""
    import ray

    held = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    gpus = int(sum(own.get("GPU", 0) for own in held))
    if gpus and device != "cpu":
        return True, gpus
    return False, int(sum(own.get("CPU", 0) // threads for own in held))
