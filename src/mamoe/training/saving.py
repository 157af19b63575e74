"""When checkpoints are written, and how a run continues from one."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, Trainer
from torch import Tensor, nn

from mamoe.models.finetune.adapterfile import read_adapter, save_adapter
from mamoe.training.checkpointing import link, prune, step_of, write_checkpoint
from mamoe.training.data import LayoutDataModule
from mamoe.training.errors import CheckpointError
from mamoe.training.module import DiffusionModule
from mamoe.training.state import load_trainer, read_counters, read_network, save_network, save_trainer
from mamoe.training.steps import is_due, stepped
from mamoe.training.validation import FixedLoss
from mamoe.types import ConfigError

log = logging.getLogger(__name__)


class Resuming(Callback):
    """Puts networks, averages, optimizer and schedule back as a sound checkpoint holds them. Comes first of all."""

    def __init__(self, checkpoint: Path) -> None:
        self._checkpoint = checkpoint

    def on_train_start(self, trainer: Trainer, pl_module: DiffusionModule) -> None:  # type: ignore[override]
        for name, network in pl_module.trained.items():
            read = _reader(pl_module, name)
            network.load_state_dict(read(network, self._checkpoint / name), strict=False)
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


class Checkpoints(Callback):
    """Writes a checkpoint every n optimizer steps, at the last one, and when the run is about to stop.

    Args:
        run_dir: the run's folder.
        recipe: what is needed besides weights to build the model again; written as ``recipe.json``.
        every_n_steps: optimizer steps between checkpoints.
        keep_last: how many to keep, at least 2; ``best`` is kept besides.
        best_by: the fixed-image loss whose lowest value makes a checkpoint ``best``, where both fall on one step.
        resume: a sound checkpoint to continue from.
    """

    def __init__(
        self,
        run_dir: Path,
        *,
        recipe: Mapping[str, Any],
        every_n_steps: int,
        keep_last: int = 2,
        best_by: FixedLoss | None = None,
        resume: Path | None = None,
    ) -> None:
        if keep_last < 2:
            raise ConfigError(
                f"keep_last must be at least 2, so that a damaged checkpoint has one before, got {keep_last}."
            )
        if every_n_steps < 1:
            raise ConfigError(f"Checkpoints need every_n_steps >= 1, got {every_n_steps}.")
        self._run_dir, self._recipe, self._every, self._keep = run_dir, dict(recipe), every_n_steps, keep_last
        self._best_by, self._resume = best_by, resume
        self.newest: Path | None = resume
        self._best = _best_value(run_dir)

    def on_train_batch_end(self, trainer: Trainer, pl_module: DiffusionModule, outputs, batch, batch_idx: int) -> None:  # type: ignore[override]
        stops = trainer.should_stop and stepped(trainer, batch_idx)
        if stops or is_due(trainer, batch_idx, self._every):
            self._save(trainer, pl_module)

    def _save(self, trainer: Trainer, module: DiffusionModule) -> None:
        step = trainer.global_step
        score = None if self._best_by is None else self._best_by.measured_at(step)
        if trainer.is_global_zero:
            self.newest = write_checkpoint(
                self._run_dir, step, lambda folder: self._write(folder, trainer, module, score)
            )
            if score is not None and score < self._best:
                self._best = score
                link(self.newest, "best")
            prune(self._run_dir, self._keep)
            log.info("Step %d: checkpoint %s", step, self.newest)
        trainer.strategy.barrier("checkpoint")

    def _write(self, folder: Path, trainer: Trainer, module: DiffusionModule, score: float | None) -> None:
        for name, network in module.trained.items():
            save = save_adapter if _is_adapter(module, name) else save_network
            save(network, network.state_dict(), folder / name)
            if module.ema is not None:
                save(network, module.ema.state_dict(name), folder / f"{name}_ema")
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
            "score": score,
        }
        save_trainer(folder, trainer.optimizers[0], _schedule(trainer), counters)
        (folder / "recipe.json").write_text(json.dumps(self._recipe, indent=1))

    @property
    def _start(self) -> int:
        return 0 if self._resume is None else step_of(self._resume)


def continued(checkpoint: Path, module: DiffusionModule, data: LayoutDataModule) -> dict[str, Any]:
    """The counters to go on with.

    Raises:
        CheckpointError: the data or a seed changed, so that the run could not see the same pictures and noise.
    """
    counters = read_counters(checkpoint)
    now = {"seed": module.seed, "order_seed": data.seed, "data_size": len(data.train)}
    odd = [f"{name} was {counters[name]} and is {value}" for name, value in now.items() if counters[name] != value]
    if odd:
        raise CheckpointError(
            f"{checkpoint} cannot be continued with the same data order and noise: {'; '.join(odd)}. Restore them, or "
            "start a new run from the checkpoint's weights."
        )
    return counters


def _is_adapter(module: DiffusionModule, name: str) -> bool:
    return name == "unet" and module.adapter_alone


def _reader(module: DiffusionModule, name: str) -> Callable[[nn.Module, Path], dict[str, Tensor]]:
    # Both check that the file holds exactly what the network keeps in it, so that loading need not be strict.
    return read_adapter if _is_adapter(module, name) else read_network


def _best_value(run_dir: Path) -> float:
    best = run_dir / "checkpoints" / "best"
    if not best.is_dir():
        return float("inf")
    return read_counters(best)["score"]


def _schedule(trainer: Trainer):
    return trainer.lr_scheduler_configs[0].scheduler if trainer.lr_scheduler_configs else None
