"""Frames a second of the whole command, by stage, beside deface on the same clip.

    python -m tests.benchmarks.speed [--sizes 640x480 1280x720 1920x1080] [--efforts fast normal] [--frames N]
                                     [--chains default mediapipe] [--device cuda] [--threads N]

Each size is a demo clip of N frames. `drsf deid` runs with models loaded already; deface is a command of its own, whose
start (a run on two frames) is taken off. Prints a Markdown table: frames a second, CPU seconds a frame of all cores,
seconds a frame of each stage, and the time as a multiple of deface's. `--device cuda` takes under four minutes with the
defaults. A chain whose weights are not here is left out, with a line.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

from drsf_cli.batch.dry_run import Stopwatch
from drsf_cli.deid.pipeline import deidentify
from drsf_cli.media.demo_clip import make_demo_clip
from drsf_cli.progress import Silent
from drsf_cli.readers.models import Models
from drsf_cli.settings import DeidSettings, VictimNames
from weights.errors import WeightsError

SHORT = 2
"""Frames of a run that tells what starting deface costs."""


def deface_seconds(folder: Path, size: tuple[int, int], frames: int) -> float:
    """Wall time a frame of deface, without its start."""
    spent = []
    for count in (SHORT, frames):
        clip = make_demo_clip(folder / f"deface{count}.mp4", count / 25, size=size, overwrite=True)
        command = [str(Path(sys.executable).parent / "deface"), str(clip), "-o", str(folder / "deface-out.mp4")]
        began = time.monotonic()
        subprocess.run(command, check=True, capture_output=True)
        spent.append(time.monotonic() - began)
    return (spent[1] - spent[0]) / (frames - SHORT)


def row(clip: Path, chain: str, effort: str, arguments: argparse.Namespace, models: Models, other: float) -> str:
    """One run of drsf as a row of the table; `other` is deface's time a frame."""
    watch = Stopwatch(Silent())
    with tempfile.TemporaryDirectory() as folder:
        settings = DeidSettings(VictimNames.of_chain(chain), effort=effort, device=arguments.device, repel=("none",))
        began, cpu = time.monotonic(), time.process_time()
        report = deidentify(clip, Path(folder) / "out.mp4", settings, models=models, progress=watch)
        seconds, cpu = time.monotonic() - began, time.process_time() - cpu
    watch.stop()
    frames = report["input"]["frames"]
    stages = "; ".join(f"{title.lower()} {step.ended / frames:.3f}" for title, step in watch.steps.items())
    passes = report["cost"]["victim_passes_per_frame"]
    size = f"{report['input']['width']}x{report['input']['height']}"
    times = seconds / frames / other if other else float("nan")
    return (
        f"| {size} | {chain} | {effort} | {frames / seconds:.2f} | {cpu / frames:.2f} | {passes:.1f} | {times:.1f} | "
        f"{stages} |"
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("--sizes", nargs="*", default=["640x480", "1280x720", "1920x1080"])
    parser.add_argument("--efforts", nargs="*", default=["fast", "normal"])
    parser.add_argument("--chains", nargs="*", default=["default", "mediapipe"])
    parser.add_argument("--frames", type=int, default=24)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, help="torch's; default: one for each core")
    arguments = parser.parse_args()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    print("| size | chain | effort | frames/s | CPU s a frame | passes | times deface's | s a frame of each stage |")
    print("|---|---|---|---|---|---|---|---|", flush=True)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for text in arguments.sizes:
            width, height = (int(part) for part in text.split("x"))
            clip = make_demo_clip(folder / f"{text}.mp4", arguments.frames / 25, size=(width, height))
            other = deface_seconds(folder, (width, height), arguments.frames)
            for chain in arguments.chains:
                try:
                    models = Models.load(VictimNames.of_chain(chain), arguments.device)
                except WeightsError as error:
                    print(f"| {text} | {chain} | left out: {error} |", flush=True)
                    continue
                for effort in arguments.efforts:
                    print(row(clip, chain, effort, arguments, models, other), flush=True)
            print(f"| {text} | | *deface* | {1 / other:.2f} | | | 1 | |", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
