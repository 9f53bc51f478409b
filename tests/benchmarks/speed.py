"""Frames a second of the whole command, by stage, beside deface on the same clip.

    python -m tests.benchmarks.speed [--sizes 640x480 1280x720 1920x1080] [--efforts fast normal] [--frames N]
                                     [--chains default mediapipe] [--device cuda] [--threads N]

Each size is a demo clip of N frames. `drsf deid` runs on two frames first, to load the models; deface is a command
of its own, whose start (a run on two frames) is taken off. Prints a Markdown table: frames a second, seconds and CPU
seconds a frame, cores busy, the time as a multiple of deface's, and of each stage seconds a frame and cores busy.
`--device cuda` takes under four minutes with the defaults. A chain whose weights are not here is left out, with a line.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from drsf_cli.batch.dry_run import Stopwatch
from drsf_cli.commands.options import one_thread_each
from drsf_cli.deid.pipeline import deidentify
from drsf_cli.media.demo_clip import make_demo_clip
from drsf_cli.progress import Silent
from drsf_cli.readers.models import Models
from drsf_cli.settings import DeidSettings, VictimNames
from weights.errors import WeightsError

SHORT = 2
"""Frames of a run that loads the models, or tells what starting deface costs."""


def cpu_seconds() -> float:
    """Of this process and of those that it ended."""
    return sum(os.times()[:4])


def deface_seconds(folder: Path, frames: int) -> float:
    """Wall time a frame of deface, without its start."""
    spent = []
    for count in (SHORT, frames):
        clip = folder / f"{count}.mp4"
        command = [str(Path(sys.executable).parent / "deface"), str(clip), "-o", str(folder / "deface-out.mp4")]
        began = time.monotonic()
        subprocess.run(command, check=True, capture_output=True)
        spent.append(time.monotonic() - began)
    return (spent[1] - spent[0]) / (frames - SHORT)


def row(clip: Path, settings: DeidSettings, models: Models, other: float) -> str:
    """One run of drsf as a row of the table; `other` is deface's time a frame."""
    busy = Stopwatch(Silent(), cpu_seconds)
    watch = Stopwatch(busy)
    with tempfile.TemporaryDirectory() as folder:
        deidentify(clip.parent / f"{SHORT}.mp4", Path(folder) / "short.mp4", settings, models=models)
        began, cpu = time.monotonic(), cpu_seconds()
        report = deidentify(clip, Path(folder) / "out.mp4", settings, models=models, progress=watch)
        seconds, cpu = time.monotonic() - began, cpu_seconds() - cpu
    watch.stop()
    busy.stop()
    frames = report["input"]["frames"]
    stages = "; ".join(
        f"{title.lower()} {step.ended / frames:.3f} ({busy.steps[title].ended / step.ended:.1f})"
        for title, step in watch.steps.items()
    )
    chain, effort = settings.victims.detector, settings.effort
    passes = report["cost"]["victim_passes_per_frame"]
    size = f"{report['input']['width']}x{report['input']['height']}"
    times = seconds / frames / other if other else float("nan")
    return (
        f"| {size} | {chain} | {effort} | {frames / seconds:.2f} | {seconds / frames:.2f} | {cpu / frames:.2f} | "
        f"{cpu / seconds:.2f} | {passes:.1f} | {times:.1f} | {stages} |"
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("--sizes", nargs="*", default=["640x480", "1280x720", "1920x1080"])
    parser.add_argument("--efforts", nargs="*", default=["fast", "normal"])
    parser.add_argument("--chains", nargs="*", default=["default", "mediapipe"])
    parser.add_argument("--frames", type=int, default=24)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, help="cores of drsf's; default: all")
    arguments = parser.parse_args()
    one_thread_each()
    columns = "frames/s | s a frame | CPU s a frame | cores | passes | times deface's | each stage, s a frame (cores)"
    print(f"| size | detector | effort | {columns} |\n|{'---|' * 10}", flush=True)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for text in arguments.sizes:
            width, height = (int(part) for part in text.split("x"))
            for count in (SHORT, arguments.frames):
                clip = make_demo_clip(folder / f"{count}.mp4", count / 25, size=(width, height), overwrite=True)
            other = deface_seconds(folder, arguments.frames)
            for chain in arguments.chains:
                try:
                    models = Models.load(VictimNames.of_chain(chain), arguments.device, threads=arguments.threads)
                except WeightsError as error:
                    print(f"| {text} | {chain} | left out: {error} |", flush=True)
                    continue
                for effort in arguments.efforts:
                    settings = DeidSettings(
                        VictimNames.of_chain(chain), effort=effort, device=arguments.device, repel=("none",)
                    )
                    print(row(clip, settings, models, other), flush=True)
            print(f"| {text} | | *deface* | {1 / other:.2f} | {other:.2f} | | | | 1 | |", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
