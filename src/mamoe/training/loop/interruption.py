"""What ends a run early, after the step at hand and with a checkpoint: Ctrl-C, a scheduler's signal, its own time."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from enum import IntEnum
from types import FrameType
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import nn

from mamoe.training.loop.steps import stepped


class Stop(IntEnum):
    """Why a run ended before its last step; where processes have different reasons, the greatest holds for all."""

    OUT_OF_TIME = 1  # trainer.max_time
    PREEMPTED = 2  # SIGTERM, or the signal a scheduler was told to send
    INTERRUPTED = 3  # Ctrl-C

    @property
    def exit_code(self) -> int:
        """130 for Ctrl-C; 75 (try again) for what a scheduler may start anew."""
        return 130 if self is Stop.INTERRUPTED else 75


class Listening(Callback):
    """Notes what signals ask for, in handlers that do nothing else. A second Ctrl-C ends the program at once.

    Comes first among the callbacks, so that no signal finds the training without it.

    Args:
        preemption: signals that mean preemption, besides SIGTERM.
    """

    def __init__(self, preemption: Sequence[signal.Signals] = ()) -> None:
        self.heard: Stop | None = None
        self._meaning = {signal.SIGINT: Stop.INTERRUPTED, signal.SIGTERM: Stop.PREEMPTED}
        self._meaning |= dict.fromkeys(preemption, Stop.PREEMPTED)
        self._before: dict[signal.Signals, Any] = {}

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        # Here and not earlier: Lightning has just put its own handlers in place, which talk to the other processes
        # from inside the handler.
        self._before = {number: signal.signal(number, self._note) for number in self._meaning}

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._restore()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self._restore()

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.heard is Stop.INTERRUPTED and number == signal.SIGINT:
            raise KeyboardInterrupt
        meant = self._meaning[signal.Signals(number)]
        self.heard = meant if self.heard is None else max(self.heard, meant)

    def _restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}


class _ToldToStop(Exception):
    """Leaves the work at hand; never seen outside of this module."""


class Work:
    """Measuring or drawing that is not worth waiting for once the training is told to stop."""

    def __init__(self, trainer: Trainer) -> None:
        self._trainer, self._left = trainer, False
        self._listening = [callback for callback in trainer.callbacks if isinstance(callback, Listening)]  # type: ignore[attr-defined]

    def go_on(self, *_: object) -> None:
        """To be called between pieces of the work; leaves the ``with`` when a signal was heard."""
        if any(listening.heard is not None for listening in self._listening):
            raise _ToldToStop

    def left_anywhere(self) -> bool:
        """Whether any process left its share undone; called by every one, after the ``with``."""
        left = torch.tensor(int(self._left), device=self._trainer.strategy.root_device)
        return bool(int(self._trainer.strategy.reduce(left, reduce_op="max")))


@contextmanager
def unless_told_to_stop(trainer: Trainer, network: nn.Module) -> Iterator[Work]:
    """Work that ends, once the training is told to stop, at the next forward pass of ``network``: a denoising step."""
    work = Work(trainer)
    hook = network.register_forward_pre_hook(work.go_on)
    try:
        yield work
    except _ToldToStop:
        work._left = True
    finally:
        hook.remove()


def then(trainer: Trainer) -> str:
    """What becomes of work that was left."""
    done = trainer.global_step >= trainer.max_steps
    return "they are left out, the training is done." if done else "they are made when the run goes on."


class Stopping(Callback):
    """Stops the trainer at the end of an optimizer step that a signal or the run's own time asks to be the last.

    Comes right before the checkpoint callback, which saves because the trainer is about to stop.

    Args:
        listening: what was heard in this process; one all-reduce per step asks the others.
        max_seconds: from now on; None = no limit.
    """

    def __init__(self, listening: Listening, max_seconds: float | None = None) -> None:
        self.reason: Stop | None = None
        self._listening = listening
        self._deadline = None if max_seconds is None else time.monotonic() + max_seconds

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, outputs, batch, batch_idx: int) -> None:
        if not stepped(trainer, batch_idx):
            return
        late = self._deadline is not None and time.monotonic() >= self._deadline
        mine = self._listening.heard or (Stop.OUT_OF_TIME if late else 0)
        reason = int(mine)
        if trainer.world_size > 1:
            told = torch.tensor(reason, device=trainer.strategy.root_device)
            reason = int(trainer.strategy.reduce(told, reduce_op="max"))
        if reason:
            self.reason = Stop(reason)
            trainer.should_stop = True
