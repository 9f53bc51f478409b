"""The form of what others can read: a section of the report, and all that `drsf audit --json` writes."""

from __future__ import annotations

from typing import Annotated, Literal, NotRequired

from pydantic import AfterValidator
from pydantic_core import PydanticCustomError
from typing_extensions import TypedDict

from drsf_cli.measure.json_form import Count, Number

Column = Literal["original", "obscured", "written"]
COLUMNS: tuple[Column, ...] = ("original", "obscured", "written")
Figures = dict[str, Number | None]
"""`frames`, `detected` (a share), and metrics of drsf_cli/measure/metrics.py; null where nothing was read."""


class Columns(TypedDict):
    """Figures of the original, of the obscured video without a perturbation, and of the written file."""

    original: Figures
    obscured: Figures
    written: Figures


class ModelLeakage(TypedDict):
    """What one model reads."""

    name: str
    repelled: bool
    authorised: bool
    columns: Columns
    leakage: Figures
    """How much better the model reads the written file than the obscured one."""
    role: NotRequired[str]
    weights: NotRequired[dict[str, str]]
    blind: NotRequired[Figures]
    """Errors of a reader who is told the true box and looks at no pixel."""


class IdentityColumns(TypedDict, total=False):
    """Figures by column; none where no face was looked at."""

    original: Figures
    obscured: Figures
    written: Figures


class IdentityLeakage(TypedDict):
    """How near a face recogniser puts the driver to the driver."""

    recogniser: str
    people: Count
    """Other people in the gallery."""
    far: Number
    columns: IdentityColumns
    weights: NotRequired[dict[str, str]]
    threshold: NotRequired[Number | None]
    leakage: NotRequired[Figures]


def _complete(model: ModelLeakage) -> ModelLeakage:
    for column in COLUMNS:
        for key in model["leakage"]:
            if key not in model["columns"][column]:
                raise PydanticCustomError("incomplete", f"has no columns.{column}.{key}")
    return model


def _identity_complete(identity: IdentityLeakage) -> IdentityLeakage:
    if not identity["columns"]:
        return identity
    if "leakage" not in identity:
        raise PydanticCustomError("incomplete", "has no leakage")
    for column in COLUMNS:
        for key in identity["leakage"]:
            if key not in identity["columns"].get(column, {}):
                raise PydanticCustomError("incomplete", f"has no columns.{column}.{key}")
    return identity


class Leakage(TypedDict):
    """What models that were not authorised read. The figures hold for these models and this video."""

    models: list[Annotated[ModelLeakage, AfterValidator(_complete)]]
    identity: Annotated[IdentityLeakage, AfterValidator(_identity_complete)] | None
    frames: Count
    frames_looked_at: Count
    every: NotRequired[Count]
    note: str
