"""How long steps tell how far they are. The command line draws bars; a library call stays silent."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Protocol, TypeVar

from drsf_cli.memory import give_back_memory

T = TypeVar("T")

GIVE_BACK = 32
"""Lists of frames from one time that memory is given back to the next."""


class Progress(Protocol):
    """Told of steps as they go."""

    def begin(self, title: str, total: int | None) -> None:
        """A new step of `total` parts (None: unknown)."""

    def advance(self, parts: int = 1) -> None:
        """Parts of the current step that are done."""


class Silent:
    """Says nothing."""

    def begin(self, title: str, total: int | None) -> None:
        """Tell nobody."""

    def advance(self, parts: int = 1) -> None:
        """Tell nobody."""


SILENT: Progress = Silent()


@dataclass
class Told:
    """Tells a function of each step: its title, how many parts are done, and how many there are."""

    tell: Callable[[str, int, int | None], object]
    every: float = 0.0
    """Seconds that pass at least between two parts that are told of."""
    _step: tuple[str, int | None] = ("", None)
    _done: int = 0
    _last: float = 0.0

    def begin(self, title: str, total: int | None) -> None:
        """See Progress."""
        self._step, self._done = (title, total), 0
        self._tell()

    def advance(self, parts: int = 1) -> None:
        """See Progress."""
        self._done += parts
        if time.monotonic() - self._last >= self.every:
            self._tell()

    def _tell(self) -> None:
        self._last = time.monotonic()
        title, total = self._step
        self.tell(title, self._done, total)


def runs(frames: Iterable[T], size: int) -> Iterator[list[T]]:
    """Consecutive items in lists of `size`; the last may be shorter. Free memory is given back now and then."""
    left = iter(frames)
    for number in itertools.count(1):
        if not (run := list(itertools.islice(left, size))):
            return
        yield run
        if number % GIVE_BACK == 0:
            give_back_memory()


def counted(items: Iterable[T], progress: Progress) -> Iterator[T]:
    """The items; each is a part of the current step that is done when the next one is asked for."""
    for item in items:
        yield item
        progress.advance()


def with_last(items: Iterable[T]) -> Iterator[tuple[T, bool]]:
    """Each item, and whether it is the last."""
    left = iter(items)
    ahead = list(itertools.islice(left, 1))
    while ahead:
        item, ahead = ahead[0], list(itertools.islice(left, 1))
        yield item, not ahead
