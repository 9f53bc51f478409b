"""The table of what others can read, as text: the terminal and the page show the same cells."""

from __future__ import annotations

from dataclasses import dataclass

from drsf_cli.measure.leakage_form import COLUMNS, IdentityLeakage, Leakage, ModelLeakage
from drsf_cli.measure.metrics import Metric, decided_by
from drsf_cli.measure.quantities import quantity

HEADINGS = ("original", "obscured only", "obscured + attacked", "leakage")
"""Headings of the columns, and of the gap between the last two."""
MODEL_HEADINGS = (*HEADINGS, "blind")
"""Headings of a model's rows: also the errors of a reader who looks at no pixel."""


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


def model_rows(document: Leakage) -> list[ModelRows]:
    """The rows of the figures that drsf_cli/measure/leakage.py measured."""
    found = []
    for model in document["models"]:
        mark = "repelled" if model["repelled"] else "reads on purpose" if model["authorised"] else ""
        rows = [
            Row(metric.title, _cells(model, metric))
            for metric in decided_by("detector")
            if metric.key in model["leakage"]
        ]
        found.append(ModelRows(model["name"], mark, tuple(rows)))
    return found


def _cells(model: ModelLeakage, metric: Metric) -> tuple[str, ...]:
    def text(value: float, sign: str = "") -> str:
        # one decimal less than where the authorised reading is shown, which is far more exact
        return quantity(value * metric.scale, metric.unit, max(0, metric.digits - 1), sign)

    values = [model["columns"][column][metric.key] for column in COLUMNS]
    gap = model["leakage"][metric.key]
    nothing = "–" if values[-1] is None else "from nothing"
    blind = model.get("blind", {}).get(metric.key)  # reports of earlier versions have none
    cells = ("nothing" if value is None else text(value) for value in values)
    return *cells, nothing if gap is None else text(gap, "+"), "–" if blind is None else text(blind)


def identity_rows(identity: IdentityLeakage) -> list[Row]:
    """How near the recogniser's embeddings are to the driver's; rows that were not measured are left out."""
    titles = (
        ("cosine", "cosine"),
        ("rank1", f"rank-1 of {identity['people'] + 1}"),
        ("tar", f"TAR@FAR {identity['far']:g}"),
    )
    found = []
    for key, title in titles if identity["columns"] else ():
        values = [identity["columns"][column][key] for column in COLUMNS]
        gap = identity["leakage"][key]
        if gap is not None:
            cells = (*("–" if one is None else quantity(one, "", 3) for one in values), quantity(gap, "", 3, "+"))
            found.append(Row(title, cells))
    return found


def looked_at(document: Leakage) -> str:
    """How many frames were looked at, and for what the figures hold."""
    return f"{document['frames_looked_at']} of {document['frames']} frames looked at. {document['note']}"
