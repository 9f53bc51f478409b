"""What a second worker brings, what an engine costs a file, and what a worker holds in memory.

    python -m tests.benchmarks.scaling [--files N] [--seconds S] [--rounds R] [--attack RULE] [--segments N]

Clips of the public-domain portrait, 320x240, one thread a worker. Each round does all files with one process, then
with one and with two Ray workers, so that what else runs on the machine meets them alike; ratios are taken within a
round, and their median is printed. The clock starts when the first file is begun: starting Ray and loading the models
is printed by itself. Then one longer file is done by one process and, in segments of 2 s, by two workers, with the
default attack.

The default sizes are small, so that it ends within minutes; longer clips weigh what is done once a file less.
"""

from __future__ import annotations

import argparse
import json
import logging
import statistics
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import psutil
import torch

from drsf_cli.batch.jobs import Job
from drsf_cli.batch.ray_engine import RayEngine
from drsf_cli.batch.run import Engine, Local, Result, run_batch
from drsf_cli.media.demo_clip import make_demo_clip
from drsf_cli.media.files import report_path
from drsf_cli.settings import DeidSettings


@dataclass
class Run:
    start: float
    "s from the call to the begin of the first file"
    work: float
    "s from there to the end of the last"
    between: float
    "s a file between the end of one and the begin of the next, with one worker"
    peaks: dict[str, float]
    "worker -> most memory it ever had, MB"
    own: dict[str, float]
    "worker -> memory that is its alone, at the end of its last file, MB"
    late: float
    "s from the begin of the first file to the first sign of the last worker"


class Clock:
    def __init__(self) -> None:
        self.ends: list[tuple[float, Result]] = []
        self.own: dict[str, float] = {}
        self.signs: dict[str, float] = {}

    def step(self, worker: str, *told: object) -> None:
        self.signs.setdefault(worker, time.monotonic())

    def result(self, result: Result) -> None:
        self.ends.append((time.monotonic(), result))
        if result.error:
            raise SystemExit(result.error)
        pid = int(result.worker.rpartition("/")[2] or psutil.Process().pid)
        self.own[result.worker or "this process"] = psutil.Process(pid).memory_full_info().uss / 2**20


def measure(engine: Engine, clips: list[Path], folder: Path, settings: DeidSettings) -> Run:
    jobs = [Job(clip, folder / clip.name, settings, report_path(folder / clip.name)) for clip in clips]
    clock, began = Clock(), time.monotonic()
    run_batch(jobs, engine, clock)
    first = min(end - result.seconds for end, result in clock.ends)
    last = max(end for end, _ in clock.ends)
    gaps = (
        [0.0]
        if len(clips) == 1
        else [
            end - before - result.seconds
            for (before, _), (end, result) in zip(clock.ends, clock.ends[1:], strict=False)
        ]
    )
    peaks: dict[str, float] = {}
    for _, result in clock.ends:
        peak = json.loads(result.job.report.read_text())["cost"]["peak_memory_mb"]
        name = result.worker or "this process"
        peaks[name] = max(peaks.get(name, 0.0), peak)
    return Run(first - began, last - first, statistics.mean(gaps), peaks, clock.own, max(clock.signs.values()) - first)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--files", type=int, default=6)
    parser.add_argument("--seconds", type=float, default=0.48)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--attack", default="none")
    parser.add_argument("--segments", type=int, default=4)
    arguments = parser.parse_args()
    import ray

    frames = round(arguments.seconds * 25)
    print(f"{arguments.files} files of {frames} frames, --attack {arguments.attack}, {arguments.rounds} rounds")
    torch.set_num_threads(1)
    settings = DeidSettings(attack=arguments.attack, threads=1)
    ray.init("local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
    engines: dict[str, Engine] = {
        "one process": Local(),
        "1 worker": RayEngine(None, 1),
        "2 workers": RayEngine(None, 2),
    }
    runs: dict[str, list[Run]] = {name: [] for name in engines}
    with tempfile.TemporaryDirectory() as place:
        clips = [Path(place) / f"{number}.mp4" for number in range(arguments.files)]
        for number, clip in enumerate(clips):
            make_demo_clip(clip, seconds=arguments.seconds, size=(320, 240), seed=number)
        for number in range(arguments.rounds):
            for name, engine in engines.items():
                folder = Path(place) / f"{name} {number}"
                folder.mkdir()
                runs[name].append(measure(engine, clips, folder, settings))
                run = runs[name][-1]
                print(
                    f"round {number + 1}, {name}: {run.start:.1f} s to start, {run.work:.1f} s for {len(clips)} files, "
                    f"memory at most {', '.join(f'{peak:.0f}' for peak in run.peaks.values())} MB, "
                    f"own {', '.join(f'{own:.0f}' for own in run.own.values())} MB",
                    flush=True,
                )
        long = Path(place) / "long.mp4"
        make_demo_clip(long, seconds=2.0 * arguments.segments, fps=5, size=(320, 240))
        whole = DeidSettings(threads=1, segment=2.0)
        times: dict[str, float] = {}
        late = 0.0
        for name in ("one process", "2 workers"):
            folder = Path(place) / f"long {name}"
            folder.mkdir()
            run = measure(engines[name], [long], folder, whole)
            times[name], late = run.work, run.late
        same = [(Path(place) / f"long {name}" / long.name).read_bytes() for name in times]
    one, single, double = runs.values()

    def ratio(above: list[Run], below: list[Run]) -> str:
        found = [a.work / b.work for a, b in zip(above, below, strict=True)]
        return f"{statistics.median(found):.2f} ({min(found):.2f} to {max(found):.2f})"

    print(f"2 workers against 1: {ratio(single, double)} times as fast")
    print(f"1 worker against one process: {ratio(single, one)} times the time")
    for name, found in (("one process", one), ("1 worker", single)):
        print(f"{name}: {1000 * statistics.median(run.between for run in found):.1f} ms a file between files")
    print(
        f"one file of {10 * arguments.segments} frames in {arguments.segments} segments, --attack {whole.attack}: "
        + ", ".join(f"{seconds:.1f} s with {name}" for name, seconds in times.items())
        + f" (the second was ready after {late:.1f} s); {times['one process'] / times['2 workers']:.2f} times as fast, "
        + ("the same bytes" if same[0] == same[1] else "OTHER BYTES")
    )


if __name__ == "__main__":
    main()
