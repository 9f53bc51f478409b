"""CPU seconds a frame of `drsf deid --attack none`, of an earlier checkout of it, and of deface.

    python -m tests.benchmarks.covering_cost [--before CHECKOUT] [--frames SHORT LONG] [SIZE...]

Each SIZE (default 1280x720 3840x2160) is a demo clip. Every command runs on a short and on a long one, in processes of
its own, drsf's on one thread. The difference of their CPU seconds, those of all cores, over the difference of their
frames leaves out what starting costs.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from drsf_cli.media.demo_clip import make_demo_clip
from tests.benchmarks.main_job import ROOT

RUN = "from drsf_cli.app import main; raise SystemExit(main())"


def cpu_seconds(command: list[str], checkout: Path, folder: Path) -> float:
    """User and system time of a command and its children. Raises CalledProcessError."""
    environment = {**os.environ, "PYTHONPATH": str(checkout)}
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, cwd=checkout, env=environment, stdout=log, stderr=log)
        _, status, usage = os.wait4(process.pid, 0)
    if os.waitstatus_to_exitcode(status):
        raise subprocess.CalledProcessError(status, command, (folder / "log").read_text())
    return usage.ru_utime + usage.ru_stime


def commands(before: Path | None) -> dict[str, tuple[list[str], Path]]:
    """Name -> command without its input and output, and the checkout it runs in."""
    deid = [sys.executable, "-c", RUN, "deid", "--attack", "none", "--quiet", "--overwrite", "--threads", "1"]
    found = {"drsf": (deid, ROOT), "deface": ([str(Path(sys.executable).parent / "deface")], ROOT)}
    return found if before is None else {"drsf before": (deid, before), **found}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("--before", type=Path, help="another checkout of drsf")
    parser.add_argument("--frames", type=int, nargs=2, default=(3, 9))
    parser.add_argument("sizes", nargs="*", default=["1280x720", "3840x2160"])
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for size in arguments.sizes:
            width, height = (int(part) for part in size.split("x"))
            clips = [
                make_demo_clip(folder / f"{size}-{count}.mp4", count / 25, size=(width, height))
                for count in arguments.frames
            ]
            taken: dict[str, float] = {}
            for title, (command, checkout) in commands(arguments.before).items():
                spent = [
                    cpu_seconds([*command, str(clip), "-o", str(folder / f"{title[:4]}-{clip.name}")], checkout, folder)
                    for clip in clips
                ]
                taken[title] = (spent[1] - spent[0]) / (arguments.frames[1] - arguments.frames[0])
            for title, seconds in taken.items():
                print(
                    f"{size}  {title:12} {seconds:7.2f} s a frame, {seconds / taken['deface']:5.2f} of deface's",
                    flush=True,
                )
    return 0


if __name__ == "__main__":
    sys.exit(main())
