"""The consoles that commands print to, and checks before they begin."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.markup import escape

from weights.errors import DrsfError, OutputError

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


def refuse_existing(path: Path, overwrite: bool) -> None:
    """Raise OutputError if `path` exists and may not be replaced, or if its folder does not exist."""
    if path.exists() and not overwrite:
        raise OutputError(f"{path} exists already; give --overwrite or another name.")
    if not path.parent.is_dir():
        raise OutputError(f"{path.parent} is not a folder; make it first.")
