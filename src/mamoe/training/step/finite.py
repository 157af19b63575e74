"""A watch over the losses of an optimizer step: stops a run before NaN reaches the weights.

Where the device works ahead of the host, the device itself keeps such a step out of the weights, and the host learns
it a step later (:meth:`StepWatch.look_later`): it never waits for the step at hand.
"""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass

import torch
from jaxtyping import Float, Float64
from lightning.pytorch import Trainer
from torch import Tensor
from torch.optim import Adam, AdamW, Optimizer

from mamoe.errors import NonFiniteLossError
from mamoe.machine.transfers import Arrival
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


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class _Closed:
    """A step whose gradients are there; nobody has looked at its figures yet."""

    step: int
    learning_rate: float
    batches: list[Batch]
    figures: Arrival  # mean loss, gradient norm before clipping, loss of every picture


class StepWatch:
    """Collects the losses of the micro-batches of one optimizer step, and judges them with the gradient norm."""

    def __init__(self) -> None:
        # Of the last step that was looked at:
        self.loss = math.nan  # mean over its pictures, this process
        self.grad_norm = math.nan
        self.learning_rate = math.nan
        self.skipped = 0  # steps left out in all, because float16 gradients overflowed
        self.skipped_in_a_row = 0
        self.open = False  # between a batch's start and the end of its step: nothing of the step is in the weights
        self.failed: FailedStep | None = None
        self._losses: list[Tensor] = []
        self._batches: list[Batch] = []
        self._unseen: _Closed | None = None

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
        closed, _ = self._close(grad_norm, learning_rate, trainer)
        self._judge(closed, trainer, scaled)

    def look_later(self, grad_norm: Tensor, *, learning_rate: float, trainer: Trainer) -> Float[Tensor, ""]:
        """Close the step as :meth:`check` does, and leave the look at it to :meth:`look`.

        Returns:
            1 on the device if the step is not finite, else 0: what an optimizer of :func:`leaves_out` reads as
            ``found_inf``.
        """
        assert self._unseen is None, "the step before has not been looked at"
        self._unseen, figures = self._close(grad_norm, learning_rate, trainer)
        self.open = False
        return figures[:2].isfinite().all().logical_not().float()

    @property
    def unseen(self) -> bool:
        """Whether there is a step that nobody has looked at."""
        return self._unseen is not None

    def look(self, trainer: Trainer) -> None:
        """Look at the step that was left for later.

        Raises:
            NonFiniteLossError: as :meth:`check`; the weights and the optimizer's state are those before that step.
        """
        closed, self._unseen = self._unseen, None
        assert closed is not None, "every step has been looked at"
        still_open = self.open
        self._judge(closed, trainer, scaled=False)
        self.open = still_open

    def _close(self, grad_norm: Tensor, learning_rate: float, trainer: Trainer) -> tuple[_Closed, Float[Tensor, "_"]]:
        losses = torch.cat(self._losses).float()
        figures = torch.cat([torch.stack([losses.mean(), grad_norm.detach().float()]), losses])
        closed = _Closed(
            step=trainer.global_step + 1, learning_rate=learning_rate, batches=self._batches, figures=Arrival(figures)
        )
        self._losses, self._batches = [], []
        return closed, figures

    def _judge(self, closed: _Closed, trainer: Trainer, scaled: bool) -> None:
        figures, self.learning_rate = closed.figures.read(), closed.learning_rate
        self.loss, self.grad_norm = figures[:2].tolist()
        finite = math.isfinite(self.loss) and math.isfinite(self.grad_norm)
        if trainer.strategy.reduce_boolean_decision(finite, all=True):
            self.open, self.skipped_in_a_row = False, 0
            return
        overflowed = scaled and trainer.strategy.reduce_boolean_decision(math.isfinite(self.loss), all=True)
        if overflowed and self.skipped_in_a_row < MOST_SKIPPED:
            self.open = False
            self.skipped, self.skipped_in_a_row = self.skipped + 1, self.skipped_in_a_row + 1
            log.info("Step %d: float16 gradients overflowed; left out, the %d. in all.", closed.step, self.skipped)
            return
        losses = figures[2:]
        rows = torch.stack([_joined(closed.batches, "epoch"), _joined(closed.batches, "index"), losses.double()], dim=1)
        gathered = trainer.strategy.all_gather(rows.to(trainer.strategy.root_device))
        self.failed = FailedStep(
            step=closed.step,
            learning_rate=closed.learning_rate,
            grad_norm=self.grad_norm,
            pictures=gathered.reshape(-1, 3).cpu(),
        )
        keys = [key for batch in closed.batches for key in batch.keys]
        bad = [key for key, value in zip(keys, losses.tolist(), strict=True) if not math.isfinite(value)]
        where = f"non-finite for {', '.join(bad)}" if bad else "finite for every picture of this process"
        raise NonFiniteLossError(
            f"Step {closed.step}: loss {self.loss}, gradient norm {self.grad_norm} (loss {where}; pictures of the "
            f"step: {', '.join(keys)}). The weights were not changed. Lower the learning rate, clip the gradients "
            "(trainer.gradient_clip_val), or look at the pictures named; then resume from the last checkpoint."
        )


def leaves_out(optimizer: Optimizer) -> bool:
    """Whether ``optimizer`` leaves weights and state alone in a step whose ``optimizer.found_inf`` is 1."""
    fused = all(group.get("fused") for group in optimizer.param_groups)
    return type(optimizer) in (Adam, AdamW) and fused


def _joined(batches: list[Batch], name: str) -> Float64[Tensor, "P"]:
    return torch.cat([getattr(batch, name) for batch in batches]).double()
