"""metrics.csv: one row per logged event, appended at once, and cut back to the resumed step when a run goes on.

Lightning's own CSV logger deletes the file of a folder it opens a second time, so a resumed run would lose its past.
"""

from __future__ import annotations

import csv
from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.loggers.logger import Logger
from lightning.pytorch.utilities import rank_zero_only

from mamoe.errors import ConfigError
from mamoe.storage.staging import replaced_file
from mamoe.training.loop.steps import is_due
from mamoe.training.step.module import DiffusionModule

METRICS = "metrics.csv"


class MetricsFile(Logger):
    """Writes ``<run>/metrics.csv``. The first column is ``step``; a new metric adds a column.

    Args:
        run_dir: the run's folder.
        start_step: rows after this step, left by a run that got further than its last checkpoint, are cut off; None
            cuts off all, for a run that starts.
    """

    def __init__(self, run_dir: Path, start_step: int | None = None) -> None:
        super().__init__()
        self.path = run_dir / METRICS
        self._columns = ["step"]
        self._newest: dict[str, tuple[int | None, float]] = {}
        self._cut(-1 if start_step is None else start_step)

    @property
    def name(self) -> str:
        return "csv"

    @property
    def version(self) -> str:
        return ""

    @rank_zero_only
    def log_hyperparams(self, params: dict[str, Any] | Namespace, *args: Any, **kwargs: Any) -> None:
        """The run's config.yaml holds them."""

    def measured_at(self, name: str, step: int) -> float | None:
        """A metric's value if it was logged at exactly this step of this session; on the first process alone."""
        logged_at, value = self._newest.get(name, (None, 0.0))
        return value if logged_at == step else None

    def knows(self, name: str, step: int) -> bool:
        """Whether a metric of this step is in the file."""
        return any(row.get(name) and int(row["step"]) == step for row in read_rows(self.path))

    @property
    def names(self) -> list[str]:
        """The metrics logged in this session."""
        return sorted(self._newest)

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        self._newest |= {name: (step, float(value)) for name, value in metrics.items()}
        new = [name for name in metrics if name not in self._columns]
        if new or not self.path.exists():
            rows = read_rows(self.path)
            self._columns += new
            self._write(rows)
        with self.path.open("a", newline="") as file:
            csv.DictWriter(file, self._columns).writerow({"step": step, **metrics})

    @rank_zero_only
    def _cut(self, last_step: int) -> None:
        rows = read_rows(self.path)
        kept = [row for row in rows if int(row["step"]) <= last_step]
        if kept:
            self._columns = list(rows[0])
            self._write(kept)
        elif self.path.exists():
            self.path.unlink()

    def _write(self, rows: list[dict[str, str]]) -> None:
        with replaced_file(self.path) as partial, partial.open("w", newline="") as file:
            writer = csv.DictWriter(file, self._columns)
            writer.writeheader()
            writer.writerows(rows)


def read_rows(path: Path) -> list[dict[str, str]]:
    """The rows of a metrics file as text; a value not logged in a row is ''. A half-written last row is left out.

    Raises:
        ConfigError: it is no such file.
    """
    if not path.exists():
        return []
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file, restval=None))
        if not all((row.get("step") or "0").isdigit() for row in rows) or (rows and "step" not in rows[0]):
            raise ValueError("its rows do not begin with the number of a step")
    except (OSError, ValueError, csv.Error) as error:
        raise ConfigError(
            f"Cannot read {path}, to which a training adds its figures: {error}. Move it away, and the training goes "
            "on without what it says."
        ) from None
    return [row for row in rows if None not in row.values()]


class StepMetrics(Callback):
    """Logs loss, gradient norm and learning rate every n optimizer steps, the loss as the mean over all processes."""

    def __init__(self, every_n_steps: int) -> None:
        self._every = every_n_steps

    def on_train_batch_end(self, trainer: Trainer, pl_module: DiffusionModule, outputs, batch, batch_idx: int) -> None:  # type: ignore[override]
        if not is_due(trainer, batch_idx, self._every):
            return
        pl_module.look()
        loss = torch.tensor(pl_module.watch.loss, device=pl_module.device)
        values = {
            "train/loss": float(trainer.strategy.reduce(loss, reduce_op="mean")),
            "train/grad_norm": pl_module.watch.grad_norm,
            "train/lr": pl_module.watch.learning_rate,
        }
        log_metrics(trainer, values)


def log_metrics(trainer: Trainer, metrics: Mapping[str, float]) -> None:
    """Send metrics of the current step to every logger, and to ``trainer.callback_metrics`` for other callbacks."""
    for logger in trainer.loggers:
        logger.log_metrics(dict(metrics), step=trainer.global_step)
    trainer.callback_metrics.update({name: torch.tensor(value) for name, value in metrics.items()})
