"""What others read from talking_720p.mp4, with and without --repel.

    python -m tests.benchmarks.leakage [--folder DIR] [--forks DIR] [--start S] [--end S] [--only RUN ...] [--table]

Each run is `drsf deid` with one of the `RUNS`, then `drsf audit` of what it wrote, in processes of their own. What is
in DIR already is not made again, so the runs can be spread over time; `--table` makes nothing and prints the table of
those that are there. The three weight files must be in the shared folder. `--forks` is the folder in which
tests.benchmarks.fork kept its forks; without it the runs for forks are left out.
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

from drsf_cli.readers.table import READERS
from tests.benchmarks.main_job import ROOT, SHARED
from weights.errors import WeightsError

OTHER = f"retinaface@{SHARED / 'weights' / 'retinaface_mobilenet0.25_other_training_run.pth'}"
OFFICIAL = f"retinaface@{SHARED / 'weights' / 'retinaface_mobilenet0.25.pth'}"
MPIIGAZE = f"mpiigaze@{SHARED / 'weights' / 'mpiigaze_resnet_preact.pth'}"

FAN_FORK, GAZE_FORK = "fan-compact@{forks}/fan-compact-0.safetensors", "gaze-compact@{forks}/gaze-compact-0.safetensors"
OTHER_FAN_FORK = "fan-compact@{forks}/fan-compact-1.safetensors"
PUBLIC = "fan-compact,gaze-compact"
DETECTORS = f"{OTHER},{MPIIGAZE}"

RUNS: dict[str, tuple[list[str], str]] = {
    "retinaface": (["-d", OFFICIAL, "--repel", "none"], f"mtcnn,{DETECTORS}"),
    "retinaface, repelling": (["-d", OFFICIAL, "--repel", f"mtcnn,{DETECTORS}"], f"mtcnn,{DETECTORS}"),
    "mtcnn": (["-d", "mtcnn", "--repel", "none"], f"{OFFICIAL},{DETECTORS}"),
    "mtcnn, repelling": (["-d", "mtcnn", "--repel", f"{OFFICIAL},{DETECTORS}"], f"{OFFICIAL},{DETECTORS}"),
    "forks": (["-d", "mtcnn", "-a", FAN_FORK, "-z", GAZE_FORK, "--repel", "none"], PUBLIC),
    "forks, repelling": (["-d", "mtcnn", "-a", FAN_FORK, "-z", GAZE_FORK, "--repel", PUBLIC], PUBLIC),
}
"""Name -> flags of `drsf deid`, and the models whose weights it takes to read it. What is embedded for mtcnn with the
released fan-compact and gaze-compact is read with their forks as well."""
FAMILIES = ("lbp-cascade", "centerface", "dlib-hog", "dlib-trees")
"""Read every run, where they are installed."""
SHORT = {
    OTHER: "RetinaFace, other training run",
    OFFICIAL: "RetinaFace, official weights",
    MPIIGAZE: "MPIIGaze",
    "mtcnn": "MTCNN",
    "lbp-cascade": "LBP cascade",
    "centerface": "CenterFace",
    "dlib-hog": "dlib's HOG detector",
    "dlib-trees": "dlib's landmarks",
    "fan-compact": "fan-compact, released",
    "gaze-compact": "gaze-compact, released",
    FAN_FORK: "fan-compact, fork",
    OTHER_FAN_FORK: "fan-compact, another fork",
    GAZE_FORK: "gaze-compact, fork",
    "authorised chain": "*authorised chain*",
}
CELLS = (
    ("detected", 100.0, "{:.0f} %"),
    ("iou", 1.0, "{:.2f}"),
    ("nme", 1.0, "{:.1f} %"),
    ("gaze_deg", 1.0, "{:.1f}°"),
)


def drsf(*arguments: str) -> None:
    command = [sys.executable, "-c", "from drsf_cli.app import main; raise SystemExit(main())", *arguments]
    subprocess.run(command, check=True, cwd=ROOT)


def files(folder: Path, run: str) -> tuple[Path, Path, Path]:
    """The written clip, its report, its audit."""
    output = folder / f"{run.replace(', ', '_')}.mp4"
    return output, folder / f"{output.name}.report.json", folder / f"{output.name}.leakage.json"


def make(folder: Path, run: str, clip: Path, forks: Path | None, part: list[str], flags: list[str]) -> None:
    output, report, audited = files(folder, run)
    own, others = ([text.format(forks=forks) for text in RUNS[run][0]], RUNS[run][1])
    if not report.is_file():
        own = [*own, *part, *flags]
        drsf("deid", str(clip), "-o", str(output), "--allow-unknown-weights", "--overwrite", "-q", *own)
    if not audited.is_file():
        names = [*others.split(","), *(name for name in FAMILIES if is_at_hand(name))]
        if forks is not None and run.startswith("mtcnn"):
            names += [FAN_FORK, GAZE_FORK]
        elif forks is not None and run.startswith("forks"):
            names += [OTHER_FAN_FORK] if Path(OTHER_FAN_FORK.split("@")[1].format(forks=forks)).is_file() else []
        against = ",".join(names).format(forks=forks)
        drsf(
            "audit",
            str(clip),
            str(output),
            "--against",
            against,
            "--allow-unknown-weights",
            "--json",
            str(audited),
            "-q",
        )


def is_at_hand(name: str) -> bool:
    try:
        READERS[name].load(None, False)
    except WeightsError:
        return False
    return True


def table(folder: Path, forks: Path | None) -> str:
    """Markdown. In each cell: obscured only → obscured + attacked."""
    short = {name.format(forks=forks): title for name, title in SHORT.items()}
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
            name = short.get(row["name"], row["name"]) + (" (repelled)" if row["repelled"] else "")
            lines.append(" | ".join([f"| {run}", name, *(cell(row, *spec) for spec in CELLS)]) + " |")
        identity = document["identity"]
        if identity is not None:
            cosines = [identity["columns"][column]["cosine"] for column in ("original", "obscured", "written")]
            costs.append(f"* {run}: cosine of {identity['recogniser']}: " + " → ".join(f"{c:.3f}" for c in cosines))
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
    parser.add_argument("--forks", type=Path, help="where tests.benchmarks.fork kept its forks")
    parser.add_argument("--start", default="4")
    parser.add_argument("--end", default="5")
    parser.add_argument("--only", nargs="*", choices=list(RUNS), default=list(RUNS))
    parser.add_argument("--table", action="store_true", help="make nothing")
    arguments, flags = parser.parse_known_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        part = ["--start", arguments.start, "--end", arguments.end]
        for run in [] if arguments.table else arguments.only:
            if arguments.forks is not None or not run.startswith("forks"):
                make(folder, run, arguments.clip, arguments.forks, part, flags)
        print(table(folder, arguments.forks))


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main()
