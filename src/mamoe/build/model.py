"""The configured model and what its training needs."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from diffusers import DDPMScheduler, UNet2DConditionModel

from mamoe.build.loss import ConfiguredLoss
from mamoe.conditioning.cache import EmbeddingCache, fingerprint
from mamoe.conditioning.conditioner import Conditioner
from mamoe.conditioning.settings import LayoutSettings, Strength
from mamoe.conditioning.text import PromptEncoder
from mamoe.config import Train
from mamoe.diffusion.schedules import make_scheduler
from mamoe.errors import ConfigError
from mamoe.models.finetune import method_of
from mamoe.models.pretrained import BaseModel, TextParts
from mamoe.models.singlefile import Family
from mamoe.models.unet import MaMoEUNet2DConditionModel
from mamoe.randomness import derive_seed
from mamoe.sampling.schedule import is_zero_snr
from mamoe.shipped import PREFIX
from mamoe.targets import instantiate
from mamoe.tensors import RegionBatch
from mamoe.training.module import DiffusionModule
from mamoe.training.timesteps import TimestepKind, TimestepSampling
from mamoe.types import RegionPrompts

ENCODED_TOGETHER = 512  # prompts per shard of the cache


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
        learned_strength=settings.strength is Strength.LEARNED,
    )


class CallConditioner:
    """A ``Conditioner`` called with plain positions, as the training module does."""

    def __init__(self, conditioner: Conditioner) -> None:
        self.conditioner = conditioner

    def __call__(self, regions: RegionBatch, device: torch.device, dtype: torch.dtype):
        return self.conditioner(regions, device=device, dtype=dtype)


def training_module(
    config: Train,
    base: BaseModel,
    scheduler: DDPMScheduler,
    settings: LayoutSettings,
    loss: ConfiguredLoss,
    steps: int,
    prompts: Sequence[RegionPrompts],
) -> DiffusionModule:
    trained_text = config.model.train_text_encoder
    _check_trainable_text(trained_text, base)
    if trained_text:
        encoder = prompt_encoder(base.text)
    else:
        encoder = prompt_encoder(base.text, EmbeddingCache(Path(config.runs) / "cache" / "text", text_id(base.text)))
        encode_ahead(encoder, settings, prompts)
    levels = len(base.unet.config["block_out_channels"])
    method = method_of(config.method.model_dump())
    unet = method.prepare(steered_unet(config, base.unet, settings), seed=derive_seed(config.seed, "method"))
    return DiffusionModule(
        unet=unet,
        adapter_alone=method.keeps_adapter_alone,
        vae=base.vae,
        text_encoder=base.text_networks,
        conditioner=CallConditioner(Conditioner(encoder, settings, levels)),
        scheduler=scheduler,
        optimizer=partial(instantiate, config.optimizer, "optimizer"),
        lr_scheduler=partial(instantiate, _with_length(config.lr_scheduler, steps), "lr_scheduler"),
        lr_factors=config.lr_factors.model_dump(),
        loss=loss.function,
        loss_networks=loss.networks,
        timesteps=TimestepSampling(
            kind=TimestepKind(config.objective.timesteps),
            mean=config.objective.logit_mean,
            std=config.objective.logit_std,
        ),
        prompt_dropout=config.objective.prompt_dropout,
        snr_gamma=config.objective.snr_gamma,
        ema_decay=config.ema_decay,
        seed=config.seed,
        train_text_encoder=trained_text,
        gradient_checkpointing=config.model.gradient_checkpointing,
        channels_last=config.model.channels_last,
        latent_memory_mib=config.model.latent_memory_mib,
    )


def prompt_encoder(text: TextParts, cache: EmbeddingCache | None = None) -> PromptEncoder:
    """What encodes prompts as the base model's UNet reads them."""
    return PromptEncoder(
        text.tokenizer,
        text.text_encoder,
        cache,
        tokenizer_2=text.tokenizer_2,
        text_encoder_2=text.text_encoder_2,
        zero_empty=text.force_zeros_for_empty_prompt,
    )


def text_id(text: TextParts) -> str:
    """A name for the base model's text encoders together: what decides an embedding."""
    first = fingerprint(text.text_encoder, text.tokenizer)
    if text.text_encoder_2 is None or text.tokenizer_2 is None:
        return first
    return f"{first}-{fingerprint(text.text_encoder_2, text.tokenizer_2)}"


def _check_trainable_text(wanted: bool, base: BaseModel) -> None:
    if wanted and base.text.text_encoder_2 is not None:
        raise ConfigError(
            f"model.train_text_encoder=true trains the only text encoder of a base model, but {base.source.path} has "
            "two, which stay as they are. Set it to false."
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


def recipe_of(config: Train, base: BaseModel, scheduler: DDPMScheduler, settings: LayoutSettings) -> dict[str, Any]:
    """What is needed besides the trained weights to build the model again, as plain JSON."""
    source = base.source.to_dict()
    for key in ("path", "config", "tokenizer"):
        place = source[key]
        named = place is None or place.startswith(PREFIX) or (key == "config" and place in list(Family))
        if not named and Path(str(place)).exists():
            source[key] = str(Path(str(place)).resolve())
    return {
        "base": source,
        "scheduler": dict(scheduler.config),
        "layout": settings.to_dict(),
        "method": config.method.model_dump(),
    }
