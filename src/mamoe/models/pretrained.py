"""A pretrained latent diffusion model as its parts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

import torch
from diffusers import AutoencoderKL, DDPMScheduler, UNet2DConditionModel
from transformers import CLIPTextModel, CLIPTokenizer

from mamoe.shipped import resolved
from mamoe.types import ConfigError


@dataclass(frozen=True, kw_only=True, slots=True)
class BaseModel:
    """The parts of a pretrained model in diffusers layout, weights in float32."""

    path: str
    revision: str | None
    variant: str | None
    unet: UNet2DConditionModel
    vae: AutoencoderKL
    text_encoder: CLIPTextModel
    tokenizer: CLIPTokenizer
    scheduler: DDPMScheduler


def load_base(path: str, revision: str | None = None, variant: str | None = None) -> BaseModel:
    """Load a base model from a folder, the hub, or the package itself (``package:tiny``).

    Raises:
        ConfigError: a part cannot be loaded.
    """
    folder = resolved(path)
    options: dict[str, Any] = {"revision": revision}
    weights = {**options, "variant": variant, "use_safetensors": True}
    try:
        return BaseModel(
            path=path,
            revision=revision,
            variant=variant,
            unet=_float32(
                UNet2DConditionModel.from_pretrained(folder, subfolder="unet", low_cpu_mem_usage=False, **weights)
            ),
            vae=_float32(AutoencoderKL.from_pretrained(folder, subfolder="vae", **weights)),
            text_encoder=_float32(CLIPTextModel.from_pretrained(folder, subfolder="text_encoder", **weights)),
            tokenizer=CLIPTokenizer.from_pretrained(folder, subfolder="tokenizer", **options),
            scheduler=cast(DDPMScheduler, DDPMScheduler.from_pretrained(folder, subfolder="scheduler", **options)),
        )
    except (OSError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise ConfigError(
            f"model.path={path}: the base model cannot be loaded: {reason} Wanted a folder in diffusers layout (unet/, "
            "vae/, text_encoder/, tokenizer/, scheduler/) with safetensors weights, or a hub id and a network."
        ) from None


def _float32(network: Any) -> Any:
    # Cast afterwards: the name of the option that says so differs between libraries and their releases.
    return network.to(torch.float32)
