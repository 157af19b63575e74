"""What a training module is put together from: networks, an objective, and how the weights move."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from mamoe.diffusion.losses import LatentLoss, MinSnr, mse
from mamoe.diffusion.schedules import Schedule
from mamoe.models.latents import LatentScaling
from mamoe.training.step.timesteps import UNIFORM, TimestepSampling
from mamoe.vocabulary.batch import RegionBatch
from mamoe.vocabulary.conditioning import Conditioning

Compiled = Literal["off", "blocks", "graph", "full"]


class Conditioner(Protocol):
    """Regions -> conditioning, as :class:`mamoe.conditioning.conditioner.Conditioner` does it."""

    def __call__(self, regions: RegionBatch, /, *, device: torch.device, dtype: torch.dtype) -> Conditioning: ...


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Networks:
    """What is trained, and the frozen networks around it.

    Attributes:
        unet: a stock or MaMoE UNet, or one that also takes a condition picture (see :mod:`mamoe.models.control.call`);
            what trains of it is float32.
        vae: the autoencoder, frozen; kept out of the module's parameters and state. None: every batch comes encoded,
            and no condition picture enters as a latent.
        scaling: how the UNet knows the autoencoder's latents.
        text_encoder: the network inside ``conditioner``, frozen unless ``train_text_encoder``. None: there is none,
            the prompts have been encoded.
        conditioner: regions -> conditioning on a device; differentiable when the text encoder is trained.
        adapter_alone: whether checkpoints hold the UNet's trained weights only.
        originals: of a UNet that checkpoints hold whole, the float32 weights for which it has others (see
            :func:`mamoe.models.precast.precast`), by name, on the CPU.
        compile: what of the UNet torch compiles: nothing, its transformer blocks one by one, or all of it at once; the
            last also records its passes on a GPU, and ``graph`` does that alone.
    """

    unet: nn.Module
    vae: AutoencoderKL | None
    scaling: LatentScaling
    text_encoder: nn.Module | None
    conditioner: Conditioner
    train_text_encoder: bool = False
    gradient_checkpointing: bool = False
    channels_last: bool = False
    adapter_alone: bool = False
    originals: Mapping[str, Tensor] = field(default_factory=dict)
    compile: Compiled = "off"


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Objective:
    """What is minimised.

    Attributes:
        scheduler: the noise schedule; its prediction is what the UNet predicts.
        loss: per picture.
        loss_networks: what ``loss`` looks through; frozen, moved along, and kept out of parameters and state.
        weighting: of the noise levels; None weighs all alike.
        timesteps: how noise levels are drawn.
        prompt_dropout: share of pictures seen without prompt and layout, for classifier-free guidance; in [0, 1].
    """

    scheduler: Schedule
    loss: LatentLoss = mse
    loss_networks: Sequence[nn.Module] = ()
    weighting: MinSnr | None = None
    timesteps: TimestepSampling = UNIFORM
    prompt_dropout: float = 0.1


@dataclass(frozen=True, kw_only=True, slots=True)
class Optimization:
    """How the weights move.

    Attributes:
        optimizer: parameter groups as torch has them -> optimizer.
        lr_scheduler: optimizer -> schedule, stepped once per optimizer step.
        lr_factors: times the optimizer's learning rate, by :class:`~mamoe.training.optim.Part`; 1 where not named.
        ema_decay: decay of the weight average; None keeps no average. A schedule-free optimizer brings its own.
    """

    optimizer: Callable[[list[dict[str, Any]]], Optimizer]
    lr_scheduler: Callable[[Optimizer], LRScheduler] | None = None
    lr_factors: Mapping[str, float] = field(default_factory=dict)
    ema_decay: float | None = None
