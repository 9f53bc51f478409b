"""Writing files completely or not at all, and the sha256 of files."""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
from pathlib import Path
from typing import IO

from weights.errors import OutputError

CHUNK = 1 << 18
"""Bytes copied at a time."""


def write_atomically(path: str | Path, content: str | bytes) -> None:
    """Write a file completely or not at all: write a temporary file beside it, flush it, and rename it to `path`.

    Text is written as UTF-8. Bytes of a file's name that are not UTF-8 are written unchanged. Raises OutputError if the
    file cannot be written; no temporary file is left then.
    """
    path = Path(path)
    data = content.encode("utf-8", "surrogateescape") if isinstance(content, str) else content
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
    try:
        try:
            with open(temporary, "xb") as file:
                file.write(data)
                flush_to_disk(file)
            os.replace(temporary, path)
        except BaseException:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)
            raise
    except OSError as error:
        raise OutputError(f"{path}: cannot be written ({error.strerror}); choose another place.") from error


def make_folder(folder: Path, place: str) -> None:
    """Make a folder and those above it. Raises OutputError, which says what to choose instead: another `place`."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{folder} cannot be made ({error.strerror}); choose another {place}.") from error


def flush_to_disk(stream: IO[bytes]) -> None:
    """Flush a written file to the disk."""
    stream.flush()
    os.fsync(stream.fileno())


def fresh_sha256(path: Path) -> str:
    """Hex sha256 of a file, read now."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
