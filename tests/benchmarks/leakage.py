"""What others read from talking_720p.mp4, with and without --repel.

    python -m tests.benchmarks.leakage [--folder DIR] [--start S] [--end S] [--only RUN ...] [--table]

Each run is `drsf deid` with one of the `RUNS`, then `drsf audit` of what it wrote, in processes of their own. What is
in DIR already is not made again, so the runs can be spread over time; `--table` makes nothing and prints the table of
those that are there. The two weight files must be in the shared folder.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from tests.benchmarks.main_job import ROOT, SHARED

OTHER = f"retinaface@{SHARED / 'weights' / 'retinaface_mobilenet0.25_other_training_run.pth'}"
OFFICIAL = f"retinaface@{SHARED / 'weights' / 'retinaface_mobilenet0.25.pth'}"
MPIIGAZE = f"mpiigaze@{SHARED / 'weights' / 'mpiigaze_resnet_preact.pth'}"

RUNS: dict[str, list[str]] = {
    "retinaface": ["-d", OFFICIAL, "--repel", "none"],
    "retinaface, repelling": ["-d", OFFICIAL, "--repel", f"mtcnn,{OTHER},{MPIIGAZE}"],
    "mtcnn": ["-d", "mtcnn", "--repel", "none"],
    "mtcnn, repelling": ["-d", "mtcnn", "--repel", f"{OFFICIAL},{OTHER},{MPIIGAZE}"],
}
"""Name -> flags of `drsf deid`."""
AGAINST = {"retinaface": f"mtcnn,{OTHER},{MPIIGAZE},lbp-cascade", "mtcnn": f"{OFFICIAL},{OTHER},{MPIIGAZE},lbp-cascade"}
SHORT = {
    OTHER: "RetinaFace, other training run",
    OFFICIAL: "RetinaFace, official weights",
    MPIIGAZE: "MPIIGaze",
    "mtcnn": "MTCNN",
    "lbp-cascade": "LBP cascade",
    "authorised chain": "*authorised chain*",
}
CELLS = (
    ("detected", 100.0, "{:.0f} %"),
    ("iou", 1.0, "{:.2f}"),
    ("nme", 1.0, "{:.1f} %"),
    ("gaze_deg", 1.0, "{:.1f}°"),
)


def drsf(*arguments: str) -> None:
    command = [sys.executable, "-c", "from drsf_cli.main import main; raise SystemExit(main())", *arguments]
    subprocess.run(command, check=True, cwd=ROOT)


def files(folder: Path, run: str) -> tuple[Path, Path, Path]:
    """The written clip, its report, its audit."""
    output = folder / f"{run.replace(', ', '_')}.mp4"
    return output, folder / f"{output.name}.report.json", folder / f"{output.name}.leakage.json"


def make(folder: Path, run: str, clip: Path, start: str, end: str, flags: list[str]) -> None:
    output, report, audited = files(folder, run)
    if not report.is_file():
        own = [*RUNS[run], "--start", start, "--end", end, *flags]
        drsf("deid", str(clip), "-o", str(output), "--allow-unknown-weights", "--overwrite", "-q", *own)
    if not audited.is_file():
        against = AGAINST[run.split(",")[0]]
        drsf("audit", str(clip), str(output), "--against", against, "--json", str(audited), "-q")


def table(folder: Path) -> str:
    """Markdown. In each cell: obscured only → obscured + attacked."""
    lines = [
        "| authorised | model | seen | box IoU | landmarks, NME | gaze |",
        "|---|---|---|---|---|---|",
    ]
    costs = []
    for run in RUNS:
        _, report_file, audited = files(folder, run)
        if not audited.is_file():
            continue
        report, document = (json.loads(path.read_text()) for path in (report_file, audited))
        for row in document["models"]:
            name = SHORT.get(row["name"], row["name"]) + (" (repelled)" if row["repelled"] else "")
            lines.append(" | ".join([f"| {run}", name, *(cell(row, *spec) for spec in CELLS)]) + " |")
        cost = report["cost"]
        costs.append(
            f"* {run}: {document['frames_looked_at']} frames, {cost['victim_passes_per_frame']:.1f} victim passes, "
            f"{cost['victim_checks_per_frame']:.1f} checks, {cost['seconds_per_frame']:.1f} s a frame"
        )
    return "\n".join([*lines, "", *costs])


def cell(row: dict[str, Any], key: str, factor: float, form: str) -> str:
    if key not in row["leakage"]:
        return ""
    values = [row["columns"][column][key] for column in ("obscured", "written")]
    return " → ".join("nothing" if value is None else form.format(factor * value) for value in values)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("clip", nargs="?", type=Path, default=SHARED / "data" / "talking_720p.mp4")
    parser.add_argument("--folder", type=Path, help="keep what is made here")
    parser.add_argument("--start", default="4")
    parser.add_argument("--end", default="5")
    parser.add_argument("--only", nargs="*", choices=list(RUNS), default=list(RUNS))
    parser.add_argument("--table", action="store_true", help="make nothing")
    arguments, flags = parser.parse_known_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        for run in [] if arguments.table else arguments.only:
            make(folder, run, arguments.clip, arguments.start, arguments.end, flags)
        print(table(folder))


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main()
