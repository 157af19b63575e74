"""The composition root: a validated configuration becomes objects. The only file that knows every package."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from diffusers import DDPMScheduler, UNet2DConditionModel
from lightning.pytorch import Callback
from lightning.pytorch.loggers import Logger
from lightning.pytorch.profilers import AdvancedProfiler, SimpleProfiler
from PIL import Image

from mamoe.conditioning.cache import EmbeddingCache, fingerprint
from mamoe.conditioning.collate import Collator
from mamoe.conditioning.conditioner import Conditioner
from mamoe.conditioning.settings import LayoutSettings
from mamoe.conditioning.text import PromptEncoder
from mamoe.config import Train
from mamoe.data.dataset import LayoutDataset
from mamoe.data.prompts import raise_problems
from mamoe.data.transforms import Geometry
from mamoe.diffusion.schedules import make_scheduler
from mamoe.errors import ConfigError
from mamoe.models.pretrained import BaseModel, load_base
from mamoe.models.unet import MaMoEUNet2DConditionModel
from mamoe.rundir import SHARED, new_run_dir, run_of, write_start
from mamoe.sampling.batches import sample_batch
from mamoe.sampling.pipeline import LayoutPipeline
from mamoe.sampling.schedule import ddim_scheduler, is_zero_snr
from mamoe.shipped import PREFIX
from mamoe.targets import instantiate
from mamoe.taxonomy import Taxonomy
from mamoe.tensors import RegionBatch, Sample
from mamoe.training.data import LayoutDataModule, steps_of_epochs
from mamoe.training.fit import FitResult, fit
from mamoe.training.module import DiffusionModule
from mamoe.training.samples import SampleGrids, Sampler
from mamoe.training.validation import FixedLoss
from mamoe.types import RegionPrompts

log = logging.getLogger(__name__)

TRAIN, VAL = "train", "val"
ENCODED_TOGETHER = 512  # prompts per shard of the cache


def layout_settings(config: Train) -> LayoutSettings:
    """How the map steers the model, with the data's taxonomy."""
    named = config.data.taxonomy
    taxonomy = Taxonomy.from_dict(config.taxonomy) if named is None else Taxonomy.load(named)
    options = config.layout.model_dump(exclude={"moe_levels"})
    return LayoutSettings(taxonomy=taxonomy, **options)


def dataset(config: Train, split: str, taxonomy: Taxonomy) -> LayoutDataset:
    """One split of the configured data.

    Raises:
        DatasetError: files are missing or do not belong together; every one is listed.
    """
    data = config.data
    geometry = Geometry(
        size=data.size,
        crop=data.crop,
        flip=data.flip,
        extra=[instantiate(spec, "data.transforms") for spec in data.transforms],
    )
    source = LayoutDataset(
        images=data.images,
        panoptic_maps=data.panoptic_maps,
        split=split,
        prompts=data.prompts,
        instance_prompts=data.instance_prompts,
        taxonomy=taxonomy,
        geometry=geometry,
        seed=config.seed,
    )
    raise_problems(list(source.files.problems), f"The split {split!r}")
    return source


class FirstOf:
    """The first ``count`` samples of a data set."""

    def __init__(self, source: LayoutDataset, count: int) -> None:
        self.source, self.count = source, min(count, len(source))

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, key: tuple[int, int]) -> Sample:
        return self.source[key]

    @property
    def prompts(self) -> tuple[RegionPrompts, ...]:
        return self.source.prompts[: self.count]


def limited(source: LayoutDataset, count: int | None) -> LayoutDataset | FirstOf:
    return source if count is None else FirstOf(source, count)


def objective_scheduler(config: Train, base: DDPMScheduler) -> DDPMScheduler:
    """The noise schedule to train with: the base model's unless the configuration says otherwise."""
    prediction = config.objective.prediction or base.config["prediction_type"]
    zero_snr = is_zero_snr(base.config) if config.objective.zero_snr is None else config.objective.zero_snr
    keep = ("num_train_timesteps", "beta_start", "beta_end", "beta_schedule")
    return make_scheduler(prediction, zero_snr=zero_snr, **{key: base.config[key] for key in keep})


def steered_unet(config: Train, base: UNet2DConditionModel, settings: LayoutSettings) -> UNet2DConditionModel:
    """The base UNet, with region attention and experts where the configuration wants them."""
    if not settings.region_attention and not settings.moe:
        return base
    return MaMoEUNet2DConditionModel.from_unet(
        base,
        num_experts=settings.num_experts,
        region_attention=settings.region_attention,
        moe_levels=config.layout.moe_levels,
    )


