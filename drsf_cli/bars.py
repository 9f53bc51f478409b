"""Steps as bars in the terminal."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bars


class RichProgress:
    """Steps as bars on standard error."""

    def __init__(self, bars: Bars) -> None:
        self._bars = bars
        self._task: TaskID | None = None

    def begin(self, title: str, total: int | None) -> None:
        if self._task is not None:
            task = self._bars.tasks[self._bars.task_ids.index(self._task)]
            self._bars.update(self._task, total=max(task.completed, 1), completed=max(task.completed, 1))
        self._task = self._bars.add_task(title, total=total)

    def advance(self, parts: int = 1) -> None:
        if self._task is not None:
            self._bars.advance(self._task, parts)


@contextmanager
def bars(quiet: bool) -> Iterator[RichProgress]:
    """Progress bars; none when quiet, or when nobody watches."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    console = Console(stderr=True)
    with Bars(*columns, console=console, disable=quiet or not console.is_terminal) as shown:
        yield RichProgress(shown)
