"""Ctrl-C and SIGTERM end a run after the step at hand, with a checkpoint."""

from __future__ import annotations

import signal
from types import FrameType
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from mamoe.training.steps import stepped

EXIT_CODES = {signal.SIGINT: 130, signal.SIGTERM: 75}


class StopOnSignal(Callback):
    """Notes the signal in its handler, and stops the trainer at the end of the optimizer step.

    A second Ctrl-C ends the program at once. Comes before the checkpoint callback, which saves because the trainer
    is about to stop.
    """

    def __init__(self) -> None:
        self.received: signal.Signals | None = None
        self._before: dict[signal.Signals, Any] = {}

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        # Here and not earlier: Lightning has just put its own handlers in place, which talk to the other processes
        # from inside the handler.
        self._before = {number: signal.signal(number, self._note) for number in EXIT_CODES}

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, outputs, batch, batch_idx: int) -> None:
        if not stepped(trainer, batch_idx):
            return
        if trainer.strategy.reduce_boolean_decision(self.received is not None, all=False):
            self.received = self.received or signal.SIGTERM  # another process was told
            trainer.should_stop = True

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._restore()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self._restore()

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.received is signal.SIGINT and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.received = signal.Signals(number)

    def _restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}
