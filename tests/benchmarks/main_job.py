"""The main job on a real clip: fidelity, victim passes, time and memory for one length and for some times it.

    python -m tests.benchmarks.main_job [--clip FILE] [--seconds S] [--times N ...] [deid's own flags]

Runs `drsf deid CLIP` on the first S seconds and on N times as many, each in a process of its own, and prints what their
reports say, with the CPU seconds a frame, which do not depend on what else the machine does.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SHARED = Path(os.environ.get("DRSF_SHARED", ROOT.parent / "shared"))


def run(clip: Path, seconds: float, flags: list[str], folder: Path) -> tuple[dict, float]:
    """The report of one run, and its CPU seconds."""
    output = folder / f"out{seconds:g}.mp4"
    command = [sys.executable, "-c", "from drsf_cli.app import main; raise SystemExit(main())", "deid", str(clip)]
    command += ["-o", str(output), "--end", str(seconds), "--quiet", "--overwrite", *flags]
    before = cpu_of_children()
    subprocess.run(command, check=True, cwd=ROOT)
    return json.loads((folder / f"{output.name}.report.json").read_text()), cpu_of_children() - before


def cpu_of_children() -> float:
    """CPU seconds of the processes that ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--clip", type=Path, default=SHARED / "data" / "talking_720p.mp4")
    parser.add_argument("--seconds", type=float, default=1.72)
    parser.add_argument("--times", type=float, nargs="*", default=[10.0])
    arguments, flags = parser.parse_known_args()
    peaks = []
    with tempfile.TemporaryDirectory() as folder:
        for times in (1.0, *arguments.times):
            report, spent = run(arguments.clip, arguments.seconds * times, flags, Path(folder))
            recovered, cost = report["fidelity"]["recovered"], report["cost"]
            errors = ", ".join(
                f"{key} {recovered[key]['mean']:.3f}" for key in ("iou", "nme", "gaze_deg") if key in recovered
            )
            peaks.append(cost["peak_memory_mb"])
            print(
                f"{report['input']['frames']} frames: {errors}, missed {recovered['missed']}; "
                f"{cost['victim_passes_per_frame']:.1f} passes and {cost['seconds_per_frame']:.3f} s a frame "
                f"({spent / report['input']['frames']:.3f} of CPU), "
                f"{peaks[-1]:.0f} MB",
                flush=True,
            )
    print(f"memory grows by {100 * (peaks[-1] / peaks[0] - 1):.1f} %")


if __name__ == "__main__":
    main()
