"""The configured model and what its training needs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import astuple
from functools import partial
from typing import Any

import torch
from diffusers import UNet2DConditionModel
from torch import Tensor, nn

from mamoe.assemble.base import steered_unet
from mamoe.assemble.caches import caching_encoder, fill_prompts, prompt_encoder
from mamoe.assemble.device import lays_channels_last
from mamoe.assemble.loss import ConfiguredLoss
from mamoe.bases.pretrained import LARGE, BaseModel
from mamoe.conditioning.conditioner import Conditioner
from mamoe.conditioning.text import Prompts
from mamoe.config.targets import instantiate
from mamoe.config.train import Train
from mamoe.console import Bar
from mamoe.data.dataset import LayoutDataset
from mamoe.diffusion.losses import MinSnr
from mamoe.diffusion.parameterization import Prediction
from mamoe.diffusion.sampler import is_zero_snr
from mamoe.diffusion.schedules import Schedule, is_flow, make_flow, make_scheduler, prediction_of, schedule_from
from mamoe.errors import ConfigError
from mamoe.methods.method import require_pictures
from mamoe.methods.options import ControlNetXSOptions
from mamoe.methods.registry import method_of
from mamoe.models.backbones import backbone_of, is_sized, pyramid_of
from mamoe.models.control.call import Control, control_of
from mamoe.models.control.controlnet_xs import side_multiple
from mamoe.models.frozen import Frozen, let_go, quantise, widen_norms
from mamoe.models.latents import LatentScaling
from mamoe.models.precast import frozen_sizes, precast
from mamoe.randomness import derive_seed
from mamoe.runs.adapter import load_adapter, remember_base
from mamoe.training.scale.sharding import FSDP
from mamoe.training.step.module import DiffusionModule
from mamoe.training.step.parts import Networks, Objective, Optimization
from mamoe.training.step.timesteps import TimestepKind, TimestepSampling
from mamoe.vocabulary.layout import LayoutSettings
from mamoe.vocabulary.prompts import RegionPrompts


def objective_scheduler(config: Train, base: Schedule, *, flow_alone: bool = False) -> Schedule:
    """The noise schedule to train with: the base model's unless the configuration says otherwise.

    ``flow_alone``: the network is of a family that predicts flows and nothing else.

    Raises:
        ConfigError: the configuration asks for something that its prediction does not have.
    """
    asked = config.objective
    prediction = prediction_of(base.config) if asked.prediction is None else Prediction.parse(asked.prediction)
    if flow_alone and prediction is not Prediction.FLOW:
        raise ConfigError(
            f"objective.prediction={prediction} makes another model of one that predicts a flow, and low-rank "
            "additions, which this one is fine-tuned by, cannot. Leave it out."
        )
    if prediction is Prediction.FLOW:
        if asked.zero_snr:
            raise ConfigError(
                "objective.zero_snr=true rescales betas, and a flow (objective.prediction=flow) has none: it ends in "
                "pure noise as it is. Leave it out."
            )
        if asked.shift is None and is_flow(base.config):
            return schedule_from(base.config)
        return make_flow(shift=1.0 if asked.shift is None else asked.shift)
    if asked.shift is not None:
        raise ConfigError(
            f"objective.shift={asked.shift} belongs to a flow, and this training has the prediction {prediction}: set "
            "objective.prediction=flow, or leave the shift out."
        )
    zero_snr = is_zero_snr(base.config) if asked.zero_snr is None else asked.zero_snr
    keep = ("num_train_timesteps", "beta_start", "beta_end", "beta_schedule")
    betas = {} if is_flow(base.config) else {key: base.config[key] for key in keep}
    return make_scheduler(prediction, zero_snr=zero_snr, **betas)


def check_sizes(config: Train, base: UNet2DConditionModel, sources: Sequence[LayoutDataset]) -> None:
    """Refuse pictures of sizes that the method or the network cannot take; headers alone are read.

    Raises:
        ConfigError: lists the sizes.
    """
    multiple = 8 * 2 ** pyramid_of(base).skipped  # a picture is whole patches of latent cells
    if config.method.name == ControlNetXSOptions.name:
        require_pictures(base, config.method.name)
        multiple = side_multiple(len(base.config["block_out_channels"]))
    cells = backbone_of(base).most_cells(base.config)
    if multiple == 8 and cells is None:
        return
    sizes = Counter(size for source in sources for size in source.sizes())
    if odd := _listed(size for size in sizes.elements() if any(side % multiple for side in size)):
        raise ConfigError(
            f"method={config.method.name} with this base model needs pictures whose height and width are multiples of "
            f"{multiple} pixels; those of the data become {odd}. Set data.multiple={multiple}, and data.size to "
            "such numbers."
        )
    if cells is not None and (large := _listed(size for size in sizes.elements() if max(size) > 8 * cells)):
        raise ConfigError(
            f"This base model has places for {8 * cells} pixels a side (pos_embed_max_size); pictures of the data "
            f"become {large}. Set data.size to less."
        )


def _listed(sizes: Iterable[tuple[int, int]]) -> str:
    return ", ".join(f"{height}x{width} ({n} pictures)" for (height, width), n in Counter(sizes).most_common(4))


def training_module(
    config: Train,
    base: BaseModel,
    scheduler: Schedule,
    settings: LayoutSettings,
    loss: ConfiguredLoss,
    steps: int,
    prompts: Prompts,
) -> DiffusionModule:
    """What is trained. Networks that only feed a cache are not part of it."""
    trained_text = config.model.train_text_encoder
    method = method_of(config.method.model_dump())
    unet = method.prepare(steered_unet(config, base, settings), seed=derive_seed(config.seed, "method"))
    if base.adapter is not None:
        load_adapter(unet, base.adapter)
    frozen = Frozen(config.model.frozen_precision)
    if frozen is not Frozen.FP32:
        remember_base(unet)
        widen_norms(unet)
        quantise(unet, frozen)
    vae = None if config.cache.latents and control_of(unet) is not Control.LATENT else base.vae
    dtype, originals = frozen_dtype(config), {}
    if dtype is not None:
        originals = _precast_unet(unet, dtype, adapter_alone=method.keeps_adapter_alone)
        stay = () if loss.autocast else loss.networks
        for network in (vae, *loss.networks):
            if network is not None and network not in stay:
                precast(network.requires_grad_(False), dtype)
    networks = Networks(
        unet=unet,
        vae=vae,
        scaling=LatentScaling.of(base.vae),
        text_encoder=base.text_networks if trained_text else None,
        conditioner=Conditioner(prompts, settings, *astuple(pyramid_of(base.unet)), sized=is_sized(base.unet)),
        train_text_encoder=trained_text,
        gradient_checkpointing=config.model.gradient_checkpointing,
        channels_last=lays_channels_last(config),
        adapter_alone=method.keeps_adapter_alone,
        originals=originals,
        compile=config.trainer.compile,
    )
    optimization = Optimization(
        optimizer=partial(instantiate, config.optimizer, "optimizer"),
        lr_scheduler=partial(instantiate, _with_length(config.lr_scheduler, steps), "lr_scheduler"),
        lr_factors=config.lr_factors.model_dump(),
        ema_decay=config.ema_decay,
    )
    return DiffusionModule(networks, _objective(config, scheduler, loss), optimization, seed=config.seed)


def frozen_dtype(config: Train) -> torch.dtype | None:
    """What a training keeps the frozen weights of products in: the type that autocast casts them to.

    None: what they were read in, because autocast is off, or they are dealt out over processes, which takes weights of
    one type. What was read in fewer bits (``model.frozen_precision``) is no float32 any more, and stays.
    """
    mixed = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}.get(config.trainer.precision)
    return mixed if config.trainer.strategy != FSDP else None


def _precast_unet(unet: nn.Module, dtype: torch.dtype, *, adapter_alone: bool) -> dict[str, Tensor]:
    """Returns the float32 weights that checkpoints hold, by name."""
    if adapter_alone and not any(weight.is_meta for weight in unet.parameters()):
        remember_base(unet)  # by its float32 weights; what has no memory is nobody's base
    return precast(unet, dtype, keep=not adapter_alone)


def frozen_notes(config: Train, module: DiffusionModule) -> list[str]:
    """What became of the frozen weights on the device, where autocast is on and there are any."""
    if config.trainer.precision == "32-true" or Frozen(config.model.frozen_precision) is not Frozen.FP32:
        return []
    sizes = [frozen_sizes(network) for network in module.networks]
    frozen, small = (sum(numbers) for numbers in zip(*sizes, strict=True))
    if not frozen:
        return []
    if (dtype := frozen_dtype(config)) is None:
        return [f"the frozen weights ({_short(frozen)}) stay in float32: trainer.strategy=fsdp deals out one type"]
    if not small:
        return []
    name, less = str(dtype).removeprefix("torch."), 2 * small / 2**30
    rest = "" if 2 * small > frozen else "; the others are read in float32 too"
    return [
        f"frozen weights: {_short(small)} of {_short(frozen)} are kept in {name} ({less:.1f} GiB less), which is what "
        f"autocast makes of them in every step{rest}"
    ]


def _short(count: int) -> str:
    return f"{count / 1e9:.1f} B" if count >= 1e9 else f"{count / 1e6:.1f} M"


def _objective(config: Train, scheduler: Schedule, loss: ConfiguredLoss) -> Objective:
    asked = config.objective
    return Objective(
        scheduler=scheduler,
        loss=loss.function,
        loss_networks=loss.networks,
        weighting=None if asked.snr_gamma is None else MinSnr(asked.snr_gamma),
        timesteps=TimestepSampling(kind=TimestepKind(asked.timesteps), mean=asked.logit_mean, std=asked.logit_std),
        prompt_dropout=asked.prompt_dropout,
    )


def training_prompts(
    config: Train, base: BaseModel, settings: LayoutSettings, prompts: Sequence[RegionPrompts], bar: Bar
) -> Prompts:
    """How the training gets its prompts' embeddings: from the encoder it trains, or all of them from the cache.

    In the second case the text encoders lose their weights.

    Raises:
        ConfigError: there is more than one text encoder to train, or it is T5's.
    """
    _check_trainable_text(config.model.train_text_encoder, base)
    if config.model.train_text_encoder:
        return prompt_encoder(base)
    encoder = caching_encoder(config, base)
    fill_prompts(config, encoder, settings, prompts, bar)
    let_go(base.text_networks)  # and with their weights go T5's gigabytes
    return encoder.from_cache()


def _check_trainable_text(wanted: bool, base: BaseModel) -> None:
    if wanted and isinstance(base.text_encoder, LARGE):
        raise ConfigError(
            f"model.train_text_encoder=true trains CLIP's text encoder, and that of {base.source.path} is a large one, "
            "which stays as it is. Set it to false."
        )
    if wanted and base.text.text_encoder_2 is not None:
        raise ConfigError(
            f"model.train_text_encoder=true trains the only text encoder of a base model, but {base.source.path} has "
            f"{('two', 'three')[len(base.text.encoders) - 2]}, which stay as they are. Set it to false."
        )


def _with_length(spec: dict[str, Any], steps: int) -> dict[str, Any]:
    """Our own schedules end with the run; torch's take what they are given."""
    return {"total_steps": steps, **spec} if str(spec.get("_target_")).startswith("mamoe.") else spec
