"""How long steps tell how far they are. The command line draws bars; a library call stays silent."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Protocol, TypeVar

T = TypeVar("T")


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


def runs(frames: Iterable[T], size: int) -> Iterator[list[T]]:
    """Consecutive items in lists of `size`; the last may be shorter."""
    run: list[T] = []
    for frame in frames:
        run.append(frame)
        if len(run) == size:
            yield run
            run = []
    if run:
        yield run


def with_last(items: Iterable[T]) -> Iterator[tuple[T, bool]]:
    """Each item, and whether it is the last."""
    before: list[T] = []
    for item in items:
        if before:
            yield before.pop(), False
        before.append(item)
    if before:
        yield before.pop(), True
