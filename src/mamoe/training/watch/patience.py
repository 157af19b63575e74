"""When a training has come as far as it will: a logged metric that no longer becomes better."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from lightning.pytorch import Callback, Trainer

from mamoe.training.loop.metrics import MetricsFile, read_rows
from mamoe.training.loop.saving import BestBy
from mamoe.training.loop.steps import stepped
from mamoe.training.step.module import DiffusionModule

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class Patience:
    """How many measurements without a better value a training goes on for.

    Prechelt, "Early stopping - but when?", 1998, counts so in his third class of criteria. The count is read from the
    run's metrics.csv and nowhere else. A resumed run has its past there, so it stops where an uninterrupted one does.
    """

    by: BestBy
    measurements: int  # at least 1
    min_delta: float = 0.0  # a value must be better than the best one by more than this, in units of the metric

    def spent(self, metrics: Path, until: float = math.inf) -> str | None:
        """Why a run ends, or None: it goes on.

        Args:
            metrics: its metrics.csv.
            until: the step up to which it is asked.
        """
        rows = [row for row in read_rows(metrics) if row.get(self.by.metric) and int(row["step"]) <= until]
        best, waited = self.waited([float(row[self.by.metric]) for row in rows])
        if waited < self.measurements:
            return None
        known = "was never a number" if best is None else f"is best at step {rows[best]['step']}"
        value = "" if best is None else f" ({float(rows[best][self.by.metric]):.5g})"
        return f"{self.by.metric} {known}{value} and did not become better in the {waited} measurements since"

    def waited(self, values: Sequence[float]) -> tuple[int | None, int]:
        """The place of the best value, and how many came after it; values that are not finite are never better."""
        best = None
        sign = 1 if self.by.mode == "max" else -1
        for place, value in enumerate(values):
            if math.isfinite(value) and (best is None or sign * (value - values[best]) > self.min_delta):
                best = place
        return best, len(values) - (0 if best is None else best + 1)


class EarlyStopping(Callback):
    """Stops the trainer after a measurement that spends its patience.

    Comes after all that measures and before the checkpoint callback, which saves because the trainer is about to stop.
    """

    def __init__(self, patience: Patience, metrics: MetricsFile) -> None:
        self.reason: str | None = None  # in the first process
        self._patience, self._metrics = patience, metrics

    def on_train_start(self, trainer: Trainer, pl_module: DiffusionModule) -> None:  # type: ignore[override]
        self._ask(trainer, measured=True)  # a run that ended so may have been resumed

    def on_train_batch_end(self, trainer: Trainer, pl_module: DiffusionModule, outputs, batch, batch_idx: int) -> None:  # type: ignore[override]
        if stepped(trainer, batch_idx):
            found = self._metrics.measured_at(self._patience.by.metric, trainer.global_step)
            self._ask(trainer, measured=found is not None)

    def warn_unless_measured(self) -> None:
        """Say so when the metric was never logged: nothing could stop the run."""
        metric = self._patience.by.metric
        if self._metrics.names and metric not in self._metrics.names:
            log.warning("Early stopping goes by %s, but only %s were logged.", metric, ", ".join(self._metrics.names))

    def _ask(self, trainer: Trainer, *, measured: bool) -> None:
        # The first process alone has metrics.csv; one all-reduce tells the others.
        if measured and trainer.is_global_zero:
            self.reason = self._patience.spent(self._metrics.path)
        stop = torch.tensor(int(self.reason is not None), device=trainer.strategy.root_device)
        if int(trainer.strategy.reduce(stop, reduce_op="max")):
            trainer.should_stop = True
