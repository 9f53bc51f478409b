"""Which inputs a run has: files, globs and folders that are searched.

One rule holds for folders at every depth: each video is an input, and the pictures of a folder form one image sequence.
If videos lie beside the pictures, each picture is an input by itself. So a folder that holds nothing but pictures is
one sequence, and every other folder is searched. The search skips hidden files and folders, and files whose suffix is
neither a video's nor a picture's; such a file can be named, by itself or with a glob. It also skips folders in which a
file server or a desktop keeps thumbnails and deleted files, because people withdrew these. `PassedOver` counts what was
skipped.
"""

from __future__ import annotations

import glob
import itertools
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path

from drsf_cli.media.images import is_image, natural_key
from weights.errors import InputError, UsageError

VIDEO_SUFFIXES = (
    ".3g2", ".3gp", ".264", ".265", ".asf", ".avi", ".dav", ".dv", ".f4v", ".flv", ".gif", ".h264", ".h265",
    ".hevc", ".insv", ".lrv", ".m2ts", ".m2v", ".m4v", ".mjpeg", ".mjpg", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg",
    ".mts", ".mxf", ".nut", ".ogv", ".ts", ".vob", ".webm", ".wmv", ".y4m",
)  # fmt: skip
"""Suffixes by which a search recognises a video; the content is looked at only when the file is read. `.360` (GoPro) is
not among them: its picture is split between two streams, of which only one would be read."""

_BINS = (
    "@eadir", "#recycle", "#snapshot", "@recycle", "@recently-snapshot", "$recycle.bin", "recycler", "lost+found",
    "system volume information", "__macosx", ".trash", ".trash-*", ".trashes", ".@__thumb",
)  # fmt: skip
"""Folders of thumbnails, deleted files and snapshots, in lower case."""


@dataclass(frozen=True)
class Input:
    """One video, picture or image sequence."""

    source: Path
    place: Path
    """Relative path that its output mirrors."""
    searched: bool = False
    """Whether it was found in a folder, not named."""


@dataclass
class PassedOver:
    """What a search found and skipped."""

    suffixes: Counter[str] = field(default_factory=Counter)
    """Suffixes of the files that are neither videos nor pictures by their names."""
    bins: list[Path] = field(default_factory=list)
    """Folders of thumbnails and deleted files."""

    def sentences(self) -> list[str]:
        """One for each kind that was found."""
        said = []
        if self.suffixes:
            often = sorted(self.suffixes.items(), key=lambda one: (-one[1], one[0]))
            counted = ", ".join(f"{count} {name or 'without a suffix'}" for name, count in often)
            said.append(f"files that are neither videos nor pictures by name: {counted}; name them to have them read.")
        if self.bins:
            said.append(
                "folders of thumbnails and deleted files: "
                f"{', '.join(map(str, self.bins[:3]))}{f' and {len(self.bins) - 3} more' if self.bins[3:] else ''}."
            )
        return said


def expand(inputs: Sequence[Path], leave_out: Path | None = None, passed_over: PassedOver | None = None) -> list[Input]:
    """Every input that files, globs and folders stand for, in natural order, each once.

    `**` in a glob goes down any number of folders. `leave_out` is a folder that is never searched: that of the outputs.
    `passed_over` collects what is skipped.

    The place of a named file is its name. The place of a glob's match is its path below the part without wildcards. The
    place of a file in a searched folder is its path in that folder, below the folder's own name if there are several
    inputs. Raises InputError for a glob that matches nothing and for a folder in which nothing is found. A named file
    that does not exist is still an input, and fails when it is read.
    """
    found: list[Input] = []
    over = passed_over or PassedOver()
    for given in inputs:
        if given.is_dir() and leave_out is not None and leave_out.is_dir() and given.samefile(leave_out):
            raise UsageError(f"-o {leave_out} is the folder that is searched; choose another.")
        if given.is_dir():
            found += _search(given, Path(given.resolve().name) if len(inputs) > 1 else Path(), leave_out, over)
        elif given.exists() or not glob.has_magic(str(given)):
            found.append(Input(given, Path(given.name)))
        else:
            found += _matches(given, leave_out, over)
    once: dict[Path, Input] = {}
    for one in found:
        once.setdefault(one.source.absolute(), one)
    return list(once.values())


def _matches(pattern: Path, leave_out: Path | None, over: PassedOver) -> list[Input]:
    fixed = Path(*_fixed_parts(pattern))
    names = glob.glob(str(pattern), recursive=True)
    if not names:
        raise InputError(f"{pattern} matches nothing; check the pattern.")
    found: list[Input] = []
    for path in sorted(map(Path, names), key=lambda path: natural_key(str(path))):
        below = path.relative_to(fixed)
        if any(_is_bin(part) for part in below.parts[: None if path.is_dir() else -1]):
            place = fixed.joinpath(*itertools.takewhile(lambda part: not _is_bin(part), below.parts))
            place /= below.parts[len(place.parts) - len(fixed.parts)]
            over.bins += [] if place in over.bins else [place]
        elif not path.is_dir():
            found.append(Input(path, below))
        elif "**" not in pattern.parts:  # which gives the files below by themselves
            found += _search(path, below, leave_out, over)
    if not found:
        raise InputError(f"{pattern} matches no file; check the pattern.")
    return found


def _fixed_parts(pattern: Path) -> Iterator[str]:
    for part in pattern.parts[:-1]:
        if glob.has_magic(part):
            return
        yield part


def _search(folder: Path, below: Path, leave_out: Path | None, over: PassedOver) -> list[Input]:
    found = []
    for source in _walk(folder, leave_out, over):
        if source == folder:  # its own pictures
            found.append(Input(source, below if below.name else Path(folder.resolve().name)))
        else:
            found.append(Input(source, below / source.relative_to(folder), searched=True))
    if not found:
        held = "".join(f" It holds {sentence[:-1]}." for sentence in over.sentences())
        raise InputError(
            f"{folder} holds no video and no picture; name a folder that does, or the files themselves.{held}"
        )
    return found


def _walk(folder: Path, leave_out: Path | None, over: PassedOver) -> Iterator[Path]:
    """Videos, single pictures and folders of pictures below `folder`, which may itself be a folder of pictures.

    Links are followed, into each folder once.
    """
    been: set[tuple[int, int]] = set()
    barred = leave_out.resolve() if leave_out is not None else None
    for root, folders, files in os.walk(folder, followlinks=True):
        status = os.stat(root)
        if (status.st_dev, status.st_ino) in been or Path(root).resolve() == barred:
            folders.clear()
            continue
        been.add((status.st_dev, status.st_ino))
        over.bins += [Path(root, name) for name in sorted(folders) if _is_bin(name)]
        folders[:] = sorted(
            (name for name in folders if not name.startswith(".") and not _is_bin(name)), key=natural_key
        )
        paths = [Path(root, name) for name in sorted(files, key=natural_key) if not name.startswith(".")]
        videos = [path for path in paths if path.suffix.lower() in VIDEO_SUFFIXES]
        pictures = [path for path in paths if is_image(path)]
        over.suffixes.update(path.suffix.lower() for path in paths if path not in {*videos, *pictures})
        if pictures and not videos:
            yield Path(root)
        else:
            yield from (path for path in paths if path in set(videos) | set(pictures))


def _is_bin(name: str) -> bool:
    return any(fnmatchcase(name.lower(), pattern) for pattern in _BINS)
