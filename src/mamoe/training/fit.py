"""Runs a training: trainer, run folder, resuming, and an ending with a word on what to do next."""

from __future__ import annotations

import logging
import signal
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, Trainer
from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities import rank_zero_only
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from rich.console import Console

from mamoe.training.checkpointing import find_checkpoint
from mamoe.training.data import LayoutDataModule
from mamoe.training.errors import explained
from mamoe.training.interruption import EXIT_CODES, StopOnSignal
from mamoe.training.metrics import MetricsFile, StepMetrics
from mamoe.training.module import DiffusionModule
from mamoe.training.progress import TrainingProgress
from mamoe.training.saving import Checkpoints, Resuming, continued
from mamoe.training.scaling import MIXED_16, with_scaling
from mamoe.training.validation import FixedLoss
from mamoe.types import ConfigError

log = logging.getLogger(__name__)

_OURS = {
    "max_steps",
    "max_epochs",
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


@dataclass(frozen=True, kw_only=True, slots=True)
class FitResult:
    """How a training ended."""

    step: int  # optimizer steps done over all sessions of the run
    checkpoint: Path | None  # the newest checkpoint
    stopped_by: signal.Signals | None  # None: it ran to its last step
    message: str

    @property
    def exit_code(self) -> int:
        """0 done, 130 interrupted (Ctrl-C), 75 preempted (SIGTERM); both of the latter with a checkpoint."""
        return 0 if self.stopped_by is None else EXIT_CODES[self.stopped_by]


def fit(
    module: DiffusionModule,
    data: LayoutDataModule,
    run_dir: Path,
    *,
    max_steps: int,
    recipe: Mapping[str, Any],
    checkpoint_every_n_steps: int,
    keep_last: int = 2,
    log_every_n_steps: int = 10,
    trainer: Mapping[str, Any] | None = None,
    loggers: Sequence[Logger] = (),
    callbacks: Sequence[Callback] = (),
    best_by: FixedLoss | None = None,
    resume: Path | None = None,
) -> FitResult:
    """Train until ``max_steps`` optimizer steps have been done over all sessions of the run.

    Args:
        run_dir: the run's folder; log.txt, metrics.csv and checkpoints/ are written there.
        recipe: what a checkpoint says about its model besides the weights, as plain JSON.
        checkpoint_every_n_steps: optimizer steps between checkpoints; the last step writes one too.
        keep_last: checkpoints kept besides ``best``.
        log_every_n_steps: optimizer steps between rows of the training loss.
        trainer: further arguments of lightning's Trainer: accelerator, devices, precision, strategy,
            accumulate_grad_batches, gradient_clip_val (global norm, once per optimizer step), ...
        loggers: besides metrics.csv, which is always written.
        callbacks: fixed-image losses, sample grids, ...; they run before the checkpoint of a step is written.
        best_by: the one of ``callbacks`` whose lowest value marks the best checkpoint.
        resume: a run folder (its newest sound checkpoint) or a checkpoint folder; None starts afresh.

    Raises:
        ConfigError: settings that this function owns, or that do not fit together.
        CheckpointError: nothing sound to resume from, or a checkpoint of another run.
        NonFiniteLossError, OutOfMemoryError, DiskFullError: with what to do about it.
    """
    settings = _checked(dict(trainer or {}), max_steps)
    run_dir.mkdir(parents=True, exist_ok=True)
    console = Console()
    with _reported(run_dir / "log.txt", console), explained(run_dir):
        checkpoint = None if resume is None else find_checkpoint(resume)
        counters = {} if checkpoint is None else continued(checkpoint, module, data)
        start = counters.get("step", 0)
        data.first = counters.get("samples_seen", 0)
        resuming = [] if checkpoint is None else [Resuming(checkpoint)]
        stop = StopOnSignal()
        saving = Checkpoints(
            run_dir,
            recipe=recipe,
            every_n_steps=checkpoint_every_n_steps,
            keep_last=keep_last,
            best_by=best_by,
            resume=checkpoint,
        )
        try:
            lightning_trainer = Trainer(
                **with_scaling(settings),
                max_steps=max_steps,
                max_epochs=-1,
                logger=[MetricsFile(run_dir, start), *loggers],
                # Order matters: resume before anything looks at the weights, save after everything was measured.
                callbacks=[
                    *resuming,
                    StepMetrics(log_every_n_steps),
                    *callbacks,
                    TrainingProgress(console),
                    stop,
                    saving,
                ],
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
        # The whole run is one pass over an endless stream to Lightning; only its step counter has to go on.
        lightning_trainer.fit_loop.epoch_loop.automatic_optimization.optim_progress.optimizer.step.total.completed = (
            start
        )
        lightning_trainer.fit_loop.epoch_loop._batches_that_stepped = start
        if checkpoint is not None:
            log.info("Resuming from %s at step %d", checkpoint, start)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*LeafSpec.*", category=FutureWarning)  # lightning's own use
            warnings.filterwarnings("ignore", message=".*does not have many workers.*")  # the progress line tells
            warnings.filterwarnings("ignore", message=".*`lr_scheduler.step\\(\\)` before.*")  # a first step left out
            warnings.filterwarnings("ignore", message=".*across ranks is zero.*")  # resumed after its last step
            lightning_trainer.fit(module, datamodule=data)
        return _result(lightning_trainer.global_step, saving.newest, stop.received, run_dir, max_steps)


def _result(
    step: int, checkpoint: Path | None, received: signal.Signals | None, run_dir: Path, max_steps: int
) -> FitResult:
    stopped_by = received if step < max_steps else None
    message = f"Trained to step {step}; checkpoint {checkpoint}."
    if stopped_by is not None:
        message = f"Stopped at step {step} of {max_steps}; everything is saved. Go on with resume={run_dir}."
    log.info(message)
    return FitResult(step=step, checkpoint=checkpoint, stopped_by=stopped_by, message=message)


def _checked(settings: dict[str, Any], max_steps: int) -> dict[str, Any]:
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
    return settings


@contextmanager
def _reported(path: Path, console: Console) -> Iterator[None]:
    """What the package reports goes to a file and above the progress bar; lightning's own small talk nowhere."""
    if rank_zero_only.rank:
        yield
        return
    file = logging.FileHandler(path)
    file.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    handlers = [file, _ConsoleLines(console)]
    ours, lightnings = logging.getLogger("mamoe"), logging.getLogger("lightning.pytorch")
    levels = ours.level, lightnings.level
    ours.setLevel(logging.INFO)
    lightnings.setLevel(logging.WARNING)
    for handler in handlers:
        ours.addHandler(handler)
    try:
        yield
    except BaseException as error:
        file.handle(log.makeRecord(log.name, logging.ERROR, "", 0, "%s: %s", (type(error).__name__, error), None))
        raise
    finally:
        for handler in handlers:
            ours.removeHandler(handler)
            handler.close()
        ours.setLevel(levels[0])
        lightnings.setLevel(levels[1])


class _ConsoleLines(logging.Handler):
    """Prints through the console of the progress bar, which keeps the bar below."""

    def __init__(self, console: Console) -> None:
        super().__init__()
        self._console = console

    def emit(self, record: logging.LogRecord) -> None:
        self._console.print(record.getMessage(), markup=False, highlight=False, soft_wrap=True)
