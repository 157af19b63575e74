"""When checkpoints are written, and how a run continues from one."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from lightning.pytorch import Callback, Trainer
from torch import Tensor, nn

from mamoe.errors import CheckpointError, ConfigError
from mamoe.machine.transfers import works_ahead
from mamoe.runs.adapter import read_adapter, save_adapter, trained_names
from mamoe.runs.checkpoint import DISK, checkpoint_dir, link, prune, step_of, write_checkpoint
from mamoe.runs.dealt import part_of
from mamoe.runs.recipe import Recipe, write_recipe
from mamoe.runs.weights import (
    TrainerState,
    load_trainer,
    read_counters,
    read_network,
    save_network,
    save_trainer,
    trainer_state,
)
from mamoe.training.loop.beside import HostCopies, Writer
from mamoe.training.loop.metrics import MetricsFile
from mamoe.training.loop.steps import is_due, stepped
from mamoe.training.order.loaders import LayoutDataModule
from mamoe.training.scale.sharding import gathered
from mamoe.training.step.module import DiffusionModule

log = logging.getLogger(__name__)

_MOMENTS = "trainer"  # of the optimizer, by the folder they lie in


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
            for key, value in _originals(pl_module, name).items():
                value.copy_(whole[key])
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

    The training goes on while a thread writes a copy of what was learned; the last one it waits for.

    Args:
        run_dir: the run's folder.
        recipe: what is needed besides weights to build the model again; see :mod:`mamoe.runs.recipe`.
        every_n_steps: optimizer steps between checkpoints.
        metrics: where ``best_by`` is looked up.
        keep_last: how many to keep, at least 2; ``best`` is kept besides.
        full: of these, how many can be resumed from; the others keep what was learned. None = all.
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
        full: int | None = None,
        best_by: BestBy | None = None,
        resume: Path | None = None,
    ) -> None:
        if keep_last < 2:
            raise ConfigError(
                f"keep_last must be at least 2, so that a damaged checkpoint has one before, got {keep_last}."
            )
        if every_n_steps < 1 or (full is not None and full < 1):
            raise ConfigError(f"Checkpoints need every_n_steps and full >= 1, got {every_n_steps} and {full}.")
        self._run_dir, self._recipe, self._every, self._keep = run_dir, recipe, every_n_steps, keep_last
        self._full = full
        self._metrics, self._best_by, self._resume = metrics, best_by, resume
        self.newest: Path | None = resume
        self._best = None if best_by is None else _best_value(run_dir, best_by)
        self._copies, self._writer, self._tight = HostCopies(), Writer(), False
        self._prepared = False

    def on_train_batch_end(self, trainer: Trainer, pl_module: DiffusionModule, outputs, batch, batch_idx: int) -> None:  # type: ignore[override]
        self._writer.raise_failure()
        last = stepped(trainer, batch_idx) and (trainer.should_stop or trainer.global_step >= trainer.max_steps)
        if last or is_due(trainer, batch_idx, self._every):
            self._save(trainer, pl_module, last)
        elif not self._prepared and stepped(trainer, batch_idx):
            self._prepare(trainer, pl_module)

    def _prepare(self, trainer: Trainer, module: DiffusionModule) -> None:
        """Let the first checkpoint find room for its copy: on a GPU making it takes longer than copying."""
        self._prepared = True
        if works_ahead(module.device) and trainer.world_size == 1:
            learned = self._learned(trainer, module, trainer.global_step)
            assert learned is not None, "the only process is the first"
            self._copies.prepare(learned.tensors)

    def on_train_end(self, trainer: Trainer, pl_module: DiffusionModule) -> None:  # type: ignore[override]
        self._writer.wait()

    def on_exception(self, trainer: Trainer, pl_module: DiffusionModule, exception: BaseException) -> None:  # type: ignore[override]
        if isinstance(exception, Exception):
            try:
                self._writer.wait()
            except Exception as error:
                log.warning("The checkpoint that was being written is not there: %s", error)

    def save_unfinished(self, trainer: Trainer, module: DiffusionModule, step: int) -> None:
        """Keep the state after ``step``, the one before a step that failed: nothing of that is in the weights.

        No older checkpoint goes. Called on every process, or on the only one.
        """
        self._writer.wait()
        if step > 0 and not checkpoint_dir(self._run_dir, step).is_dir():
            learned = self._learned(trainer, module, step)
            if learned is not None:
                self.newest = write_checkpoint(self._run_dir, step, lambda folder: self._write(folder, module, learned))

    def _save(self, trainer: Trainer, module: DiffusionModule, last: bool) -> None:
        module.look()
        step = trainer.global_step
        score = None if self._best_by is None else self._metrics.measured_at(self._best_by.metric, step)
        learned = self._learned(trainer, module, step, score)
        if learned is not None:
            self._writer.wait()
            if self._metrics.path.exists():
                DISK.flush(self._metrics.path)  # the rows up to here belong to what a resumed run continues
            if last or not self._has_room(learned.tensors):
                self._finish(module, learned, step, score)
            else:
                copy = replace(learned, tensors=self._copies.of(learned.tensors))
                self._writer.start(lambda: self._finish(module, copy, step, score))
        if last:
            trainer.strategy.barrier("checkpoint")

    def _has_room(self, tensors: Mapping[str, Any]) -> bool:
        room = self._copies.fit(tensors)
        if not room and not self._tight:
            log.info("Checkpoints are written while the training waits: there is no memory for a copy of all weights.")
            self._tight = True
        return room

    def _finish(self, module: DiffusionModule, learned: _Learned, step: int, score: float | None) -> None:
        self.newest = write_checkpoint(self._run_dir, step, lambda folder: self._write(folder, module, learned))
        if self._best_by is not None:
            self._judge(self._best_by, score, step)
        prune(self._run_dir, self._keep, full=self._full)
        log.info("Step %d: checkpoint %s", step, self.newest)

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

    def _write(self, folder: Path, module: DiffusionModule, learned: _Learned) -> None:
        """Fill a checkpoint's folder. Of ``module`` only what never changes is looked at."""
        for name, network in module.trained.items():
            save = save_adapter if _is_adapter(module, name) else save_network
            for part in (name, f"{name}_ema"):
                if part in learned.tensors:
                    save(network, {**learned.tensors[part], **_originals(module, name)}, folder / part)
        save_trainer(folder, TrainerState(moments=learned.tensors[_MOMENTS], text=learned.trainer))
        write_recipe(self._recipe, folder)

    def _learned(
        self, trainer: Trainer, module: DiffusionModule, step: int, score: float | None = None
    ) -> _Learned | None:
        """What was learned up to ``step``; None on all processes but the first. Called by every one."""
        ema, first, optimizer = module.ema, trainer.is_global_zero, trainer.optimizers[0]
        named = module.trained.items()
        tensors = {name: gathered(_held(module, name, network.state_dict()), first) for name, network in named}
        if ema is not None:
            tensors |= {f"{name}_ema": gathered(_held(module, name, ema.state_dict(name)), first) for name, _ in named}
        moments = gathered(optimizer.state_dict(), first)
        if not first:
            return None
        counters = self._counters(trainer, module, step, score)
        state = trainer_state(optimizer, _schedule(trainer), counters, moments)
        return _Learned(tensors={**tensors, _MOMENTS: state.moments}, trainer=state.text)

    def _counters(self, trainer: Trainer, module: DiffusionModule, step: int, score: float | None) -> dict[str, Any]:
        data: LayoutDataModule = trainer.datamodule  # type: ignore[attr-defined]
        start = 0 if self._resume is None else step_of(self._resume)
        return {
            "step": step,
            "samples_seen": data.samples_seen(step - start, trainer.accumulate_grad_batches),
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


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class _Learned:
    """What was learned so far."""

    tensors: dict[str, Mapping[str, Tensor]]  # by folder: weights and averages of the networks, moments
    trainer: str  # counters, schedule and the optimizer's settings, as JSON


def _is_adapter(module: DiffusionModule, name: str) -> bool:
    return name == "unet" and module.adapter_alone


def _held(module: DiffusionModule, name: str, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """What a checkpoint takes from a network's state: of one with an adapter the weights that train alone, and never
    those that stand in for :func:`_originals`.
    """
    if not _is_adapter(module, name):
        others = _originals(module, name)
        return {weight: value for weight, value in state.items() if weight not in others}
    return {weight: state[weight] for weight in trained_names(module.trained[name])}


def _originals(module: DiffusionModule, name: str) -> Mapping[str, Tensor]:
    """The frozen weights that a checkpoint takes from the host, and a resumed training puts there."""
    return module.originals if name == "unet" else {}


def _reader(module: DiffusionModule, name: str) -> Callable[[nn.Module, Path], dict[str, Tensor]]:
    # Both check that the file holds exactly what the network keeps in it, so that loading need not be strict.
    return read_adapter if _is_adapter(module, name) else read_network


def _best_value(run_dir: Path, best_by: BestBy) -> float | None:
    best = run_dir / "checkpoints" / "best"
    return read_counters(best).get("scores", {}).get(best_by.metric) if best.is_dir() else None


def _schedule(trainer: Trainer):
    return trainer.lr_scheduler_configs[0].scheduler if trainer.lr_scheduler_configs else None
