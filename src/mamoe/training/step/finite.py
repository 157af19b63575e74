"""A watch over the losses of an optimizer step: stops a run before NaN reaches the weights."""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass

import torch
from jaxtyping import Float64
from lightning.pytorch import Trainer
from torch import Tensor

from mamoe.errors import NonFiniteLossError
from mamoe.vocabulary.batch import Batch

log = logging.getLogger(__name__)

MOST_SKIPPED = 20  # halvings from 65536 leave a scale of 1/16, under which only an infinite gradient overflows


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class FailedStep:
    """An optimizer step whose loss or gradient was not finite; the weights are those before it."""

    step: int  # the number it would have had
    learning_rate: float
    grad_norm: float  # before clipping
    pictures: Float64[Tensor, "P 3"]  # epoch, index and loss of every picture, process after process


class StepWatch:
    """Collects the losses of the micro-batches of one optimizer step, and judges them with the gradient norm."""

    def __init__(self) -> None:
        self.loss = math.nan  # mean over the last finished step's pictures, this process
        self.grad_norm = math.nan
        self.learning_rate = math.nan
        self.skipped = 0  # steps left out in all, because float16 gradients overflowed
        self.skipped_in_a_row = 0
        self.open = False  # between a batch's start and the judgement: nothing of the step is in the weights
        self.failed: FailedStep | None = None
        self._losses: list[Tensor] = []
        self._batches: list[Batch] = []

    def add(self, loss: Tensor, batch: Batch) -> None:
        self._losses.append(loss.detach())
        self._batches.append(batch)

    def check(self, grad_norm: Tensor, *, learning_rate: float, trainer: Trainer, scaled: bool = False) -> None:
        """Close the step, whose gradients have the global norm ``grad_norm`` before clipping.

        Where the loss was ``scaled``, gradients that overflow under a finite loss are no error: the step is left out
        and the next one scaled less. Only after ``MOST_SKIPPED`` such steps in a row nothing but an error explains it.

        Raises:
            NonFiniteLossError: a loss or the gradient norm is NaN or infinite, on every process alike, before the
                weights change.
        """
        losses, batches = torch.cat(self._losses).float(), self._batches
        self._losses, self._batches, self.learning_rate = [], [], learning_rate
        values = torch.stack([losses.mean(), grad_norm.detach().float()])
        self.loss, self.grad_norm = values.tolist()
        finite = math.isfinite(self.loss) and math.isfinite(self.grad_norm)
        if trainer.strategy.reduce_boolean_decision(finite, all=True):
            self.open, self.skipped_in_a_row = False, 0
            return
        step = trainer.global_step + 1
        overflowed = scaled and trainer.strategy.reduce_boolean_decision(math.isfinite(self.loss), all=True)
        if overflowed and self.skipped_in_a_row < MOST_SKIPPED:
            self.open = False
            self.skipped, self.skipped_in_a_row = self.skipped + 1, self.skipped_in_a_row + 1
            log.info("Step %d: float16 gradients overflowed; left out, the %d. in all.", step, self.skipped)
            return
        rows = torch.stack([_joined(batches, "epoch"), _joined(batches, "index"), losses.double().cpu()], dim=1)
        gathered = trainer.strategy.all_gather(rows.to(trainer.strategy.root_device))
        self.failed = FailedStep(
            step=step, learning_rate=learning_rate, grad_norm=self.grad_norm, pictures=gathered.reshape(-1, 3).cpu()
        )
        keys = [key for batch in batches for key in batch.keys]
        bad = [key for key, value in zip(keys, losses.tolist(), strict=True) if not math.isfinite(value)]
        where = f"non-finite for {', '.join(bad)}" if bad else "finite for every picture of this process"
        raise NonFiniteLossError(
            f"Step {step}: loss {self.loss}, gradient norm {self.grad_norm} (loss {where}; pictures of the step: "
            f"{', '.join(keys)}). The weights were not changed. Lower the learning rate, clip the gradients "
            "(trainer.gradient_clip_val), or look at the pictures named; then resume from the last checkpoint."
        )


def _joined(batches: list[Batch], name: str) -> Float64[Tensor, "P"]:
    return torch.cat([getattr(batch, name) for batch in batches]).double().cpu()
