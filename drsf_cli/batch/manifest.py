"""Manifests: lists of inputs, each with its own options.

A manifest is CSV with a header, or JSON Lines. `input` is a file, glob or folder, relative to the manifest. `output`,
if given, is a name relative to the folder of the outputs. Every other column is a long option of `drsf deid` without
its dashes, such as `mask`; for an empty cell, a null or a missing key, the command line's value holds. Options that may
be given several times take a list in JSON, and values separated by `;` in CSV. `chain` stands for three victims, which
`detector`, `aligner` and `gaze` replace.
"""

from __future__ import annotations

import contextlib
import csv
import json
import types
import typing
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from drsf_cli.batch.inputs import PassedOver, expand
from drsf_cli.batch.jobs import Wish
from drsf_cli.limits import flags
from drsf_cli.settings import DeidSettings
from victims.base import Role
from weights.errors import InputError, UsageError

_ROLES: tuple[Role, ...] = ("detector", "aligner", "gaze")
_ONE_FOR_ALL = ("victims", "device", "threads", "allow_unknown_weights", "overwrite")
"""Fields of the settings that a row cannot choose; the victims are chosen by role."""


@dataclass(frozen=True)
class Row:
    """One row as written."""

    input: str
    output: str | None
    options: Mapping[str, Any]
    """Field, role or `chain` -> value."""
    where: str
    """File and line, for errors."""


def read_manifest(path: Path) -> list[Row]:
    """Every row. Raises InputError, UsageError, with file and line."""
    readers = {".csv": _csv_rows, ".jsonl": _json_rows}
    if path.suffix.lower() not in readers:
        raise UsageError(f"--manifest {path} is neither a .csv nor a .jsonl file.")
    try:
        rows = [_row(f"{path}, line {number}", cells) for number, cells in readers[path.suffix.lower()](path)]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"--manifest {path} cannot be read ({reason}); check the file.") from error
    if not rows:
        raise InputError(f"--manifest {path} has no row; list at least one input.")
    return rows


def manifest_wishes(
    path: Path, settings: DeidSettings, leave_out: Path | None = None, passed_over: PassedOver | None = None
) -> list[Wish]:
    """What the rows ask for, on top of `settings`.

    Places are relative to the manifest's folder where they lie below it. `leave_out`, `passed_over` as in `expand`.
    Raises InputError, UsageError.
    """
    wishes = []
    home = path.parent
    for row in read_manifest(path):
        own = _settings(settings, row, home)
        found = expand([home / row.input], leave_out, passed_over)
        if row.output is not None and (len(found) > 1 or found[0].searched):
            raise UsageError(f"{row.where}: output names one file, and {row.input} stands for several; leave it out.")
        for one in found:
            below = one.source.absolute().is_relative_to(home.absolute()) and ".." not in Path(row.input).parts
            placed = replace(one, place=one.source.absolute().relative_to(home.absolute())) if below else one
            wishes.append(Wish(placed, own, None if row.output is None else Path(row.output)))
    return wishes


def _csv_rows(path: Path) -> Iterator[tuple[int, Mapping[str, Any]]]:
    with path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
        reader = csv.DictReader(file, strict=True)
        for cells in reader:
            if None in cells:
                raise UsageError(f"{path}, line {reader.line_num}: there are more cells than columns; quote commas.")
            yield reader.line_num, {name: value for name, value in cells.items() if value is not None and value.strip()}


def _json_rows(path: Path) -> Iterator[tuple[int, Mapping[str, Any]]]:
    for number, line in enumerate(path.read_text(encoding="utf-8-sig", errors="surrogateescape").splitlines(), 1):
        if not line.strip():
            continue
        try:
            cells = json.loads(line)
        except ValueError as error:
            raise UsageError(f"{path}, line {number}: this is not JSON ({error}).") from error
        if not isinstance(cells, dict):
            raise UsageError(f'{path}, line {number}: this is not a JSON object; write {{"input": ...}}.')
        yield number, {name: value for name, value in cells.items() if value is not None}


def _row(where: str, cells: Mapping[str, Any]) -> Row:
    options: dict[str, Any] = {}
    own: dict[str, str | None] = {"input": None, "output": None}
    for name, value in cells.items():
        if name in own:
            if not isinstance(value, str):
                raise UsageError(f"{where}: {name} is a path, not {value!r}.")
            own[name] = value.strip()
        else:
            field = _field(where, name)
            options[field] = _value(value, _HINTS.get(field, str))
    if not own["input"]:
        raise UsageError(f"{where}: input is missing; name a file, a glob or a folder.")
    output = own["output"]
    if output is not None and (Path(output).is_absolute() or ".." in Path(output).parts):
        raise UsageError(f"{where}: output {output} leaves the folder of the outputs; give a path below it.")
    return Row(own["input"], output, options, where)


def _columns() -> dict[str, str]:
    """Column, with underscores -> field, role or `chain`."""
    own = {field: flag for field, flag in flags(DeidSettings).items() if flag is not None and field not in _ONE_FOR_ALL}
    columns = {flag.removeprefix("--").replace("-", "_"): field for field, flag in own.items()}
    return columns | {name: name for name in ("chain", *_ROLES)}


_COLUMNS = _columns()
_HINTS = typing.get_type_hints(DeidSettings)


def _field(where: str, name: str) -> str:
    column = name.strip().removeprefix("--").replace("-", "_")
    if column not in _COLUMNS:
        known = ", ".join(sorted(column.replace("_", "-") for column in _COLUMNS))
        raise UsageError(f"{where}: column {name!r} is unknown; there are input, output, {known}.")
    return _COLUMNS[column]


_WORDS = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}


def _value(value: Any, hint: Any) -> Any:
    """`value` converted to its field's type if it is a text that can be converted, else unchanged.

    Where it is unchanged, the settings say what is wrong with it.
    """
    if isinstance(hint, types.UnionType):
        (hint,) = (part for part in typing.get_args(hint) if part is not type(None))
    if typing.get_origin(hint) is tuple:
        parts = value.split(";") if isinstance(value, str) else value
        if isinstance(parts, list) and all(isinstance(part, str) for part in parts):
            return tuple(part.strip() for part in parts if part.strip())
        return value
    if not isinstance(value, str):
        return value
    value = value.strip()
    if hint is bool:
        return _WORDS.get(value.lower(), value)
    if hint in (int, float):
        with contextlib.suppress(ValueError):
            return hint(value)
    return value


def _settings(base: DeidSettings, row: Row, home: Path) -> DeidSettings:
    options = dict(row.options)
    chain = options.pop("chain", None)
    if not isinstance(chain, str | None):
        raise UsageError(f"{row.where}: chain is a name, not {chain!r}.")
    roles = {role: options.pop(role) for role in _ROLES if role in options}
    for role, name in roles.items():
        if role != "detector" and isinstance(name, str) and name.lower() == "none":
            roles[role] = None
    for name in ("camera", "drawer", "targets"):
        if isinstance(options.get(name), str):
            options[name] = home / options[name]
    try:
        victims = base.victims.replaced(None, None, None, chain)
        return replace(base, victims=replace(victims, **roles), **options)
    except UsageError as error:
        raise UsageError(f"{row.where}: {error}") from error