class CallConditioner:
    """A ``Conditioner`` called with plain positions, as the training module does."""

    def __init__(self, conditioner: Conditioner) -> None:
        self.conditioner = conditioner

    def __call__(self, regions: RegionBatch, device: torch.device, dtype: torch.dtype):
        return self.conditioner(regions, device=device, dtype=dtype)


def train(config: Train, *, plain: dict[str, Any], overrides: Sequence[str]) -> tuple[FitResult, Path]:
    """Run a training as configured; returns how it ended and its folder.

    Args:
        config: the validated configuration.
        plain: the same as it was composed, for config.yaml.
        overrides: what the user set, for overrides.txt.
    """
    try:
        return _train(config, plain, overrides)
    finally:
        os.environ.pop(SHARED, None)  # the next training of this process gets a folder of its own


def _train(config: Train, plain: dict[str, Any], overrides: Sequence[str]) -> tuple[FitResult, Path]:
    if config.trainer.threads is not None:
        torch.set_num_threads(config.trainer.threads)
    settings = layout_settings(config)
    trains = limited(dataset(config, TRAIN, settings.taxonomy), config.trainer.limit_train_images)
    validates = limited(dataset(config, VAL, settings.taxonomy), config.trainer.limit_val_images)
    if config.trainer.overfit_images is not None:
        trains = validates = limited(dataset(config, TRAIN, settings.taxonomy), config.trainer.overfit_images)
    collate = Collator(settings)
    steps = _steps(config, len(trains))

    base = load_base(config.model.path, config.model.revision, config.model.variant)
    run_dir = new_run_dir(config.runs, config.name) if config.resume is None else run_of(config.resume)
    write_start(run_dir, config=plain, overrides=overrides, dataset=_describe(trains, validates, settings))
    scheduler = objective_scheduler(config, base.scheduler)
    module = _module(config, base, scheduler, settings, steps, [*trains.prompts, *validates.prompts])
    data = LayoutDataModule(
        train=trains,
        collate=collate,
        batch_size=config.data.batch_size,
        num_workers=config.data.num_workers,
        seed=config.seed,
    )
    grids = partial(draw_samples, base, scheduler, settings, config)
    callbacks, best_by = _callbacks(config, settings, trains, validates, collate, run_dir, grids)
    result = fit(
        module,
        data,
        run_dir,
        max_steps=steps,
        recipe=_recipe(base, scheduler, settings),
        checkpoint_every_n_steps=config.callbacks.checkpoints.every or steps,
        keep_last=config.callbacks.checkpoints.keep_last,
        trainer=_trainer_settings(config, run_dir),
        loggers=_loggers(config, run_dir),
        callbacks=callbacks,
        best_by=best_by,
        resume=None if config.resume is None else Path(config.resume),
    )
    return result, run_dir


def _steps(config: Train, images: int) -> int:
    trainer = config.trainer
    if trainer.max_steps is not None:
        return trainer.max_steps
    assert trainer.max_epochs is not None
    return steps_of_epochs(trainer.max_epochs, images, config.data.batch_size, trainer.accumulate_grad_batches)


def _describe(trains: Any, validates: Any, settings: LayoutSettings) -> dict[str, Any]:
    return {
        "train_images": len(trains),
        "val_images": len(validates),
        "taxonomy": settings.taxonomy.name,
        "experts": list(settings.experts.names) if settings.moe else [],
    }


def _recipe(base: BaseModel, scheduler: DDPMScheduler, settings: LayoutSettings) -> dict[str, Any]:
    local = not base.path.startswith(PREFIX) and Path(base.path).exists()
    path = str(Path(base.path).resolve()) if local else base.path
    return {
        "base": {"path": path, "revision": base.revision, "variant": base.variant},
        "scheduler": dict(scheduler.config),
        "layout": settings.to_dict(),
    }


def _module(
    config: Train,
    base: BaseModel,
    scheduler: DDPMScheduler,
    settings: LayoutSettings,
    steps: int,
    prompts: Sequence[RegionPrompts],
) -> DiffusionModule:
    trained_text = config.model.train_text_encoder
    if trained_text:
        encoder = PromptEncoder(base.tokenizer, base.text_encoder)
    else:
        embeddings = EmbeddingCache(
            Path(config.runs) / "cache" / "text", fingerprint(base.text_encoder, base.tokenizer)
        )
        encoder = PromptEncoder(base.tokenizer, base.text_encoder, embeddings)
        encode_ahead(encoder, settings, prompts)
    levels = len(base.unet.config["block_out_channels"])
    return DiffusionModule(
        unet=steered_unet(config, base.unet, settings),
        vae=base.vae,
        text_encoder=base.text_encoder,
        conditioner=CallConditioner(Conditioner(encoder, settings, levels)),
        scheduler=scheduler,
        optimizer=partial(instantiate, config.optimizer, "optimizer"),
        lr_scheduler=partial(instantiate, _with_length(config.lr_scheduler, steps), "lr_scheduler"),
        prompt_dropout=config.objective.prompt_dropout,
        snr_gamma=config.objective.snr_gamma,
        ema_decay=config.ema_decay,
        seed=config.seed,
        train_text_encoder=trained_text,
        gradient_checkpointing=config.model.gradient_checkpointing,
        channels_last=config.model.channels_last,
        latent_memory_mib=config.model.latent_memory_mib,
    )


