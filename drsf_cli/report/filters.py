"""What the page's template turns values into."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from drsf_cli.measure.behaviour import figure_rows
from drsf_cli.measure.leakage_table import identity_rows, looked_at, model_rows
from drsf_cli.measure.metrics import text_of


def _audit_limits(audit: Mapping[str, Any]) -> list[dict[str, Any]]:
    """One row a limit: the worst that was found, where the audit keeps it, and what it may be."""
    limits = audit.get("limits")
    if not isinstance(limits, Mapping):
        return []
    return [
        {"measure": key.replace("_", " "), "worst found": audit.get(f"worst_{key}"), "limit": limit}
        for key, limit in limits.items()
    ]


def _audit_rest(audit: Mapping[str, Any]) -> dict[str, Any]:
    """What has no table of its own."""
    shown = {"limits", "worst_frames", *(f"worst_{key}" for key in audit.get("limits") or {})}
    return {key: value for key, value in audit.items() if key not in shown}


def plain(value: object) -> str:
    """A setting as a person reads it."""
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.5g}"
    if isinstance(value, list | tuple):
        return ", ".join(plain(item) for item in value) or "–"
    return str(value)


def _is_table(value: object) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(item, Mapping) for item in value)


def _columns(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    return list(dict.fromkeys(key for row in rows for key in row))


FILTERS: Mapping[str, Callable[..., Any]] = {
    "plain": plain,
    "columns": _columns,
    "number": text_of,
    "limits": _audit_limits,
    "rest": _audit_rest,
    "figure_rows": figure_rows,
    "model_rows": model_rows,
    "identity_rows": identity_rows,
    "looked_at": looked_at,
}
TESTS: Mapping[str, Callable[[object], bool]] = {"table": _is_table}
