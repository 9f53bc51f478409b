"""What was embedded, kept while a run may still need it."""

from __future__ import annotations

import contextlib
import os
import tempfile
import zlib
from collections.abc import Iterator, Mapping
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
    """Perturbations of a clip, packed, in a file: memory stays flat.

    The file is an unnamed temporary one, so that nothing outlives the run, or a new one at `path`, for another process
    to `adopt`. Raises OutputError where there is no room.
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
        """What of the own file is to be told to whoever adopts it."""
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
        return embedded.with_pixels(change.reshape(window.height, window.width, 3))

    def adopt(self, path: Path, places: Places, first: FaceKey) -> None:
        """Take in what another store has in its file at `path`; its frame 0 and track 0 are `first` here."""
        self._others.append(path.open("rb"))
        for (index, track), (start, size) in places.items():
            self._places[first[0] + index, first[1] + track] = (self._others[-1], start, size)

    def synchronise(self) -> None:
        """Have the file on the disk, for readers on other machines."""
        with self._failures():
            os.fsync(self._file.fileno())

    def close(self) -> None:
        """Let go of the files; nothing can be read any more."""
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
