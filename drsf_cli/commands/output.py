"""The consoles that commands print to."""

from __future__ import annotations

from dataclasses import dataclass

from rich.console import Console
from rich.markup import escape

from weights.errors import DrsfError

out = Console()
err = Console(stderr=True)


@dataclass
class ErrorStyle:
    """How the commands of one run show errors; the root command sets it, and its context carries it."""

    debug: bool = False
    """Show tracebacks."""


def print_error(error: DrsfError | str) -> None:
    """One line on standard error."""
    err.print(f"[red]error:[/] {escape(str(error))}", soft_wrap=True)
