"""The composition root of a training: a validated configuration becomes objects, and they run."""

from __future__ import annotations

import math
import signal
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.profilers import AdvancedProfiler, SimpleProfiler

from mamoe.assemble.base import base_of, check_fit, started_from, text_dtype_of
from mamoe.assemble.caches import encoded
from mamoe.assemble.callbacks import PictureSampler, best_by, patience, training_callbacks, training_loggers
from mamoe.assemble.checking import check_data
from mamoe.assemble.data import buckets_of, check_batches, layout_settings, splits
from mamoe.assemble.device import card_notes, check_card
from mamoe.assemble.loss import class_weights, loss_of
from mamoe.assemble.model import (
    check_sizes,
    frozen_dtype,
    frozen_notes,
    objective_scheduler,
    training_module,
    training_prompts,
)
from mamoe.assemble.origin import REPLAY, choose_run, going_on, notes_on, told_anew
from mamoe.assemble.recipe import recipe_of, terms_of, weights_of
from mamoe.assemble.record import write_start
from mamoe.assemble.remembering import Remembering
from mamoe.assemble.unused import settings_without_effect
from mamoe.assemble.weights import disk_notes
from mamoe.conditioning.collate import Collator
from mamoe.config.train import Train, seconds_of
from mamoe.console import progress, silent
from mamoe.data.dataset import LayoutDataset
from mamoe.diffusion.schedules import Schedule
from mamoe.machine.workers import start_importing
from mamoe.models.backbones import backbone_of
from mamoe.runs.home import place_now
from mamoe.runs.recipe import Recipe, Terms, read_recipe
from mamoe.runs.source import Source
from mamoe.storage.lock import held
from mamoe.training.loop.fit import Endurance, FitResult, Keeping, Watching, fit
from mamoe.training.notes import Notes
from mamoe.training.optim import check_installed
from mamoe.training.order.buckets import bucket_batches_of_epochs
from mamoe.training.order.epochs import steps_of_epochs
from mamoe.training.order.loaders import LayoutDataModule
from mamoe.training.scale.cluster import agreement, is_first_process
from mamoe.training.step.module import DiffusionModule
from mamoe.training.step.replay import replay
from mamoe.vocabulary.layout import LayoutSettings


def train(config: Train, *, plain: dict[str, Any], overrides: Sequence[str]) -> tuple[FitResult, Path]:
    """Run a training as configured; returns how it ended and its folder.

    Args:
        config: the validated configuration.
        plain: the same as it was composed, for config.yaml.
        overrides: what the user set, for overrides.txt.
    """
    if config.trainer.threads is not None:
        torch.set_num_threads(config.trainer.threads)
    check_card(config)
    if config.data.num_workers:
        start_importing(["mamoe.data.dataset", "mamoe.conditioning.collate"])
    settings = layout_settings(config)
    trains, validates = splits(config, settings.taxonomy)
    check_data(config, [trains, validates], progress)
    check_batches(config, trains)
    weights = class_weights(config, trains, settings)
    collate = Collator(settings, class_weights=weights)
    buckets = buckets_of(config, trains)
    steps = _steps(config, len(trains), buckets)
    check_installed(str(config.optimizer.get("_target_")))
    terms = terms_of(config, settings, trains, validates)
    going = going_on(config, plain, terms, steps)
    if going is not None and going.done is not None:
        if is_first_process():
            print(going.done.message)
        return going.done, going.run
    job = _prepared(config, settings, steps, trains, validates, terms)
    job.module.save_hyperparameters(plain)  # what loggers are told at the start
    data = LayoutDataModule(
        train=job.trains,
        collate=collate,
        batch_size=config.data.batch_size,
        num_workers=config.data.num_workers,
        seed=config.seed,
        buckets=buckets,
    )
    with agreement(lambda: choose_run(config, plain, steps)) as chosen:
        assert chosen["run"] is not None
        run_dir, origin = Path(chosen["run"]), None if chosen["from"] is None else Path(chosen["from"])
        if origin is not None and origin.suffix == REPLAY:
            replay(origin, job.module, data, recipe=job.recipe, trainer=_trainer_settings(config, run_dir))
            return FitResult(step=0, checkpoint=None, stopped_by=None, message=""), run_dir
        with held(run_dir) if is_first_process() else nullcontext():
            if origin is None and is_first_process():
                described = {**_describe(trains, validates, settings, weights), **place_now(run_dir)}
                write_start(run_dir, config=plain, overrides=overrides, dataset=described)
            of_frozen = frozen_notes(config, job.module)
            lacking = disk_notes(config, job.module, settings.num_experts, run_dir)
            callbacks = training_callbacks(
                config,
                settings,
                trains=job.stable,
                validates=job.validates,
                shown=validates,
                collate=collate,
                run_dir=run_dir,
                sampler=PictureSampler(
                    job.source, job.scheduler, settings, text_dtype_of(config), frozen_dtype(config)
                ),
            )
            if origin is not None:
                notes = notes_on(told_anew(run_dir, plain), read_recipe(origin))
                callbacks.insert(0, Remembering(run_dir, plain, overrides, notes))
            result = fit(
                job.module,
                data,
                run_dir,
                max_steps=steps,
                recipe=job.recipe,
                keeping=Keeping(
                    every_n_steps=config.callbacks.checkpoints.every or steps,
                    last=config.callbacks.checkpoints.keep_last,
                    full=config.callbacks.checkpoints.full,
                    best_by=best_by(config),
                ),
                watching=Watching(
                    callbacks=[
                        *callbacks,
                        Notes([*settings_without_effect(config, plain), *card_notes(config), *of_frozen, *lacking]),
                    ],
                    loggers=training_loggers(config, run_dir),
                    patience=patience(config),
                ),
                trainer=_trainer_settings(config, run_dir),
                resume=origin,
                endurance=_endurance(config),
            )
    return result, run_dir


