"""How threads wait for work, set before torch is imported.

OpenMP's threads spin while they wait, by default, so that two processes on the same cores take the cores from each
other: on two cores, one run alone took 44 s and two side by side 292 s each. Threads that sleep cost a run alone
nothing that was seen (45 s), and two side by side take 35 s each.
"""

from __future__ import annotations

from collections.abc import MutableMapping

PASSIVE_WAITING = {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "0", "KMP_BLOCKTIME": "0"}
"""Environment variables of GNU's and Intel's OpenMP (libgomp, libomp), which read them when they are loaded."""


def wait_passively(environment: MutableMapping[str, str]) -> None:
    """Let waiting threads sleep, except where `environment` already says how they wait."""
    if not PASSIVE_WAITING.keys() & environment.keys():
        environment.update(PASSIVE_WAITING)
