"""What is freed goes back to the system while a run goes on."""

from __future__ import annotations

import ctypes
import os
from pathlib import Path

import pytest

from drsf_cli import progress
from drsf_cli.memory import give_back_memory


def in_use() -> float:
    """Of this process, MB."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="the system does not say what is in use")
def test_what_lies_between_kept_objects_is_given_back() -> None:
    try:
        ctypes.CDLL("libc.so.6")
    except OSError:
        pytest.skip("the allocator is not glibc's")
    blocks = [bytes(100_000) for _ in range(2_000)]  # below the size from which each has pages of its own
    kept = blocks[::100]
    before = in_use()
    del blocks
    give_back_memory()
    assert before - in_use() > 120.0
    assert len(kept) == 20


def test_memory_is_given_back_as_frames_go_by(monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[int] = []
    monkeypatch.setattr(progress, "give_back_memory", lambda: given.append(1))
    count = 3 * progress.GIVE_BACK + 1
    assert [len(run) for run in progress.runs(range(2 * count - 1), 2)] == [2] * (count - 1) + [1]
    assert len(given) == 3
