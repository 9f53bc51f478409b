"""Many small clips, what runs over them leave behind, and what they tell meanwhile."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from drsf_cli.batch.jobs import Job
from drsf_cli.media.demo_clip import make_demo_clip
from drsf_cli.settings import DeidSettings

COUNT = 9
MIN_FACE = 0.3
"""The faces of these clips are larger, and looking for small ones takes longer than all else."""
FLAGS = ["--attack", "none", "--min-face", str(MIN_FACE), "--quiet"]


def make_clips(folder: Path, count: int, seconds: float = 0.08, size: tuple[int, int] = (160, 120)) -> Path:
    """`count` clips with a face, no two alike: c00, c02, ... in folder `a`, the others in `b`."""
    for number in range(count):
        path = folder / "ab"[number % 2] / f"c{number:02}.mp4"
        path.parent.mkdir(parents=True, exist_ok=True)
        make_demo_clip(path, seconds=seconds, size=size, seed=number)
    return folder


class Steps:
    """Progress that keeps what it is told: [title, parts expected, parts done] of each step."""

    def __init__(self) -> None:
        self.told: list[list[Any]] = []

    def begin(self, title: str, total: int | None) -> None:
        self.told.append([title, total, 0])

    def advance(self, parts: int = 1) -> None:
        self.told[-1][2] += parts


def job_of(source: Path, output: Path, **given: Any) -> Job:
    return Job(source, output, DeidSettings(**{"attack": "none", "min_face": MIN_FACE, **given}))


def contents(folder: Path) -> dict[str, Any]:
    """All that lies below a folder, hidden files too, but for summaries: bytes, and of reports what says nothing of
    the time, the memory and the place."""
    found: dict[str, Any] = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.name.endswith(".report.json"):
            document = json.loads(path.read_text())
            del document["cost"]["seconds_per_frame"], document["cost"]["peak_memory_mb"]
            del document["output"]["path"], document["input"]["path"]
            found[name] = document
        elif path.is_file() and not path.name.startswith("drsf-summary."):
            found[name] = path.read_bytes()
    return found
