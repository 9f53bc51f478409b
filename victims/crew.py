"""Work on all cores at once: one run shares what it does to frames, or to looks at one frame, among threads.

Networks, codecs and OpenCV let go of Python's lock while they compute, so threads are enough. Each network and each
sum runs on one thread, so what comes out does not depend on how many there are.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Protocol, TypeVar

T = TypeVar("T")
R = TypeVar("R")


class Each(Protocol):
    """What `map` does, in its form: results in the order of the items."""

    def __call__(self, work: Callable[[T], R], items: Iterable[T], /) -> Iterator[R]:
        """`work` of each item."""


class Crew:
    """Threads, one for each of `cores`; the caller does everything itself where there is one core only."""

    def __init__(self, cores: int) -> None:
        self.cores = cores
        self._inside = threading.local()
        self._pool = ThreadPoolExecutor(cores, "drsf", lambda: setattr(self._inside, "yes", True))

    def each(self, work: Callable[[T], R], items: Iterable[T]) -> Iterator[R]:
        """`work` of each item, in their order.

        Items are taken in the caller's thread, and no more than `cores` of them ahead of the one that is given, so that
        memory does not grow with their number. An error comes out in its item's place. Then, or where the caller stops,
        nothing more is begun, and what runs is waited for. What asks for work within work does it itself, so that no
        thread waits for another one's.
        """
        if self.cores == 1 or hasattr(self._inside, "yes"):
            yield from map(work, items)
            return
        ahead: deque[Future[R]] = deque()
        try:
            for item in items:
                ahead.append(self._pool.submit(work, item))
                if len(ahead) > self.cores:
                    yield ahead.popleft().result()
            while ahead:
                yield ahead.popleft().result()
        finally:
            for future in ahead:
                future.cancel()
            wait(ahead)
