"""The perturbations of a clip, kept in a file until the run ends."""

from __future__ import annotations

import contextlib
import os
import tempfile
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import IO

import numpy as np

from attacks.embed import Embedded
from weights.errors import OutputError

FaceKey = tuple[int, int]
"""A frame's index, and the track of one of its faces (drsf_cli/deid/survey.py)."""

Places = Mapping[FaceKey, tuple[int, int]]
"""Face -> where its packed pixels begin in a store's file, and how many bytes they are."""


class ChangeStore:
    """Keeps the perturbations of a clip, compressed, in a file, so that memory does not grow with the clip.

    Without a `path` the file is an unnamed temporary one, which does not outlive the run. With a `path` it is a new
    file that another process can `adopt`. Raises OutputError if the disk is full.
    """

    def __init__(self, path: Path | None = None) -> None:
        self._folder = tempfile.gettempdir() if path is None else str(path.parent)
        self._advice = "make room, or set TMPDIR" if path is None else "make room"
        with self._failures():
            # of a file with a name nothing may be there already
            self._file: IO[bytes] = tempfile.TemporaryFile(prefix="drsf-") if path is None else path.open("xb+")  # noqa: SIM115
        self._others: list[IO[bytes]] = []
        self._places: dict[FaceKey, tuple[IO[bytes], int, int]] = {}

    @property
    def places(self) -> Places:
        """Where faces are in this store's own file, for a process that adopts it."""
        return {key: (start, size) for key, (file, start, size) in self._places.items() if file is self._file}

    def put(self, key: FaceKey, embedded: Embedded) -> None:
        """Keep the pixels of one face, replacing earlier ones."""
        packed = zlib.compress(np.ascontiguousarray(embedded.change).tobytes(), level=1)
        with self._failures():
            start = self._file.seek(0, 2)
            self._file.write(packed)
            self._file.flush()
        self._places[key] = (self._file, start, len(packed))

    def get(self, key: FaceKey, embedded: Embedded) -> Embedded:
        """`embedded` with its pixels."""
        file, start, size = self._places[key]
        file.seek(start)
        window = embedded.window
        change = np.frombuffer(zlib.decompress(file.read(size)), dtype=np.int8)
        return replace(embedded, change=change.reshape(window.height, window.width, 3))

    def adopt(self, path: Path, places: Places, first: FaceKey) -> None:
        """Add what another store wrote to `path`. Its frame 0 and track 0 become `first`."""
        self._others.append(path.open("rb"))
        for (index, track), (start, size) in places.items():
            self._places[first[0] + index, first[1] + track] = (self._others[-1], start, size)

    def synchronise(self) -> None:
        """Flush the file to the disk, for readers on other machines."""
        with self._failures():
            os.fsync(self._file.fileno())

    def close(self) -> None:
        """Close the files. Nothing can be read afterwards."""
        for file in (self._file, *self._others):
            file.close()

    @contextlib.contextmanager
    def _failures(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise OutputError(
                f"{self._folder} cannot hold this run's work ({error.strerror}); {self._advice}."
            ) from error
