"""The table of what others can read, as text: the terminal and the page show the same cells."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from drsf_cli.measure.quantities import quantity

COLUMNS = ("original", "obscured", "written")
HEADINGS = ("original", "obscured only", "obscured + attacked", "leakage")
"""Headings of the columns, and of the gap between the last two."""
MODEL_HEADINGS = (*HEADINGS, "blind")
"""Headings of a model's rows: also the errors of a reader who looks at no pixel."""

_METRICS = (
    ("detected", "seen", "%", 0, 100.0),
    ("iou", "box IoU", "", 2, 1.0),
    ("nme", "landmarks, NME", "%", 1, 1.0),
    ("gaze_deg", "gaze", "°", 1, 1.0),
    ("diff_score", "DiffScore", "", 0, 1.0),
)


@dataclass(frozen=True)
class Row:
    """One measure; a cell for each of `MODEL_HEADINGS`, or of `HEADINGS` for identity."""

    title: str
    cells: tuple[str, ...]


@dataclass(frozen=True)
class ModelRows:
    """What one model reads."""

    name: str
    mark: str
    """`repelled`, `reads on purpose` (the authorised chain), or empty."""
    rows: tuple[Row, ...]


def model_rows(document: Mapping[str, Any]) -> list[ModelRows]:
    """The rows of the figures that drsf_cli/measure/leakage.py measured."""
    found = []
    for model in document["models"]:
        mark = "repelled" if model["repelled"] else "reads on purpose" if model["authorised"] else ""
        rows = [
            Row(title, _cells(model, key, unit, digits, factor))
            for key, title, unit, digits, factor in _METRICS
            if key in model["leakage"]
        ]
        found.append(ModelRows(model["name"], mark, tuple(rows)))
    return found


def _cells(model: Mapping[str, Any], key: str, unit: str, digits: int, factor: float) -> tuple[str, ...]:
    values = [model["columns"][column][key] for column in COLUMNS]
    gap = model["leakage"][key]
    if gap is not None:
        last = quantity(gap * factor, unit, digits, "+")
    else:
        last = "–" if values[-1] is None else "from nothing"
    blind = model.get("blind", {}).get(key)  # reports of earlier versions have none
    cells = ("nothing" if value is None else quantity(value * factor, unit, digits) for value in values)
    return *cells, last, "–" if blind is None else quantity(blind * factor, unit, digits)


def identity_rows(identity: Mapping[str, Any]) -> list[Row]:
    """How near the recogniser's embeddings are to the driver's; rows that were not measured are left out."""
    if not identity["columns"]:
        return []
    titles = (
        ("cosine", "cosine"),
        ("rank1", f"rank-1 of {identity['people'] + 1}"),
        ("tar", f"TAR@FAR {identity['far']:g}"),
    )
    return [
        Row(
            title,
            (
                *(quantity(identity["columns"][column][key], "", 3) for column in COLUMNS),
                quantity(identity["leakage"][key], "", 3, "+"),
            ),
        )
        for key, title in titles
        if identity["columns"]["written"][key] is not None
    ]


def looked_at(document: Mapping[str, Any]) -> str:
    """How many frames were looked at, and for what the figures hold."""
    return f"{document['frames_looked_at']} of {document['frames']} frames looked at. {document['note']}"
