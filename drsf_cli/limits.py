"""Checks of single values, which a frozen dataclass runs on its fields when it is made.

A field is declared with `limited(default, check, flag)`. A check raises UsageError with a sentence that shows the value
and says what is allowed; `Limited` puts the field and its flag in front of it. Types are checked strictly:
nothing is converted, True is not a number, and NaN and infinities are refused.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from weights.errors import UsageError

Check = Callable[[Any], object]
"""Raises UsageError where a value is not allowed; what it returns is ignored."""


def limited(default: Any, check: Check, flag: str | None = None, *, factory: Callable[[], Any] | None = None) -> Any:
    """A dataclass field with its check and the flag of the command line that sets it. `factory` replaces `default`."""
    metadata = {"check": check, "flag": flag}
    if factory is not None:
        return field(default_factory=factory, metadata=metadata)
    return field(default=default, metadata=metadata)


@dataclass(frozen=True)
class Limited:
    """A dataclass whose fields are checked when it is made, and when it is unpickled."""

    def __post_init__(self) -> None:
        """Raises UsageError that begins with the field and its flag."""
        for one in fields(self):
            with self.named(one.name):
                one.metadata["check"](getattr(self, one.name))

    def __setstate__(self, state: dict[str, Any]) -> None:
        # cached values are dropped
        self.__dict__.update({one.name: state[one.name] for one in fields(self) if one.name in state})
        self.__post_init__()

    @contextmanager
    def named(self, name: str) -> Iterator[None]:
        """Put the field and its flag in front of what a check says."""
        try:
            yield
        except UsageError as error:
            flag = flags(type(self))[name]
            raise UsageError(f"{name}{f' ({flag})' if flag else ''}: {error}") from error


def flags(cls: type) -> dict[str, str | None]:
    """Field -> the flag that sets it; None where only Python does."""
    return {one.name: one.metadata["flag"] for one in fields(cls)}


def _refuse(value: object, allowed: str) -> UsageError:
    return UsageError(f"{value!r} is not allowed; it takes {allowed}.")


def whole(low: int, high: int | None = None, meaning: str = "") -> Check:
    """An int from `low` to `high`, both included. `meaning` explains the ends."""
    reach = f"a whole number from {low} {'on' if high is None else f'to {high}'}{meaning and f' ({meaning})'}"

    def check(value: object) -> None:
        if type(value) is not int or value < low or (high is not None and value > high):
            raise _refuse(value, reach)

    return check


def number(low: float, unit: str = "", *, above: bool = False) -> Check:
    """A finite int or float from `low` on, or, with `above`, greater than it."""
    reach = f"a finite number{unit and f' of {unit}'} {'above' if above else 'from'} {low:g}{'' if above else ' on'}"

    def check(value: object) -> None:
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise _refuse(value, reach)
        if value < low or (above and value == low):
            raise _refuse(value, reach)

    return check


def one_of(*words: str) -> Check:
    """One of `words`, spelled exactly so."""
    allowed = f"{', '.join(words[:-1])} or {words[-1]}"

    def check(value: object) -> None:
        if not isinstance(value, str) or value not in words:
            raise _refuse(value, allowed)

    return check


def switch(value: object) -> None:
    """A bool."""
    if not isinstance(value, bool):
        raise _refuse(value, "true or false")


def text(allowed: str, parse: Check | None = None) -> Check:
    """A str that is not blank and that `parse`, which raises UsageError, understands."""

    def check(value: object) -> None:
        if not isinstance(value, str) or not value.strip():
            raise _refuse(value, allowed)
        if parse is not None:
            parse(value)

    return check


def texts(allowed: str, parse: Check | None = None) -> Check:
    """A tuple of such texts."""
    each = text(allowed, parse)

    def check(value: object) -> None:
        if not isinstance(value, tuple):
            raise _refuse(value, f"a tuple of texts, each {allowed}")
        for one in value:
            each(one)

    return check


def path(value: object) -> None:
    """A pathlib.Path."""
    if not isinstance(value, Path):
        raise _refuse(value, "a path (pathlib.Path)")


def instance_of(cls: type) -> Check:
    """An object of `cls`, which checks itself."""

    def check(value: object) -> None:
        if not isinstance(value, cls):
            raise _refuse(value, f"a {cls.__name__}")

    return check


def optional(check: Check) -> Check:
    """None, or what `check` allows."""

    def either(value: object) -> None:
        if value is not None:
            check(value)

    return either
