"""Lightning's trainer as this package uses it: one endless stream of batches, counted in optimizer steps."""

from __future__ import annotations

import signal
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, Trainer
from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from mamoe.errors import ConfigError
from mamoe.training.order.loaders import LayoutDataModule
from mamoe.training.scale.loss_scale import MIXED_16, with_scaling
from mamoe.training.scale.sharding import with_sharding
from mamoe.training.step.module import DiffusionModule

_OURS = {
    "max_steps",
    "max_epochs",
    "max_time",
    "logger",
    "callbacks",
    "log_every_n_steps",
    "enable_checkpointing",
    "enable_progress_bar",
    "enable_model_summary",
    "use_distributed_sampler",
    "num_sanity_val_steps",
    "limit_val_batches",
    "gradient_clip_algorithm",
    "default_root_dir",
}
_PRECISIONS = ("32-true", "32", 32, "bf16-mixed", MIXED_16)


def checked(settings: Mapping[str, Any], max_steps: int) -> dict[str, Any]:
    """The user's settings of the trainer, if they can work.

    Raises:
        ConfigError: names everything that cannot.
    """
    problems = []
    ours = sorted(settings.keys() & _OURS)
    if ours:
        problems.append(f"the training sets {', '.join(ours)} itself: remove them from trainer")
    if max_steps < 1:
        problems.append(f"max_steps must be at least 1, got {max_steps}")
    precision = settings.get("precision", "32-true")
    if precision not in _PRECISIONS:
        problems.append(f"precision must be 32-true, bf16-mixed or 16-mixed, got {precision!r}")
    clip = settings.get("gradient_clip_val")
    if clip is not None and clip <= 0:
        problems.append(f"gradient_clip_val must be positive or null, got {clip}")
    if problems:
        raise ConfigError("The trainer's settings do not work: " + "; ".join(problems) + ".")
    return dict(settings)


def make_trainer(
    settings: Mapping[str, Any],
    run_dir: Path,
    *,
    start: int,
    max_steps: int,
    pieces: int = 1,
    loggers: Sequence[Logger] = (),
    callbacks: Sequence[Callback] = (),
) -> Trainer:
    """A trainer for the optimizer steps from ``start`` to ``max_steps``.

    Args:
        pieces: micro-batches that each batch of the data comes in, see ``LayoutDataModule.pieces``.

    Raises:
        ConfigError: settings that Lightning refuses.
    """
    accumulate = settings.get("accumulate_grad_batches", 1) * pieces
    try:
        trainer = Trainer(
            **with_sharding(with_scaling({**settings, "accumulate_grad_batches": accumulate})),
            max_steps=max_steps,
            max_epochs=-1,
            logger=list(loggers) or False,
            callbacks=list(callbacks),
            log_every_n_steps=1,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            use_distributed_sampler=False,
            num_sanity_val_steps=0,
            limit_val_batches=0,
            default_root_dir=run_dir,
        )
    except (ValueError, MisconfigurationException) as error:
        raise ConfigError(f"The trainer's settings do not work: {str(error).strip().splitlines()[0]}") from None
    # The whole run is one pass over an endless stream to Lightning; only its step counter has to go on. It has no
    # public way to do so but its own checkpoints, which are pickles.
    loop = trainer.fit_loop.epoch_loop
    loop.automatic_optimization.optim_progress.optimizer.step.total.completed = start
    loop._batches_that_stepped = start
    return trainer


def run_trainer(trainer: Trainer, module: DiffusionModule, data: LayoutDataModule) -> None:
    """Train, without the warnings of Lightning that say nothing here."""
    listener = signal.getsignal(signal.SIGINT)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*LeafSpec.*", category=FutureWarning)  # lightning's own use
        warnings.filterwarnings("ignore", message=".*does not have many workers.*")  # the progress line tells
        warnings.filterwarnings("ignore", message=".*`lr_scheduler.step\\(\\)` before.*")  # a first step left out
        warnings.filterwarnings("ignore", message=".*across ranks is zero.*")  # resumed after its last step
        try:
            trainer.fit(module, datamodule=data)
        except SystemExit as ending:  # what Lightning makes of a Ctrl-C that nobody notes: exit code 1
            signal.signal(signal.SIGINT, listener)
            if isinstance(ending.__context__, KeyboardInterrupt):
                raise KeyboardInterrupt from None
            raise
