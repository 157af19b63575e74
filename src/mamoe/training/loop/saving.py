"""When checkpoints are written, and how a run continues from one."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from lightning.pytorch import Callback, Trainer
from torch import Tensor, nn

from mamoe.errors import CheckpointError, ConfigError
from mamoe.runs.adapter import read_adapter, save_adapter
from mamoe.runs.checkpoint import DISK, checkpoint_dir, link, prune, step_of, write_checkpoint
from mamoe.runs.dealt import part_of
from mamoe.runs.recipe import Recipe, write_recipe
from mamoe.runs.weights import load_trainer, read_counters, read_network, save_network, save_trainer
from mamoe.training.loop.metrics import MetricsFile
from mamoe.training.loop.steps import is_due, stepped
from mamoe.training.order.loaders import LayoutDataModule
from mamoe.training.scale.sharding import gathered
from mamoe.training.step.module import DiffusionModule

log = logging.getLogger(__name__)


class Resuming(Callback):
    """Puts networks, averages, optimizer and schedule back as a sound checkpoint holds them. Comes first of all."""

    def __init__(self, checkpoint: Path) -> None:
        self._checkpoint = checkpoint

    def on_train_start(self, trainer: Trainer, pl_module: DiffusionModule) -> None:  # type: ignore[override]
        for name, network in pl_module.trained.items():
            read = _reader(pl_module, name)
            own = network.state_dict()
            whole = read(network, self._checkpoint / name)
            network.load_state_dict({key: part_of(value, own[key]) for key, value in whole.items()}, strict=False)
            if pl_module.ema is not None:
                folder = self._checkpoint / f"{name}_ema"
                if not folder.is_dir():
                    raise CheckpointError(f"{self._checkpoint} holds no weight average: resume with ema_decay=null.")
                pl_module.ema.load_state_dict(name, read(network, folder))
        counters = read_counters(self._checkpoint)
        if pl_module.ema is not None:
            pl_module.ema.updates = counters["ema_updates"]
        # Checkpoints from before float16 was known have neither.
        if scale := counters.get("loss_scale"):
            trainer.precision_plugin.load_state_dict(scale)
        pl_module.watch.skipped, pl_module.watch.skipped_in_a_row = counters.get("skipped", (0, 0))
        load_trainer(self._checkpoint, trainer.optimizers[0], _schedule(trainer))


@dataclass(frozen=True, kw_only=True, slots=True)
class BestBy:
    """What makes a checkpoint the best: the smallest or largest value of a logged metric."""

    metric: str  # as in metrics.csv, e.g. val/loss
    mode: Literal["min", "max"] = "min"

    def is_better(self, value: float, than: float | None) -> bool:
        if not math.isfinite(value):
            return False
        return than is None or (value < than if self.mode == "min" else value > than)


class Checkpoints(Callback):
    """Writes a checkpoint every n optimizer steps, at the last one, and when the run is about to stop.

    Args:
        run_dir: the run's folder.
        recipe: what is needed besides weights to build the model again; see :mod:`mamoe.runs.recipe`.
        every_n_steps: optimizer steps between checkpoints.
        metrics: where ``best_by`` is looked up.
        keep_last: how many to keep, at least 2; ``best`` is kept besides.
        best_by: the metric whose best value makes a checkpoint ``best``, where both fall on one step.
        resume: a sound checkpoint to continue from.
    """

    def __init__(
        self,
        run_dir: Path,
        *,
        recipe: Recipe,
        every_n_steps: int,
        metrics: MetricsFile,
        keep_last: int = 2,
        best_by: BestBy | None = None,
        resume: Path | None = None,
    ) -> None:
        if keep_last < 2:
            raise ConfigError(
                f"keep_last must be at least 2, so that a damaged checkpoint has one before, got {keep_last}."
            )
        if every_n_steps < 1:
            raise ConfigError(f"Checkpoints need every_n_steps >= 1, got {every_n_steps}.")
        self._run_dir, self._recipe, self._every, self._keep = run_dir, recipe, every_n_steps, keep_last
        self._metrics, self._best_by, self._resume = metrics, best_by, resume
        self.newest: Path | None = resume
        self._best = None if best_by is None else _best_value(run_dir, best_by)

    def on_train_batch_end(self, trainer: Trainer, pl_module: DiffusionModule, outputs, batch, batch_idx: int) -> None:  # type: ignore[override]
        stops = trainer.should_stop and stepped(trainer, batch_idx)
        if stops or is_due(trainer, batch_idx, self._every):
            self._save(trainer, pl_module)

    def save_unfinished(self, trainer: Trainer, module: DiffusionModule) -> None:
        """Keep the state before a step that failed while nothing of it was in the weights; no older one goes.

        Called on every process, or on the only one.
        """
        step = trainer.global_step
        if step > 0 and not checkpoint_dir(self._run_dir, step).is_dir():
            state = _Learned.of(trainer, module)
            if trainer.is_global_zero:
                self.newest = write_checkpoint(
                    self._run_dir, step, lambda folder: self._write(folder, trainer, module, state)
                )

    def _save(self, trainer: Trainer, module: DiffusionModule) -> None:
        step = trainer.global_step
        state = _Learned.of(trainer, module)
        if trainer.is_global_zero:
            score = None if self._best_by is None else self._metrics.measured_at(self._best_by.metric, step)
            if self._metrics.path.exists():
                DISK.flush(self._metrics.path)  # the rows up to here belong to what a resumed run continues
            self.newest = write_checkpoint(
                self._run_dir, step, lambda folder: self._write(folder, trainer, module, state, score)
            )
            if self._best_by is not None:
                self._judge(self._best_by, score, step)
            prune(self._run_dir, self._keep)
            log.info("Step %d: checkpoint %s", step, self.newest)
        trainer.strategy.barrier("checkpoint")

    def _judge(self, best_by: BestBy, score: float | None, step: int) -> None:
        assert self.newest is not None
        if score is None:
            if best_by.metric not in self._metrics.names:
                measured = ", ".join(self._metrics.names) or "nothing"
                log.warning(
                    "Step %d: the best checkpoint goes by %s, but only %s was logged.", step, best_by.metric, measured
                )
        elif best_by.is_better(score, self._best):
            self._best = score
            link(self.newest, "best")

    def _write(
        self, folder: Path, trainer: Trainer, module: DiffusionModule, state: _Learned, score: float | None = None
    ) -> None:
        for name, network in module.trained.items():
            save = save_adapter if _is_adapter(module, name) else save_network
            save(network, state.weights[name], folder / name)
            if name in state.averages:
                save(network, state.averages[name], folder / f"{name}_ema")
        data: LayoutDataModule = trainer.datamodule  # type: ignore[attr-defined]
        counters = {
            "step": trainer.global_step,
            "samples_seen": data.samples_seen(trainer.global_step - self._start, trainer.accumulate_grad_batches),
            "ema_updates": 0 if module.ema is None else module.ema.updates,
            "seed": module.seed,
            "order_seed": data.seed,
            "data_size": len(data.train),
            "loss_scale": trainer.precision_plugin.state_dict(),
            "skipped": [module.watch.skipped, module.watch.skipped_in_a_row],
            "scores": {} if score is None or self._best_by is None else {self._best_by.metric: score},
            "batch_size": data.batch_size,
            "buckets": data.buckets is not None,
        }
        save_trainer(folder, trainer.optimizers[0], _schedule(trainer), counters, state.moments)
        write_recipe(self._recipe, folder)

    @property
    def _start(self) -> int:
        return 0 if self._resume is None else step_of(self._resume)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class _Learned:
    """What was learned so far, whole on the first process."""

    weights: dict[str, dict[str, Tensor]]  # by network
    averages: dict[str, dict[str, Tensor]]  # likewise; empty without an average
    moments: dict[str, Any]  # the optimizer's state dict

    @classmethod
    def of(cls, trainer: Trainer, module: DiffusionModule) -> _Learned:
        """Called by every process: each may have a part of it."""
        ema, first = module.ema, trainer.is_global_zero
        return cls(
            weights={name: gathered(network.state_dict(), first) for name, network in module.trained.items()},
            averages={} if ema is None else {name: gathered(ema.state_dict(name), first) for name in module.trained},
            moments=gathered(trainer.optimizers[0].state_dict(), first),
        )


def _is_adapter(module: DiffusionModule, name: str) -> bool:
    return name == "unet" and module.adapter_alone


def _reader(module: DiffusionModule, name: str) -> Callable[[nn.Module, Path], dict[str, Tensor]]:
    # Both check that the file holds exactly what the network keeps in it, so that loading need not be strict.
    return read_adapter if _is_adapter(module, name) else read_network


def _best_value(run_dir: Path, best_by: BestBy) -> float | None:
    best = run_dir / "checkpoints" / "best"
    return read_counters(best).get("scores", {}).get(best_by.metric) if best.is_dir() else None


def _schedule(trainer: Trainer):
    return trainer.lr_scheduler_configs[0].scheduler if trainer.lr_scheduler_configs else None
