"""Writing files whole or not at all."""

from __future__ import annotations

import contextlib
import os
import secrets
from pathlib import Path

from weights.errors import OutputError


def write_atomically(path: str | Path, content: str | bytes) -> None:
    """Write a whole file or none: a temporary file beside it, flushed to disk, then renamed over `path`.

    Text is written as UTF-8, and the bytes of a file's name that are no UTF-8 as they are. Raises OutputError where the
    place cannot be written; nothing is left behind then.
    """
    path = Path(path)
    data = content.encode("utf-8", "surrogateescape") if isinstance(content, str) else content
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
    try:
        try:
            with open(temporary, "xb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        except BaseException:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)
            raise
    except OSError as error:
        raise OutputError(f"{path}: cannot be written ({error.strerror}); choose another place.") from error