@dataclass(frozen=True, kw_only=True, slots=True)
class _Job:
    """What a training takes from the base model; what it only needed to fill the caches is not in memory any more."""

    module: DiffusionModule
    source: Source
    scheduler: Schedule
    recipe: Recipe
    trains: LayoutDataset
    stable: LayoutDataset  # the training pictures without augmentation
    validates: LayoutDataset


def _prepared(
    config: Train,
    settings: LayoutSettings,
    steps: int,
    trains: LayoutDataset,
    validates: LayoutDataset,
    terms: Terms,
) -> _Job:
    base = base_of(config)
    weights = weights_of(config, base)
    if is_first_process() and (words := started_from(config, base)) is not None:
        print(words)
    check_fit(config, base, settings)
    check_sizes(config, base.unet, [trains, validates])
    loss = loss_of(config, base)  # what it lacks is said before anything is encoded
    scheduler = objective_scheduler(config, base.scheduler, flow_alone=backbone_of(base.unet).flow)
    bar = progress if is_first_process() else silent
    prompts = training_prompts(config, base, settings, [*trains.prompts, *validates.prompts], bar)
    sources = [trains, trains.unaugmented(), validates]
    if config.cache.latents:
        sources, *_ = encoded(config, base.vae, sources, bar)
    return _Job(
        module=training_module(config, base, scheduler, settings, loss, steps, prompts),
        source=base.source,
        scheduler=scheduler,
        recipe=recipe_of(config, base, scheduler, terms, weights),
        trains=sources[0],
        stable=sources[1],
        validates=sources[2],
    )


def _steps(config: Train, images: int, buckets: list[int] | None) -> int:
    trainer = config.trainer
    if trainer.max_steps is not None:
        return trainer.max_steps
    assert trainer.max_epochs is not None
    size, accumulate = config.data.batch_size, trainer.accumulate_grad_batches
    if buckets is not None:
        return math.ceil(bucket_batches_of_epochs(trainer.max_epochs, buckets, size) / accumulate)
    return steps_of_epochs(trainer.max_epochs, images, size, accumulate)


def _endurance(config: Train) -> Endurance:
    named = config.trainer.preemption_signal
    return Endurance(
        max_seconds=None if config.trainer.max_time is None else seconds_of(config.trainer.max_time),
        preemption=() if named is None else (signal.Signals[named],),
        auto_microbatch=config.trainer.auto_microbatch,
        gpu_gib=config.trainer.gpu_gib,
    )


def _describe(
    trains: Any, validates: Any, settings: LayoutSettings, weights: tuple[float, ...] | None
) -> dict[str, Any]:
    by_name = None if weights is None else {c.name: round(weights[c.id], 4) for c in settings.taxonomy.classes}
    return {
        "class_weights": by_name,
        "train_images": len(trains),
        "val_images": len(validates),
        "taxonomy": settings.taxonomy.name,
        "experts": list(settings.experts.names) if settings.moe else [],
    }


def _trainer_settings(config: Train, run_dir: Path) -> dict[str, Any]:
    ours = {
        "max_steps",
        "max_epochs",
        "threads",
        "limit_train_images",
        "limit_val_images",
        "overfit_images",
        "max_time",
        "preemption_signal",
        "auto_microbatch",
        "compile",
        "gpu_gib",
    }
    settings = config.trainer.model_dump(exclude=ours)
    if config.trainer.profiler is not None:  # by name it would report to Lightning's log, which nobody sees
        kinds = {"simple": SimpleProfiler, "advanced": AdvancedProfiler}
        settings["profiler"] = kinds[config.trainer.profiler](dirpath=run_dir, filename="profile")
    return settings
