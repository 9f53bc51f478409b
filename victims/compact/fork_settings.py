"""What decides how private weights are trained (victims/compact/fork.py)."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class ForkSettings:
    """How long and how hard."""

    steps: int = 600
    batch: int = 12
    pool: int = 96
    """Faces with perturbations of their own."""
    pool_batch: int = 8
    rate: float = 1e-3
    noise: float = 0.0
    """Of the weights to start from, in deviations of each layer's weights."""
    refuse_weight: float = 1.0
    private_weight: float = 0.3
