"""The files of a run: the names of those beside an output, what identifies a file, and what may be replaced."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from weights.errors import OutputError
from weights.files import fresh_sha256


def report_path(output: Path) -> Path:
    """The default path of an output's report."""
    return output.with_name(output.name + ".report.json")


def page_path(output: Path) -> Path:
    """Where the page of an output's report goes."""
    return output.with_name(output.name + ".report.html")


def sheet_path(output: Path) -> Path:
    """Where the audit's contact sheet of an output goes: the frames nearest to failing, as written."""
    return output.with_name(output.name + ".audit.png")


def refuse_existing(path: Path, overwrite: bool) -> None:
    """Raise OutputError if `path` exists and may not be replaced."""
    if os.path.lexists(path) and not overwrite:
        raise OutputError(f"{path} exists already; pass --overwrite to replace it, or choose another name.")


def check_place(path: Path, overwrite: bool) -> None:
    """Raise OutputError if `path` exists and may not be replaced, or if its folder does not exist."""
    refuse_existing(path, overwrite)
    if not path.absolute().parent.is_dir():
        raise OutputError(f"{path.parent} is not a folder; make it first.")


def digest(path: Path) -> str:
    """Hex sha256 of a file, or of a folder's files and their names."""
    if not path.is_dir():
        return fresh_sha256(path)
    state = hashlib.sha256()
    for file in sorted(p for p in path.iterdir() if p.is_file()):
        state.update(os.fsencode(file.name) + b"\0")
        state.update(file.read_bytes())
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
