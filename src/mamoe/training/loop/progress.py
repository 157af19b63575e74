"""One line that tells how a training is doing: a live bar in a terminal, a plain line now and then elsewhere."""

from __future__ import annotations

import math
import time

from lightning.pytorch import Callback, LightningModule, Trainer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from mamoe.training.loop.steps import stepped
from mamoe.training.order.loaders import LayoutDataModule
from mamoe.training.step.module import DiffusionModule

_PLAIN_EVERY_SECONDS = 10.0
_WINDOW = 50  # steps that rates and the smoothed loss look back on


class Smoothed:
    """A mean over about the last ``window`` values, unbiased from the first one on."""

    def __init__(self, window: int = _WINDOW) -> None:
        self._keep = 1 - 1 / window
        self._sum = self._weight = 0.0

    def add(self, value: float) -> None:
        self._sum = self._keep * self._sum + (1 - self._keep) * value
        self._weight = self._keep * self._weight + (1 - self._keep)

    @property
    def mean(self) -> float:
        return self._sum / self._weight if self._weight else float("nan")


class TrainingProgress(Callback):
    """Step of total, smoothed loss, pictures per second, share of time spent waiting for data, time left."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._bar: Progress | None = None
        self._task = TaskID(0)
        self._loss, self._seconds, self._waited = Smoothed(), Smoothed(), Smoothed()
        self._step_began = self._last_line = 0.0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._step_began = self._last_line = time.monotonic()
        if trainer.is_global_zero and self._console.is_terminal:
            columns = ("[bold]train", BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[facts]}"))
            self._bar = Progress(*columns, TextColumn("left"), TimeRemainingColumn(), console=self._console)
            self._bar.start()
            self._task = self._bar.add_task("", total=trainer.max_steps, completed=trainer.global_step, facts="")

    def on_train_batch_end(self, trainer: Trainer, pl_module: DiffusionModule, outputs, batch, batch_idx: int) -> None:  # type: ignore[override]
        if not stepped(trainer, batch_idx) or not trainer.is_global_zero:
            return
        data: LayoutDataModule = trainer.datamodule  # type: ignore[attr-defined]
        now = time.monotonic()
        if not math.isnan(pl_module.watch.loss):  # on a GPU nobody has looked at the first step yet
            self._loss.add(pl_module.watch.loss)
        self._seconds.add(now - self._step_began)
        self._waited.add(data.take_waited())
        self._step_began = now
        facts = self._facts(data.batch_size * trainer.accumulate_grad_batches)
        if self._bar is not None:
            self._bar.update(self._task, completed=trainer.global_step, facts=facts)
        elif now - self._last_line >= _PLAIN_EVERY_SECONDS or trainer.global_step == trainer.max_steps:
            self._last_line = now
            left = (trainer.max_steps - trainer.global_step) * self._seconds.mean
            self._console.print(f"step {trainer.global_step}/{trainer.max_steps}  {facts}  left {_clock(left)}")

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._stop()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self._stop()

    def _facts(self, images_per_step: int) -> str:
        seconds = max(self._seconds.mean, 1e-9)
        share = min(1.0, self._waited.mean / seconds)
        return f"loss {self._loss.mean:.4f}  {images_per_step / seconds:.1f} images/s  waiting for data {share:.0%}"

    def _stop(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}"
