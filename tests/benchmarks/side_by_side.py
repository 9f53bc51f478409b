"""Two runs beside each other: how much longer each takes than one alone on the same cores.

    python -m tests.benchmarks.side_by_side [--frames 6]

Each run is `drsf deid` with its defaults on the demo clip, a process of its own. Threads that spin while they wait take
the cores from the other run; with threads that sleep (export/waiting.py) two runs on two cores take about what they
would one after the other.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from drsf_cli.media.demo_clip import make_demo_clip
from export.waiting import PASSIVE_WAITING


def seconds_each(clip: Path, folder: Path, runs: int, environment: dict[str, str]) -> list[float]:
    """Wall-clock seconds of each of `runs` processes that start together."""
    started = time.monotonic()
    processes = []
    for number in range(runs):
        output = folder / f"out_{runs}_{number}.mp4"
        command = [sys.executable, "-m", "drsf_cli", "deid", str(clip), "-o", str(output), "--overwrite", "--quiet"]
        processes.append(subprocess.Popen(command, env=environment))
    ended = [0.0] * runs
    while not all(ended):
        for number, process in enumerate(processes):
            if not ended[number] and process.poll() is not None:
                ended[number] = time.monotonic() - started
        time.sleep(0.05)
    if any(process.returncode for process in processes):
        raise SystemExit("a run failed")
    return ended


def main() -> None:
    """Print the seconds of one run and of two, with threads that sleep and with threads as OpenMP has them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, default=6)
    parser.add_argument("--spinning", action="store_true", help="Measure threads that spin, too.")
    options = parser.parse_args()
    quiet = {name: value for name, value in os.environ.items() if name not in PASSIVE_WAITING}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        clip = make_demo_clip(folder / "clip.mp4", seconds=options.frames / 25, fps=25)
        ways = {"sleeping": quiet}
        if options.spinning:
            ways["spinning"] = quiet | {"OMP_WAIT_POLICY": "ACTIVE"}
        for way, environment in ways.items():
            (alone,) = seconds_each(clip, folder, 1, environment)
            both = seconds_each(clip, folder, 2, environment)
            print(
                f"{way}: alone {alone:.1f} s, two beside each other {both[0]:.1f} and {both[1]:.1f} s each, "
                f"{max(both) / alone:.2f} times as long"
            )


if __name__ == "__main__":
    main()
