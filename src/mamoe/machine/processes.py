"""The processes that share drawing or scoring: torchrun starts them, this one alone otherwise."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar

import torch.distributed as dist

T = TypeVar("T")

_PATIENCE = timedelta(hours=12)  # another process may draw pictures for long


@dataclass(frozen=True, kw_only=True, slots=True)
class Processes:
    """Which of how many processes this is."""

    rank: int = 0
    count: int = 1

    @property
    def first(self) -> bool:
        """Whether this one writes what is written once."""
        return self.rank == 0

    def share(self, work: Sequence[T]) -> list[T]:
        """What this one does of what all do together."""
        return list(work[self.rank :: self.count])

    def wait(self) -> None:
        """Return when every process has come to the same point."""
        if self.count > 1:
            dist.monitored_barrier(timeout=_PATIENCE)


@contextmanager
def started_processes() -> Iterator[Processes]:
    """The processes torchrun started, joined over gloo; one when nobody started more."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield Processes()
        return
    dist.init_process_group("gloo", timeout=_PATIENCE)
    try:
        yield Processes(rank=dist.get_rank(), count=dist.get_world_size())
    finally:
        dist.destroy_process_group()
