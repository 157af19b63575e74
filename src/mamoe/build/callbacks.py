"""The configured callbacks and loggers."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from diffusers import DDPMScheduler
from lightning.pytorch import Callback
from lightning.pytorch.loggers import Logger
from PIL import Image

from mamoe.build.data import unaugmented
from mamoe.conditioning.collate import Collator
from mamoe.conditioning.settings import LayoutSettings
from mamoe.config import Samples, Scores, Train
from mamoe.errors import ConfigError
from mamoe.evaluation.distribution import Kind
from mamoe.evaluation.extractors import load_extractor
from mamoe.models.pretrained import BaseModel
from mamoe.sampling.batches import sample_batch
from mamoe.sampling.pipeline import LayoutPipeline
from mamoe.sampling.runs import components_of
from mamoe.sampling.schedule import ddim_scheduler
from mamoe.targets import instantiate
from mamoe.tensors import Sample
from mamoe.training.samples import SampleGrids
from mamoe.training.saving import BestBy
from mamoe.training.scoring import FixedScores
from mamoe.training.validation import FixedLoss

FIXED_LOSSES = ("val/loss", "train/stable_loss")


def training_loggers(config: Train, run_dir: Path) -> list[Logger]:
    loggers: list[Logger] = [instantiate(spec, "logger.extra") for spec in config.logger.extra]
    try:
        if config.logger.tensorboard:
            from lightning.pytorch.loggers import TensorBoardLogger

            loggers.append(TensorBoardLogger(run_dir, name="tensorboard", version=""))
        if config.logger.wandb is not None:
            from lightning.pytorch.loggers import WandbLogger

            wandb = config.logger.wandb
            loggers.append(
                WandbLogger(
                    save_dir=run_dir,
                    name=f"{config.name}/{run_dir.name}",
                    project=wandb.project,
                    entity=wandb.entity,
                    offline=wandb.mode == "offline",
                )
            )
    except ModuleNotFoundError as error:
        raise ConfigError(f"logger: {error}. Install it: pip install 'mamoe[tensorboard,wandb]'.") from None
    return loggers


def training_callbacks(
    config: Train,
    settings: LayoutSettings,
    trains: Any,
    validates: Any,
    collate: Collator,
    run_dir: Path,
    sampler: Callable[..., list[Image.Image]],
) -> list[Callback]:
    callbacks: list[Callback] = [instantiate(spec, "callbacks.extra") for spec in config.callbacks.extra]
    if (fixed := config.callbacks.validation) is not None:
        common: dict[str, Any] = {
            "collate": collate,
            "count": fixed.images,
            "batch_size": config.data.batch_size,
            "every_n_steps": fixed.every,
            "seed": config.seed,
            "use_ema": True,
        }
        callbacks.append(FixedLoss(name="val/loss", data=validates, **common))
        stable = FixedLoss(name="train/stable_loss", data=unaugmented(config, trains, settings), **common)
        callbacks.append(stable)
    if (samples := config.callbacks.samples) is not None:
        count = min(samples.images, len(validates))
        callbacks.append(
            SampleGrids(
                run_dir,
                sampler=partial(sampler, samples),
                samples=[validates[0, i * len(validates) // count] for i in range(count)],
                taxonomy=settings.taxonomy,
                modes=samples.modes,
                every_n_steps=samples.every,
                seed=config.seed,
            )
        )
    if (scores := config.callbacks.scores) is not None:
        count = min(scores.images, len(validates))
        name, _, source = scores.extractor.partition("=")
        callbacks.append(
            FixedScores(
                run_dir,
                sampler=partial(sampler, scores),
                samples=[validates[0, i * len(validates) // count] for i in range(count)],
                extractor=load_extractor(name, Path(source) if source else None),
                kinds=[Kind(kind) for kind in scores.scores],
                mode=scores.mode,
                every_n_steps=scores.every,
                seed=config.seed,
                keep_pictures=scores.keep_pictures,
            )
        )
    return callbacks


def best_by(config: Train) -> BestBy | None:
    """What the best checkpoint goes by, if that is measured."""
    best = config.callbacks.checkpoints.best
    if best is None or (best.metric in FIXED_LOSSES and config.callbacks.validation is None):
        return None
    return BestBy(metric=best.metric, mode=best.mode)


def draw_samples(
    base: BaseModel,
    scheduler: DDPMScheduler,
    settings: LayoutSettings,
    how: Samples | Scores,
    unet: Any,
    samples: list[Sample],
    mode: str,
    seeds: list[int],
) -> list[Image.Image]:
    """Pictures of a sample grid or of a score, drawn with the networks a training has at hand."""
    pipe = LayoutPipeline(
        vae=base.vae,
        unet=unet,
        scheduler=ddim_scheduler(scheduler.config),
        layout=settings.to_dict(),
        **components_of(base.text),
    )
    pipe.set_progress_bar_config(disable=True)
    return sample_batch(
        pipe,
        samples,
        mode=mode,
        seeds=seeds,
        steps=how.steps,
        guidance_scale=how.guidance_scale,
        layout=settings.region_attention or settings.moe,
    )
