"""Which inputs a run has: files, globs and folders that are searched.

One rule for folders, at every depth: each video is an input; the pictures of a folder are one image sequence, unless
videos lie beside them, in which case each picture is an input. So a folder that holds nothing but pictures is one
sequence, and any other is searched. Hidden files and folders are passed over, and files whose names are of neither
kind; one of those can be named, by itself or with a glob.
"""

from __future__ import annotations

import glob
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from drsf_cli.media.images import is_image, natural_key
from weights.errors import InputError, UsageError

VIDEO_SUFFIXES = (
    ".3g2", ".3gp", ".264", ".265", ".asf", ".avi", ".dav", ".dv", ".f4v", ".flv", ".h264", ".h265",
    ".hevc", ".m2ts", ".m2v", ".m4v", ".mjpeg", ".mjpg", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".mts",
    ".mxf", ".nut", ".ogv", ".ts", ".vob", ".webm", ".wmv", ".y4m",
)  # fmt: skip
"""Names by which a search knows a video; what is in the file is looked at only when it is read."""


@dataclass(frozen=True)
class Input:
    """One video, picture or image sequence."""

    source: Path
    place: Path
    """Relative path that its output mirrors."""
    searched: bool = False
    """Found in a folder, not named."""


def expand(inputs: Sequence[Path], leave_out: Path | None = None) -> list[Input]:
    """Every input that files, globs (`**` goes down any number of folders) and folders stand for, in natural order,
    each once. `leave_out` is a folder that is never searched: that of the outputs.

    A file's place is its name, that of a match of a glob its path below the part without wildcards, that of a file in
    a searched folder its path there, below the folder's own name where there are several inputs. Raises InputError
    for a glob that matches nothing and a folder in which nothing is found; a file that is not there is an input like
    any other, and fails when it is read.
    """
    found: list[Input] = []
    for given in inputs:
        if given.is_dir() and leave_out is not None and leave_out.is_dir() and given.samefile(leave_out):
            raise UsageError(f"-o {leave_out} is the folder that is searched; choose another.")
        if given.is_dir():
            found += _search(given, Path(given.resolve().name) if len(inputs) > 1 else Path(), leave_out)
        elif given.exists() or not glob.has_magic(str(given)):
            found.append(Input(given, Path(given.name)))
        else:
            found += _matches(given, leave_out)
    once: dict[Path, Input] = {}
    for one in found:
        once.setdefault(one.source.absolute(), one)
    return list(once.values())


def is_searched(folder: Path) -> bool:
    """Whether a folder is more than one image sequence."""
    found = list(_walk(folder, None))
    return not (len(found) == 1 and found[0] == folder)


def _matches(pattern: Path, leave_out: Path | None) -> list[Input]:
    fixed = Path(*_fixed_parts(pattern))
    names = glob.glob(str(pattern), recursive=True)
    if not names:
        raise InputError(f"{pattern} matches nothing; check the pattern.")
    found: list[Input] = []
    for path in sorted(map(Path, names), key=lambda path: natural_key(str(path))):
        below = path.relative_to(fixed)
        if not path.is_dir():
            found.append(Input(path, below))
        elif "**" not in pattern.parts:  # which gives the files below by themselves
            found += _search(path, below, leave_out)
    if not found:
        raise InputError(f"{pattern} matches no file; check the pattern.")
    return found


def _fixed_parts(pattern: Path) -> Iterator[str]:
    for part in pattern.parts[:-1]:
        if glob.has_magic(part):
            return
        yield part


def _search(folder: Path, below: Path, leave_out: Path | None) -> list[Input]:
    found = []
    for source in _walk(folder, leave_out):
        if source == folder:  # its own pictures
            found.append(Input(source, below if below.name else Path(folder.resolve().name)))
        else:
            found.append(Input(source, below / source.relative_to(folder), searched=True))
    if not found:
        raise InputError(f"{folder} holds no video and no picture; name a folder that does, or the files themselves.")
    return found


def _walk(folder: Path, leave_out: Path | None) -> Iterator[Path]:
    """Videos, single pictures and folders of pictures below `folder`, which may be one of the last itself. Links are
    followed, into each folder once."""
    been: set[tuple[int, int]] = set()
    barred = leave_out.resolve() if leave_out is not None else None
    for root, folders, files in os.walk(folder, followlinks=True):
        status = os.stat(root)
        if (status.st_dev, status.st_ino) in been or Path(root).resolve() == barred:
            folders.clear()
            continue
        been.add((status.st_dev, status.st_ino))
        folders[:] = sorted((name for name in folders if not name.startswith(".")), key=natural_key)
        paths = [Path(root, name) for name in sorted(files, key=natural_key) if not name.startswith(".")]
        videos = [path for path in paths if path.suffix.lower() in VIDEO_SUFFIXES]
        pictures = [path for path in paths if is_image(path)]
        if pictures and not videos:
            yield Path(root)
        else:
            yield from (path for path in paths if path in set(videos) | set(pictures))
