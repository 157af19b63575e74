"""What a training loop is timed with: batches made of nothing, and a callback that looks at the clock."""

from __future__ import annotations

import time
from typing import Any

import torch
from gpu_measuring import settle
from lightning.pytorch import Callback

from mamoe.vocabulary.batch import Batch, RegionBatch


class Numbers:
    """A data set of numbers: the batches are made of nothing but their keys."""

    def __len__(self) -> int:
        return 1000

    def __getitem__(self, key: tuple[int, int]) -> tuple[int, int]:
        return key


def encoded_batch(keys: list[tuple[int, int]], regions: RegionBatch, cells: int) -> Batch:
    return Batch(
        keys=tuple(map(str, keys)),
        index=torch.tensor([index for _, index in keys]),
        epoch=torch.tensor([epoch for epoch, _ in keys]),
        image=None,
        regions=regions,
        moments=torch.ones((len(keys), 2, 4, cells, cells)),
    )


class Enough(Exception):
    """All steps are timed: what follows would write 23 GB."""


class StepClock(Callback):
    """When steps ended; the device is waited for at two of them alone."""

    def __init__(self, device: torch.device) -> None:
        self.device, self.ends = device, {}

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        if trainer.global_step in (10, trainer.max_steps - 1):
            settle(self.device)
        self.ends[trainer.global_step] = time.perf_counter()
        if trainer.global_step == trainer.max_steps - 1:
            raise Enough

    def pace(self, first: int, last: int) -> float:
        """Milliseconds of a step between the ends of two."""
        return 1000 * (self.ends[last] - self.ends[first]) / (last - first)