def encode_ahead(encoder: PromptEncoder, settings: LayoutSettings, prompts: Sequence[RegionPrompts]) -> None:
    """Put every prompt the data can ask for into the encoder's cache, so that no step waits for it."""
    whole = {"", *(p.global_prompt for p in prompts)}
    classes = {c.prompt for c in settings.taxonomy.classes}
    own = {text for p in prompts for text in p.by_segment.values()} | classes | {settings.dataset_prompt or ""}
    for texts, padded in ((sorted(whole), True), (sorted(own - {""}), settings.encoder_padding)):
        for start in range(0, len(texts), ENCODED_TOGETHER):
            encoder.encode(texts[start : start + ENCODED_TOGETHER], padded=padded)


def _with_length(spec: dict[str, Any], steps: int) -> dict[str, Any]:
    """Our own schedules end with the run; torch's take what they are given."""
    return {"total_steps": steps, **spec} if str(spec.get("_target_")).startswith("mamoe.") else spec


def _trainer_settings(config: Train, run_dir: Path) -> dict[str, Any]:
    ours = {
        "max_steps",
        "max_epochs",
        "threads",
        "limit_train_images",
        "limit_val_images",
        "overfit_images",
    }
    settings = config.trainer.model_dump(exclude=ours)
    if config.trainer.profiler is not None:  # by name it would report to Lightning's log, which nobody sees
        kinds = {"simple": SimpleProfiler, "advanced": AdvancedProfiler}
        settings["profiler"] = kinds[config.trainer.profiler](dirpath=run_dir, filename="profile")
    return settings


def _loggers(config: Train, run_dir: Path) -> list[Logger]:
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


def _callbacks(
    config: Train,
    settings: LayoutSettings,
    trains: Any,
    validates: Any,
    collate: Collator,
    run_dir: Path,
    sampler: Sampler,
) -> tuple[list[Callback], FixedLoss | None]:
    callbacks: list[Callback] = [instantiate(spec, "callbacks.extra") for spec in config.callbacks.extra]
    best_by = None
    if (fixed := config.callbacks.validation) is not None:
        common: dict[str, Any] = {
            "collate": collate,
            "count": fixed.images,
            "batch_size": config.data.batch_size,
            "every_n_steps": fixed.every,
            "seed": config.seed,
            "use_ema": config.ema_decay is not None,
        }
        best_by = FixedLoss(name="val/loss", data=validates, **common)
        stable = FixedLoss(name="train/stable_loss", data=_unaugmented(config, trains, settings), **common)
        callbacks += [best_by, stable]
    if (samples := config.callbacks.samples) is not None:
        count = min(samples.images, len(validates))
        callbacks.append(
            SampleGrids(
                run_dir,
                sampler=sampler,
                samples=[validates[0, i * len(validates) // count] for i in range(count)],
                taxonomy=settings.taxonomy,
                modes=samples.modes,
                every_n_steps=samples.every,
                seed=config.seed,
            )
        )
    return callbacks, best_by


def _unaugmented(config: Train, trains: Any, settings: LayoutSettings) -> Any:
    """The training pictures as validation would see them."""
    source = dataset(config, TRAIN, settings.taxonomy)
    source.geometry = source.geometry.for_evaluation()
    return limited(source, len(trains))


def draw_samples(
    base: BaseModel,
    scheduler: DDPMScheduler,
    settings: LayoutSettings,
    config: Train,
    unet: Any,
    samples: list[Sample],
    mode: str,
    seeds: list[int],
) -> list[Image.Image]:
    """Pictures of a sample grid, drawn with the networks a training has at hand."""
    assert config.callbacks.samples is not None
    pipe = LayoutPipeline(
        vae=base.vae,
        text_encoder=base.text_encoder,
        tokenizer=base.tokenizer,
        unet=unet,
        scheduler=ddim_scheduler(scheduler.config),
        layout=settings.to_dict(),
    )
    pipe.set_progress_bar_config(disable=True)
    return sample_batch(
        pipe,
        samples,
        mode=mode,
        seeds=seeds,
        steps=config.callbacks.samples.steps,
        guidance_scale=config.callbacks.samples.guidance_scale,
        layout=settings.region_attention or settings.moe,
    )
