"""A watch over the losses of an optimizer step: stops a run before NaN reaches the weights."""

from __future__ import annotations

import logging
import math

import torch
from lightning.pytorch.strategies import Strategy
from torch import Tensor

from mamoe.types import NonFiniteLossError

log = logging.getLogger(__name__)

MOST_SKIPPED = 20  # halvings from 65536 leave a scale of 1/16, under which only an infinite gradient overflows


class StepWatch:
    """Collects the losses of the micro-batches of one optimizer step, and judges them with the gradient norm."""

    def __init__(self) -> None:
        self.loss = math.nan  # mean over the last finished step's pictures, this process
        self.grad_norm = math.nan
        self.learning_rate = math.nan
        self.skipped = 0  # steps left out in all, because float16 gradients overflowed
        self.skipped_in_a_row = 0
        self._losses: list[Tensor] = []
        self._keys: list[str] = []

    def add(self, loss: Tensor, keys: tuple[str, ...]) -> None:
        self._losses.append(loss.detach())
        self._keys.extend(keys)

    def check(
        self, grad_norm: Tensor, *, learning_rate: float, step: int, strategy: Strategy, scaled: bool = False
    ) -> None:
        """Close the step, whose gradients have the global norm ``grad_norm`` before clipping.

        Where the loss was ``scaled``, gradients that overflow under a finite loss are no error: the step is left out
        and the next one scaled less. Only after ``MOST_SKIPPED`` such steps in a row nothing but an error explains it.

        Raises:
            NonFiniteLossError: a loss or the gradient norm is NaN or infinite, on every process alike, before the
                weights change.
        """
        losses, keys = torch.cat(self._losses).float(), self._keys
        self._losses, self._keys, self.learning_rate = [], [], learning_rate
        values = torch.stack([losses.mean(), grad_norm.detach().float()])
        self.loss, self.grad_norm = values.tolist()
        finite = math.isfinite(self.loss) and math.isfinite(self.grad_norm)
        if strategy.reduce_boolean_decision(finite, all=True):
            self.skipped_in_a_row = 0
            return
        overflowed = scaled and strategy.reduce_boolean_decision(math.isfinite(self.loss), all=True)
        if overflowed and self.skipped_in_a_row < MOST_SKIPPED:
            self.skipped, self.skipped_in_a_row = self.skipped + 1, self.skipped_in_a_row + 1
            log.info("Step %d: float16 gradients overflowed; left out, the %d. in all.", step, self.skipped)
            return
        bad = [key for key, value in zip(keys, losses.tolist(), strict=True) if not math.isfinite(value)]
        where = f"non-finite for {', '.join(bad)}" if bad else "finite for every picture of this process"
        raise NonFiniteLossError(
            f"Step {step}: loss {self.loss}, gradient norm {self.grad_norm} (loss {where}; pictures of the step: "
            f"{', '.join(keys)}). The weights were not changed. Lower the learning rate, clip the gradients "
            "(trainer.gradient_clip_val), or look at the pictures named; then resume from the last checkpoint."
        )
