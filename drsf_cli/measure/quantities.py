"""A number with its unit, as people read it."""

from __future__ import annotations


def quantity(value: float, unit: str, digits: int, sign: str = "") -> str:
    """`value` with so many decimals and its unit, after a space unless it is °. `sign` "+" also marks positive ones."""
    return f"{value:{sign}.{digits}f}{' ' if unit not in ('', '°') else ''}{unit}"
