"""What a training costs, in ``<run>/cost.json``: parameters, seconds of a step, peak memory."""

from __future__ import annotations

import json
import statistics
import time
from pathlib import Path

from lightning.pytorch import Callback, Trainer

from mamoe.machine.memory import peak_mib
from mamoe.storage.staging import write_whole
from mamoe.training.loop.steps import stepped
from mamoe.training.step.module import DiffusionModule

COST_FILE = "cost.json"


class Cost(Callback):
    """Measures every step from its batch's arrival to its end, without the wait for data and without evaluations.

    ``seconds_per_step`` is the median over the steps of this session. ``peak_mib`` is the most memory the process held:
    on a GPU what torch allocated there, else of the whole process.
    """

    def __init__(self, run_dir: Path) -> None:
        self._path = run_dir / COST_FILE
        self._began: float | None = None
        self._spent = 0.0
        self._steps: list[float] = []

    def on_train_batch_start(self, trainer: Trainer, pl_module: DiffusionModule, batch, batch_idx: int) -> None:  # type: ignore[override]
        self._began = time.perf_counter()

    def on_train_batch_end(self, trainer: Trainer, pl_module: DiffusionModule, outputs, batch, batch_idx: int) -> None:  # type: ignore[override]
        if self._began is None:
            return
        self._spent += time.perf_counter() - self._began
        if stepped(trainer, batch_idx):
            self._steps.append(self._spent)
            self._spent = 0.0

    def on_train_end(self, trainer: Trainer, pl_module: DiffusionModule) -> None:  # type: ignore[override]
        if not trainer.is_global_zero or not self._steps:
            return
        trained = [p for network in pl_module.trained.values() for p in network.parameters() if p.requires_grad]
        cost = {
            "parameters": sum(p.numel() for p in pl_module.unet.parameters()),
            "trained_parameters": sum(p.numel() for p in trained),
            "seconds_per_step": statistics.median(self._steps),
            "peak_mib": round(peak_mib(pl_module.device), 1),
        }
        write_whole(json.dumps(cost, indent=1) + "\n", self._path)
