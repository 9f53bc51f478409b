"""How threads wait for work, set before torch is imported.

By default, OpenMP's threads spin while they wait, so two processes on the same cores take the cores from each other: on
two cores, one run alone took 44 s, and two side by side took 292 s each. With threads that sleep, a run alone took 45 s
and so lost nothing measurable, and two side by side took 35 s each.
"""

from __future__ import annotations

from collections.abc import MutableMapping

PASSIVE_WAITING = {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "0", "KMP_BLOCKTIME": "0"}
"""Environment variables of GNU's and Intel's OpenMP (libgomp, libomp), which read them while they are loaded."""


def wait_passively(environment: MutableMapping[str, str]) -> None:
    """Let waiting threads sleep, unless `environment` already says how they wait."""
    if not PASSIVE_WAITING.keys() & environment.keys():
        environment.update(PASSIVE_WAITING)
