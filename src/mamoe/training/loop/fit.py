"""Runs a training: trainer, run folder, resuming, and an ending with a word on what to do next."""

from __future__ import annotations

import gc
import logging
import signal
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.loggers import Logger
from rich.console import Console

from mamoe.errors import ConfigError, NonFiniteLossError
from mamoe.runs.checkpoint import sound_checkpoint
from mamoe.runs.recipe import Recipe
from mamoe.training.loop.continuing import continued
from mamoe.training.loop.explaining import explained
from mamoe.training.loop.interruption import Listening, Stop, Stopping
from mamoe.training.loop.metrics import MetricsFile, StepMetrics
from mamoe.training.loop.progress import TrainingProgress
from mamoe.training.loop.reporting import reported
from mamoe.training.loop.saving import BestBy, Checkpoints, Resuming
from mamoe.training.loop.trainer import checked, make_trainer, run_trainer
from mamoe.training.order.loaders import LayoutDataModule
from mamoe.training.step.failing import Failing
from mamoe.training.step.module import DiffusionModule
from mamoe.training.watch.cost import Cost
from mamoe.training.watch.patience import EarlyStopping, Patience

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class FitResult:
    """How a training ended."""

    step: int  # optimizer steps done over all sessions of the run
    checkpoint: Path | None  # the newest checkpoint
    stopped_by: Stop | None  # None: it is done, at its last step or because nothing became better
    message: str

    @property
    def exit_code(self) -> int:
        """0 done, 130 interrupted (Ctrl-C), 75 preempted or out of time; both of the latter with a checkpoint."""
        return 0 if self.stopped_by is None else self.stopped_by.exit_code


@dataclass(frozen=True, kw_only=True, slots=True)
class Endurance:
    """What a run does about limits of time and memory."""

    max_seconds: float | None = None  # then it saves and ends; None = no limit
    preemption: Sequence[signal.Signals] = ()  # signals that mean "save and end", besides SIGTERM and SIGINT
    auto_microbatch: bool = False  # halve the micro-batch where memory runs out; the result stays the same
    gpu_gib: int | None = None  # what the preset in use was made for


@dataclass(frozen=True, kw_only=True, slots=True)
class Keeping:
    """Which checkpoints a run keeps."""

    every_n_steps: int  # optimizer steps between checkpoints; the last step writes one too
    last: int = 2  # kept besides the best
    full: int | None = None  # of these, how many can be resumed from; None = all
    best_by: BestBy | None = None  # which value of which metric marks the best


@dataclass(frozen=True, kw_only=True, slots=True)
class Watching:
    """What looks at a run while it trains."""

    callbacks: Sequence[Callback] = ()  # fixed-image losses, ...; they run before the checkpoint of a step is written
    loggers: Sequence[Logger] = ()  # besides metrics.csv, which is always written
    log_every_n_steps: int = 10  # optimizer steps between rows of the training loss
    patience: Patience | None = None  # how long to go on without a better value of a metric; None = to the last step


