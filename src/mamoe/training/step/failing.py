"""What is kept when a step fails before the weights change: the state before it, and a file that replays it."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, Trainer

from mamoe.errors import NonFiniteLossError
from mamoe.machine.memory import is_out_of_memory
from mamoe.runs.checkpoint import checkpoint_dir
from mamoe.storage.staging import write_whole
from mamoe.training.loop.saving import Checkpoints
from mamoe.training.order.loaders import LayoutDataModule
from mamoe.training.step.finite import FailedStep
from mamoe.training.step.module import DiffusionModule

log = logging.getLogger(__name__)


class Failing(Callback):
    """Writes ``<run>/nonfinite-step-….json`` and the checkpoint before that step when a loss or gradient is not finite.

    Where memory runs out in the middle of a step, the checkpoint before it is kept too, and ``out_of_memory`` says
    that the step can be tried again in smaller pieces.
    """

    def __init__(self, run_dir: Path, saving: Checkpoints) -> None:
        self._run_dir, self._saving = run_dir, saving
        self.out_of_memory = False
        self.report: Path | None = None

    def on_exception(self, trainer: Trainer, pl_module: DiffusionModule, exception: BaseException) -> None:  # type: ignore[override]
        lacks_memory = is_out_of_memory(exception) and pl_module.watch.open and trainer.world_size == 1
        if lacks_memory:
            try:
                pl_module.look()
            except NonFiniteLossError as error:  # the step before the one that memory was lacking for
                exception, lacks_memory = error, False
        failed = pl_module.watch.failed
        if isinstance(exception, NonFiniteLossError) and failed is not None:
            self._saving.save_unfinished(trainer, pl_module, failed.step - 1)
            self.report = self._run_dir / f"nonfinite-step-{failed.step:08d}.json"
            if trainer.is_global_zero:
                content = _report(failed, self._run_dir, pl_module, trainer.datamodule)  # type: ignore[attr-defined]
                write_whole(json.dumps(content, indent=1), self.report)
        elif lacks_memory:
            self.out_of_memory = True
            self._saving.save_unfinished(trainer, pl_module, trainer.global_step)


def _report(failed: FailedStep, run_dir: Path, module: DiffusionModule, data: LayoutDataModule) -> dict[str, Any]:
    before = checkpoint_dir(run_dir, failed.step - 1)
    pictures = []
    for epoch, index, loss in failed.pictures.tolist():
        key = data.train[int(epoch), int(index)].key
        pictures.append({"key": key, "epoch": int(epoch), "index": int(index), "loss": str(loss)})
    return {
        "step": failed.step,
        "checkpoint": str(before.relative_to(run_dir)) if before.is_dir() else None,  # None: the start of the run
        "seed": module.seed,
        "order_seed": data.seed,
        "pieces": data.pieces,
        "learning_rate": failed.learning_rate,
        "grad_norm": str(failed.grad_norm),  # JSON has no word for nan
        "pictures": pictures,
    }
