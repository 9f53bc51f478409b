"""Steps as bars in the terminal."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bars

if TYPE_CHECKING:
    from drsf_cli.batch.run import Result


class RichProgress:
    """Steps as bars on standard error."""

    def __init__(self, bars: Bars) -> None:
        self._bars = bars
        self._task: TaskID | None = None

    def begin(self, title: str, total: int | None) -> None:
        """See Progress."""
        if self._task is not None:
            task = self._bars.tasks[self._bars.task_ids.index(self._task)]
            self._bars.update(self._task, total=max(task.completed, 1), completed=max(task.completed, 1))
        self._task = self._bars.add_task(title, total=total)

    def advance(self, parts: int = 1) -> None:
        """See Progress."""
        if self._task is not None:
            self._bars.advance(self._task, parts)


class FileBars:
    """A bar for the inputs, a bar for each worker, and a line for each input that has ended.

    `traces`: print the traceback of an error that is a bug in drsf.
    """

    def __init__(self, bars: Bars, inputs: int, quiet: bool, *, traces: bool = False) -> None:
        self._bars, self._inputs, self._quiet, self._traces = bars, inputs, quiet, traces
        self._all = bars.add_task("Inputs", total=inputs)
        self._workers: dict[str, TaskID] = {}
        self._ended = 0

    def step(self, worker: str, name: str, title: str, done: int, total: int | None) -> None:
        """See Watch."""
        if worker not in self._workers:
            self._workers[worker] = self._bars.add_task("")
        self._bars.update(self._workers[worker], description=f"{name}: {title}", completed=done, total=total)

    def result(self, result: Result) -> None:
        """See Watch."""
        self._ended += 1
        self._bars.advance(self._all)
        console = self._bars.console
        if result.error is not None:
            console.print(f"[red]error:[/] {escape(result.error)}", soft_wrap=True)
            if result.trace is not None and self._traces:
                console.print(escape(result.trace), soft_wrap=True, highlight=False)
        elif not self._quiet:
            where = f" on {result.worker}" if result.worker else ""
            line = f"{self._ended} of {self._inputs}: {result.job.source} {result.state}{where}, {result.seconds:.1f} s"
            console.print(escape(line), soft_wrap=True, highlight=False)


def shown(quiet: bool) -> Bars:
    """Progress bars on standard error; none if `quiet`, or if standard error is not a terminal."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    console = Console(stderr=True)
    return Bars(*columns, console=console, disable=quiet or not console.is_terminal)


@contextmanager
def bars(quiet: bool) -> Iterator[RichProgress]:
    """Progress bars of one input."""
    with shown(quiet) as board:
        yield RichProgress(board)
