"""What was embedded, kept while a run may still need it."""

from __future__ import annotations

import contextlib
import tempfile
import zlib
from collections.abc import Iterator

import numpy as np

from attacks.embed import Embedded
from weights.errors import OutputError


class ChangeStore:
    """Perturbations of a clip, packed, in an unnamed temporary file: memory stays flat, and nothing outlives the
    run."""

    def __init__(self) -> None:
        with self._failures():
            self._file = tempfile.TemporaryFile(prefix="drsf-")  # noqa: SIM115
        self._places: dict[int, tuple[int, int]] = {}

    def put(self, embedded: Embedded) -> None:
        """Keep the pixels of one frame, replacing earlier ones."""
        packed = zlib.compress(np.ascontiguousarray(embedded.change).tobytes(), level=1)
        with self._failures():
            start = self._file.seek(0, 2)
            self._file.write(packed)
            self._file.flush()
        self._places[embedded.index] = (start, len(packed))

    def get(self, embedded: Embedded) -> Embedded:
        """`embedded` with its pixels."""
        start, length = self._places[embedded.index]
        self._file.seek(start)
        window = embedded.window
        change = np.frombuffer(zlib.decompress(self._file.read(length)), dtype=np.int8)
        return embedded.with_pixels(change.reshape(window.height, window.width, 3))

    def close(self) -> None:
        self._file.close()

    @staticmethod
    @contextlib.contextmanager
    def _failures() -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise OutputError(
                f"{tempfile.gettempdir()} cannot hold this run's work ({error.strerror}); make room, or set TMPDIR."
            ) from error
