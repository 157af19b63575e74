"""Which part of a command's work this process does, where a launcher started several of them. Loads no torch."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from mamoe.errors import ConfigError

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True, slots=True)
class Share:
    """Part ``rank`` of ``count``; the parts know nothing of each other but what is on the disk they share."""

    rank: int = 0
    count: int = 1

    @property
    def alone(self) -> bool:
        return self.count == 1

    def of(self, work: Sequence[T]) -> list[T]:
        """What this process does of what all do together."""
        return list(work[self.rank :: self.count])


def this_share(environment: Mapping[str, str] = os.environ) -> Share:
    """The part of this process: of those torchrun started, else of the tasks of a SLURM job array, else all.

    Raises:
        ConfigError: the array's tasks are not numbered in even steps, so that nobody can tell which part this is.
    """
    count = int(environment.get("WORLD_SIZE", "1"))
    if count > 1:
        return Share(rank=int(environment["RANK"]), count=count)
    if "SLURM_ARRAY_TASK_ID" not in environment or "SLURM_ARRAY_TASK_COUNT" not in environment:
        return Share()
    task, count = int(environment["SLURM_ARRAY_TASK_ID"]), int(environment["SLURM_ARRAY_TASK_COUNT"])
    first, step = int(environment.get("SLURM_ARRAY_TASK_MIN", "0")), int(environment.get("SLURM_ARRAY_TASK_STEP", "1"))
    rank, rest = divmod(task - first, max(1, step))
    if rest or not 0 <= rank < count:
        raise ConfigError(
            f"The tasks of this job array are not numbered in even steps (task {task}, the first is {first}, {count} "
            f"in all), so there is no telling which part this is: use --array=0-{count - 1}."
        )
    return Share(rank=rank, count=count)
