"""Work that is shared among threads: in order, bounded, and ended by an error."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest

from victims.crew import Crew

WAIT = 20.0
"""s after which a test that hangs is taken to have failed."""


def test_results_come_in_order_though_later_items_end_first() -> None:
    second_ended = threading.Event()

    def work(item: int) -> int:
        if item == 0:
            assert second_ended.wait(WAIT)
        if item == 1:
            second_ended.set()
        return item * item

    assert list(Crew(2).each(work, range(6))) == [0, 1, 4, 9, 16, 25]


def test_as_many_at_once_as_there_are_cores() -> None:
    running, most, lock = 0, 0, threading.Lock()
    full = threading.Barrier(3)

    def work(item: int) -> None:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        full.wait(WAIT)  # breaks unless three run at once
        with lock:
            running -= 1

    assert len(list(Crew(3).each(work, range(9)))) == 9
    assert most == 3


def test_few_items_are_taken_ahead_and_in_the_callers_thread() -> None:
    taken: list[int] = []

    def items() -> Iterator[int]:
        for item in range(100):
            taken.append(threading.get_ident())
            yield item

    results = Crew(2).each(lambda item: item, items())
    for given in range(1, 6):
        next(results)
        assert len(taken) <= given + 2
    assert set(taken) == {threading.get_ident()}


def test_an_error_comes_in_its_items_place_and_ends_the_work() -> None:
    begun: list[int] = []

    def work(item: int) -> int:
        begun.append(item)
        if item == 2:
            raise ValueError("the third")
        return item

    results = Crew(2).each(work, range(100))
    assert [next(results), next(results)] == [0, 1]
    with pytest.raises(ValueError, match="the third"):
        next(results)
    assert max(begun) <= 4


def test_who_stops_waits_for_what_runs_and_begins_nothing_more() -> None:
    begun, ended = [], []

    def work(item: int) -> int:
        begun.append(item)
        time.sleep(0.05)
        ended.append(item)
        return item

    results = Crew(2).each(work, range(100))
    next(results)
    results.close()  # type: ignore[attr-defined]
    assert sorted(begun) == sorted(ended)
    assert len(begun) <= 4


def test_work_within_work_is_done_by_who_asks() -> None:
    crew = Crew(2)

    def inner(item: int) -> tuple[int, int]:
        return item, threading.get_ident()

    def outer(item: int) -> bool:
        return all(thread == threading.get_ident() for _, thread in crew.each(inner, range(5)))

    assert all(crew.each(outer, range(8)))


def test_with_one_core_the_caller_does_everything() -> None:
    assert set(Crew(1).each(lambda _: threading.get_ident(), range(3))) == {threading.get_ident()}