def fit(
    module: DiffusionModule,
    data: LayoutDataModule,
    run_dir: Path,
    *,
    max_steps: int,
    recipe: Recipe,
    keeping: Keeping,
    watching: Watching = Watching(),
    trainer: Mapping[str, Any] | None = None,
    resume: Path | None = None,
    endurance: Endurance = Endurance(),
) -> FitResult:
    """Train until ``max_steps`` optimizer steps have been done over all sessions of the run.

    Args:
        run_dir: the run's folder; log.txt, metrics.csv and checkpoints/ are written there.
        recipe: what a checkpoint says besides the weights.
        keeping: which checkpoints are kept.
        watching: what looks at it meanwhile.
        trainer: further arguments of lightning's Trainer: accelerator, devices, precision, strategy,
            accumulate_grad_batches, gradient_clip_val (global norm, once per optimizer step), ...
        resume: a run folder (its newest sound checkpoint) or a checkpoint folder; None starts afresh.
        endurance: limits of time and memory.

    Raises:
        ConfigError: settings that this function owns, or that do not fit together.
        CheckpointError: nothing sound to resume from, or a checkpoint of another run.
        NonFiniteLossError, OutOfMemoryError, DiskFullError: with what to do about it.
    """
    settings = checked(trainer or {}, max_steps)
    run_dir.mkdir(parents=True, exist_ok=True)
    console = Console()
    with reported(run_dir / "log.txt", console), explained(run_dir, endurance.gpu_gib):
        checkpoint = None if resume is None else sound_checkpoint(resume)
        listening = Listening(endurance.preemption)
        stop = Stopping(listening, endurance.max_seconds)
        while True:
            counters = {} if checkpoint is None else continued(checkpoint, module, data, recipe)
            start = counters.get("step", 0)
            if start > max_steps:
                raise ConfigError(f"{checkpoint} is already at step {start} of {max_steps}: give more steps than that.")
            data.first = counters.get("samples_seen", 0)
            metrics = MetricsFile(run_dir, None if checkpoint is None else start)
            saving = Checkpoints(
                run_dir,
                recipe=recipe,
                every_n_steps=keeping.every_n_steps,
                metrics=metrics,
                keep_last=keeping.last,
                full=keeping.full,
                best_by=keeping.best_by,
                resume=checkpoint,
            )
            failing = Failing(run_dir, saving)
            early = None if watching.patience is None else EarlyStopping(watching.patience, metrics)
            session = make_trainer(
                settings,
                run_dir,
                start=start,
                max_steps=max_steps,
                pieces=data.pieces,
                loggers=[metrics, *watching.loggers],
                # Order matters: resume before anything looks at the weights, save after everything was measured.
                callbacks=[
                    listening,
                    *([] if checkpoint is None else [Resuming(checkpoint)]),
                    Cost(run_dir),
                    StepMetrics(watching.log_every_n_steps),
                    *watching.callbacks,
                    TrainingProgress(console),
                    *([] if early is None else [early]),
                    stop,
                    saving,
                    failing,
                ],
            )
            if endurance.auto_microbatch and session.world_size > 1:
                raise ConfigError(
                    "trainer.auto_microbatch works on one device: of several, one would wait for the other that ran "
                    "out of memory. Double trainer.accumulate_grad_batches and halve data.batch_size instead."
                )
            if checkpoint is not None:
                log.info("Resuming from %s at step %d", checkpoint, start)
            try:
                run_trainer(session, module, data)
                if early is not None:
                    early.warn_unless_measured()
                return _result(session, saving.newest, stop.reason, run_dir, None if early is None else early.reason)
            except NonFiniteLossError as error:
                raise _with_replay(error, failing.report) from None
            except Exception:
                if not (endurance.auto_microbatch and failing.out_of_memory and 2 * data.pieces <= data.batch_size):
                    raise
            # Outside of the handler: the error held on to the memory of the step.
            data.pieces *= 2
            checkpoint = saving.newest
            _free_memory()
            log.warning(
                "Step %d: out of memory. It is taken again in micro-batches of at most %d pictures, and so are all "
                "after it; the result stays the same.",
                session.global_step + 1,
                -(-data.batch_size // data.pieces),
            )


def _result(
    session: Trainer, checkpoint: Path | None, reason: Stop | None, run_dir: Path, no_better: str | None
) -> FitResult:
    step = session.global_step
    done = step >= session.max_steps
    # What follows a training does not follow one that was told to stop; time that is up at its last step stops nothing.
    stopped_by = None if done and reason is Stop.OUT_OF_TIME else reason
    message = f"Trained to step {step}; checkpoint {checkpoint}."
    if no_better is not None:
        message = f"Done at step {step} of {session.max_steps}: {no_better}; checkpoint {checkpoint}."
    if stopped_by is not None:
        message = f"Stopped at step {step} of {session.max_steps}; everything is saved. Go on with resume={run_dir}."
    if stopped_by is not None and done:
        message = (
            f"Trained to step {step} and told to stop; checkpoint {checkpoint}. For what follows: resume={run_dir}"
        )
    log.info(message)
    return FitResult(step=step, checkpoint=checkpoint, stopped_by=stopped_by, message=message)


def _with_replay(error: NonFiniteLossError, report: Path | None) -> NonFiniteLossError:
    if report is None:
        return error
    return NonFiniteLossError(
        f"{error} To take this one step again and see where it fails: mamoe train resume={report}"
    )


def _free_memory() -> None:
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
