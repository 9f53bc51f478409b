"""Shares of a batch, for machines that work independently of each other."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from weights.errors import UsageError

T = TypeVar("T")


@dataclass(frozen=True)
class Shard:
    """Share `number` of `count`, from 1 on."""

    number: int
    count: int

    def of(self, items: Sequence[T]) -> list[T]:
        """Every `count`-th item. Neighbours often have the same length, so this spreads them over the shares."""
        return list(items[self.number - 1 :: self.count])


def parse_shard(text: str, environment: Mapping[str, str]) -> Shard:
    """`i/n`, or `slurm` for a task of a SLURM job array.

    The array's variables (SLURM_ARRAY_TASK_ID, _MIN, _STEP and _COUNT) are read from `environment`. Raises UsageError.
    """
    if text.strip().lower() == "slurm":
        return _slurm(environment)
    match = re.fullmatch(r"\s*(\d+)\s*/\s*(\d+)\s*", text)
    if match is None:
        raise UsageError(f"--shard {text} is not a share; write i/n, such as 1/8, or slurm inside a job array.")
    shard = Shard(int(match[1]), int(match[2]))
    if not 1 <= shard.number <= shard.count:
        raise UsageError(f"--shard {text} is out of range; shares of n count from 1/n to n/n.")
    return shard


def _slurm(environment: Mapping[str, str]) -> Shard:
    try:
        own, first, count = (int(environment[f"SLURM_ARRAY_TASK_{name}"]) for name in ("ID", "MIN", "COUNT"))
        step = int(environment.get("SLURM_ARRAY_TASK_STEP", "1"))
    except (KeyError, ValueError) as error:
        raise UsageError(
            "--shard slurm finds no SLURM_ARRAY_TASK_ID, _MIN and _COUNT; submit the job with sbatch --array=1-N."
        ) from error
    place, rest = divmod(own - first, max(step, 1))
    if rest or not 0 <= place < count:
        raise UsageError(
            f"--shard slurm cannot place task {own} among {count} that begin at {first}; submit the whole array, "
            "without gaps (--resume skips what is finished)."
        )
    return Shard(place + 1, count)
