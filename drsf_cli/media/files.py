"""The files of a run: the names of those beside an output, and what identifies a file."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path


def report_path(output: Path) -> Path:
    """The default path of an output's report."""
    return output.with_name(output.name + ".report.json")


def page_path(output: Path) -> Path:
    """Where the page of an output's report goes."""
    return output.with_name(output.name + ".report.html")


def sheet_path(output: Path) -> Path:
    """Where the audit's contact sheet of an output goes: the frames nearest to failing, as written."""
    return output.with_name(output.name + ".audit.png")


def digest(path: Path) -> str:
    """Hex sha256 of a file, or of a folder's files and their names."""
    state = hashlib.sha256()
    for file in sorted(p for p in path.iterdir() if p.is_file()) if path.is_dir() else [path]:
        if path.is_dir():
            state.update(os.fsencode(file.name) + b"\0")
        with file.open("rb") as stream:
            while block := stream.read(1 << 20):
                state.update(block)
    return state.hexdigest()


SourceState = tuple[tuple[str, int, int], ...]
"""Name, bytes and time of change (ns) of a file, or of each file of a folder."""


def state_of(path: Path) -> SourceState:
    """A cheap fingerprint that changes when the content does; empty if the file is gone."""
    try:
        files = sorted(p for p in path.iterdir() if p.is_file()) if path.is_dir() else [path]
        return tuple((file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in files)
    except OSError:
        return ()


def size_of(path: Path) -> int:
    """Bytes of a file, or of the files of a folder."""
    files = [p for p in path.iterdir() if p.is_file()] if path.is_dir() else [path]
    return sum(file.stat().st_size for file in files)
