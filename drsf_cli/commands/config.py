"""What `--config FILE` and `--help-all` do, alike for every command that has settings.

A configuration is TOML with a table for each command, whose keys are that command's long flags without the dashes:

    [deid]
    mask = "pixelate_4"
    effort = "best"
    region = ["0,0,120,80@0-2"]
    html = true
    [weights.fork]
    steps = 900

A flag that is typed overrides the file. Values of the file are handled like typed ones: they are checked in the same
way, and paths are relative to the folder in which the command runs.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import typer

from weights.errors import InputError, UsageError


def load_config(context: typer.Context, path: Path | None) -> Path | None:
    """Make the file's values the command's defaults. Raises InputError, and UsageError naming file and key."""
    if path is None or context.resilient_parsing:
        return path
    root = context.find_root()
    commands = dict(_commands(root.command))
    valid = sorted(commands)
    tables = dict(_tables(root.command, _read(path)))
    for name, table in tables.items():
        if not isinstance(table, Mapping):
            raise UsageError(f"{path}: {name} stands above every table; put it under one of [{'], ['.join(valid)}].")
        if name not in valid:
            raise UsageError(f"{path}: [{name}] is not a command that takes settings; use {', '.join(valid)}.")
        for key in table:
            known = settable(commands[name])
            if key not in known:
                raise UsageError(f"{path}: [{name}] has no {key}; it takes {', '.join(sorted(known))}.")
    own = ".".join(context.command_path.removeprefix(root.command_path).split())
    defaults = {}
    for key, value in tables.get(own, {}).items():
        option = settable(context.command)[key]
        defaults[option.name] = _typed(context, option, f"{path}: {key}", value)
    context.default_map = defaults
    return path


def _commands(group: Any, words: tuple[str, ...] = ()) -> Iterator[tuple[str, Any]]:
    """(`deid` or `weights.fork`, command) of those that take a configuration."""
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from _commands(command, (*words, name))
        elif "config" in flags(command):
            yield ".".join((*words, name)), command


def _tables(group: Any, document: Mapping[str, Any], words: tuple[str, ...] = ()) -> Iterator[tuple[str, Any]]:
    """The document's tables by the same names."""
    for name, table in document.items():
        inner = group.commands.get(name)
        if hasattr(inner, "commands") and isinstance(table, Mapping):
            yield from _tables(inner, table, (*words, name))
        else:
            yield ".".join((*words, name)), table


def flags(command: Any) -> dict[str, Any]:
    """Long flag without its dashes -> option."""
    found = {}
    for parameter in command.params:
        for name in parameter.opts:
            if name.startswith("--"):
                found[name.removeprefix("--")] = parameter
    return found


def settable(command: Any) -> dict[str, Any]:
    """The flags that a configuration may set: all but those that make the command do something else, such as --help."""
    return {name: option for name, option in flags(command).items() if not option.is_eager}


def _read(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text("utf-8"))
    except OSError as error:
        raise InputError(f"--config {path}: cannot be read ({error.strerror}); check the name.") from error
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise InputError(f"--config {path}: is not TOML ({error}); write [COMMAND] and key = value lines.") from error


def _typed(context: typer.Context, option: Any, place: str, value: object) -> Any:
    """The value in the form of the command line: a word, a list of words, or true or false for a switch."""
    if option.is_flag:
        if not isinstance(value, bool):
            raise UsageError(f"{place} = {value!r} must be true or false.")
        return value
    words = value if isinstance(value, list) else [value]
    if isinstance(value, list) and not option.multiple:
        raise UsageError(f"{place} takes one value, not a list.")
    if not all(isinstance(word, str | int | float) and not isinstance(word, bool) for word in words):
        raise UsageError(f"{place} = {value!r} must be a text or a number.")
    typed = [str(word) for word in words] if option.multiple else str(value)
    try:
        option.process_value(context, typed)
    except typer.BadParameter as error:
        raise UsageError(f"{place} = {value!r} cannot be used: {error.message}.") from error
    return typed


def show_all(context: typer.Context, wanted: bool) -> None:
    """Print the help with every option in it, and end."""
    if not wanted or context.resilient_parsing:
        return
    for parameter in context.command.params:
        if hasattr(parameter, "hidden"):
            parameter.hidden = False
    typer.echo(context.get_help(), nl=False)
    raise typer.Exit
