"""The forms of the JSON that drsf writes: each is checked when it is read, and published as a JSON Schema.

A form is a TypedDict, so that what is written and what is read stays plain JSON and mypy still knows every key. Keys
that a form does not name are let through: a file of another version of drsf may have them.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, NoReturn

from pydantic import ConfigDict, Field, GetCoreSchemaHandler, GetJsonSchemaHandler, TypeAdapter, ValidationError
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

from weights.errors import InputError

CONFIG = ConfigDict(extra="allow", strict=True, use_attribute_docstrings=True)
"""Of every form: nothing is converted, True is not a number, and strings under fields become descriptions."""

Number = Annotated[float, Field(allow_inf_nan=False)]
Count = Annotated[int, Field(ge=0)]


@dataclass(frozen=True)
class Lengths:
    """How long a list may be."""

    allowed: tuple[int, ...]

    def _check(self, value: list[Any]) -> list[Any]:
        if len(value) not in self.allowed:
            wanted = f"{self.allowed[-1]} {'is' if self.allowed[-1] == 1 else 'are'} needed"
            raise PydanticCustomError("length", f"has {len(value)} entries where {wanted}")
        return value

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_after_validator_function(self._check, handler(source))

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        ranges = [{"minItems": length, "maxItems": length} for length in self.allowed]
        return {**handler(schema), **(ranges[0] if len(ranges) == 1 else {"anyOf": ranges})}


class _Untitled(GenerateJsonSchema):
    """Without a title for every key, which would only repeat the key."""

    def field_title_should_be_set(self, schema: Any) -> bool:
        return False


@dataclass(frozen=True)
class Form:
    """The form of a kind of file."""

    type: Any
    """A TypedDict, or a list of them, with `CONFIG`."""
    title: str
    advice: str
    """What to do about a file that is not of the form; ends a message."""

    def check(self, value: object, source: str) -> None:
        """Raises InputError naming the first place of `value` that is not of the form; `source` is the file."""
        try:
            self._adapter.validate_python(value)
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            place = place_of(first["loc"])
            where = f"{source}: {place}" if place else source
            raise InputError(f"{where} {_said(first)}; {self.advice}") from None

    def schema(self) -> str:
        """The JSON Schema, as JSON text."""
        draft = {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": self.title}
        return json.dumps({**self._adapter.json_schema(schema_generator=_Untitled), **draft}, indent=2) + "\n"

    @cached_property
    def _adapter(self) -> TypeAdapter[Any]:
        return TypeAdapter(self.type)


def read_json(path: Path, advice: str) -> Any:
    """What a file of JSON holds; NaN and infinities are no numbers. Raises InputError, which ends with `advice`."""

    def refuse(name: str) -> NoReturn:
        raise ValueError(f"{name} is not a number")

    try:
        return json.loads(path.read_text("utf-8-sig"), parse_constant=refuse)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); {advice}") from error
    except (ValueError, RecursionError) as error:  # also bytes that are no text, and a number of thousands of digits
        raise InputError(f"{path}: is not JSON ({error}); {advice}") from error


def place_of(steps: Sequence[str | int]) -> str:
    """`frames[3].iou` of ("frames", 3, "iou")."""
    return "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in steps).removeprefix(".")


_SAID = {
    "missing": "is not there",
    "dict_type": "is not an object",
    "list_type": "is not a list",
    "string_type": "is not a text",
    "bool_type": "is not true or false",
    "int_type": "is not a whole number",
    "float_type": "is not a number",
    "finite_number": "is not a finite number",
}


def _said(error: Any) -> str:
    kind = error["type"]
    if kind == "greater_than_equal":
        return f"is below {error['ctx']['ge']}"
    if kind in _SAID:
        return _SAID[kind]
    message = str(error["msg"])
    return message.replace("Input should be", "is not", 1)
