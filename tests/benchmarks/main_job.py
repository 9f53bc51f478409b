"""The main job on a real clip: fidelity, victim passes a frame, and memory for one length and for ten times it.

    python -m tests.benchmarks.main_job [--clip FILE] [--seconds S] [--times N] [deid's own flags]

Runs `drsf deid CLIP --codec ffv1` on the first S seconds and on N times as many, each in a process of its own, and
prints what their reports say.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SHARED = Path(os.environ.get("DRSF_SHARED", ROOT.parent / "shared"))


def run(clip: Path, seconds: float, flags: list[str], folder: Path) -> dict:
    """The report of one run."""
    output = folder / f"out{seconds:g}.mkv"
    command = [sys.executable, "-c", "from drsf_cli.app import main; raise SystemExit(main())", "deid", str(clip)]
    command += ["-o", str(output), "--end", str(seconds), "--codec", "ffv1", "--quiet", "--overwrite", *flags]
    subprocess.run(command, check=True, cwd=ROOT)
    return json.loads((folder / f"{output.name}.report.json").read_text())


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--clip", type=Path, default=SHARED / "data" / "talking_720p.mp4")
    parser.add_argument("--seconds", type=float, default=1.72)
    parser.add_argument("--times", type=float, default=10.0)
    arguments, flags = parser.parse_known_args()
    peaks = []
    with tempfile.TemporaryDirectory() as folder:
        for seconds in (arguments.seconds, arguments.seconds * arguments.times):
            report = run(arguments.clip, seconds, flags, Path(folder))
            recovered, cost = report["fidelity"]["recovered"], report["cost"]
            errors = ", ".join(
                f"{key} {recovered[key]['mean']:.3f}" for key in ("iou", "nme", "gaze_deg") if key in recovered
            )
            peaks.append(cost["peak_memory_mb"])
            print(
                f"{report['input']['frames']} frames: {errors}, missed {recovered['missed']}; "
                f"{cost['victim_passes_per_frame']:.1f} passes and {cost['seconds_per_frame']:.2f} s a frame, "
                f"{peaks[-1]:.0f} MB",
                flush=True,
            )
    print(f"memory grows by {100 * (peaks[1] / peaks[0] - 1):.1f} %")


if __name__ == "__main__":
    main()
