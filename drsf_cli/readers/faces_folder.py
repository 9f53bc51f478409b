"""A user's folder of faces, for `drsf weights fork` and `drsf weights fit`: pictures and videos of people."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np

from drsf_cli.media.files import check_place
from drsf_cli.media.images import is_image, read_image
from drsf_cli.media.reader import VideoReader
from victims.base import Image
from weights.errors import InputError

SMALLEST = 40
"""Px: narrower faces are left out."""
EVERY = 0.4
"""Seconds between the frames taken from a video."""
MOST, FEWEST = 2000, 40
"""Faces kept, and faces that are needed."""
HELD_OUT = 5
"""One in so many files is kept out of training; with fewer files, the last part of each file."""
T = TypeVar("T")
VIDEOS = (".mp4", ".mkv", ".avi", ".mov", ".webm", ".m4v")


def check_paths(data: Path, output: Path, overwrite: bool) -> None:
    """Raise InputError if `data` is no folder, and OutputError if `output` cannot be written."""
    check_place(output, overwrite)
    if not data.is_dir():
        raise InputError(f"--data {data} is not a folder; give one with pictures or videos of faces.")


def files_in(folder: Path) -> list[Path]:
    """Pictures and videos in `folder` and below, in order."""
    return [p for p in sorted(folder.rglob("*")) if p.is_file() and (is_image(p) or p.suffix.lower() in VIDEOS)]


def frames_of(path: Path) -> Iterator[Image]:
    """The picture, or a frame of the video every 0.4 s."""
    if is_image(path):
        yield read_image(path)
        return
    due = -np.inf
    for frame in VideoReader(path):
        if frame.pts >= due:
            due = frame.pts + EVERY
            yield frame.image


def kept_apart(folder: Path, by_file: Sequence[Sequence[T]]) -> tuple[list[T], list[T]]:
    """What to train on and what to measure on, of the faces of each file. Raises InputError for too few."""
    files = [own for own in by_file if own]
    if sum(map(len, files)) < FEWEST:
        raise InputError(f"--data {folder} shows {sum(map(len, files))} faces where {FEWEST} or more are needed.")
    if len(files) >= HELD_OUT:
        held_out = [face for own in files[::HELD_OUT] for face in own]
        training = [face for row, own in enumerate(files) if row % HELD_OUT for face in own]
    else:
        held_out = [face for own in files for face in own[len(own) - len(own) // HELD_OUT :]]
        training = [face for own in files for face in own[: len(own) - len(own) // HELD_OUT]]
    return training, held_out
