"""The autoencoder's latents, and how a UNet knows them: the one place that scales and shifts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from diffusers import AutoencoderKL
from jaxtyping import Float
from torch import Tensor

from mamoe.errors import ConfigError
from mamoe.machine.transfers import sent
from mamoe.models.autoencoder import is_of_films, latent_channels

Number = float | Tensor  # one for all cells, or [C p p]: for each place in a patch of p x p cells


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class LatentScaling:
    """How the UNet knows latents: ``(latent - shift) * factor``."""

    factor: Number
    shift: Number = 0.0

    @classmethod
    def of(cls, vae: AutoencoderKL) -> LatentScaling:
        """As the autoencoder's configuration says, or, of FLUX.2's, the statistics that it keeps of its patches.

        Of Qwen-Image's the configuration has statistics of every channel.

        Raises:
            ConfigError: what it says cannot be such numbers.
        """
        statistics: Any = getattr(vae, "bn", None)
        if statistics is not None:
            patch = tuple(vae.config["patch_size"])
            deviation = (statistics.running_var + vae.config["batch_norm_eps"]).sqrt()
            mean, factor = (
                one.detach().float().unflatten(0, (-1, *patch)) for one in (statistics.running_mean, 1 / deviation)
            )
            return cls(factor=factor, shift=mean)
        if is_of_films(vae.config):
            mean, deviation = (_of_channels(vae, f"latents_{name}") for name in ("mean", "std"))
            if not (deviation > 0).all():
                got = deviation.flatten().tolist()
                raise ConfigError(f"latents_std of the autoencoder must be above 0, got {got}.")
            return cls(factor=1 / deviation, shift=mean)
        factor = vae.config["scaling_factor"]
        if not factor:
            raise ConfigError(f"scaling_factor of the autoencoder must not be 0 or missing, got {factor}.")
        return cls(factor=factor, shift=vae.config.get("shift_factor") or 0.0)

    def scaled(self, latents: Float[Tensor, "*B C h w"]) -> Float[Tensor, "*B C h w"]:
        """The autoencoder's latents as the UNet knows them."""
        return (latents - _spread(self.shift, latents)) * _spread(self.factor, latents)

    def unscaled(self, latents: Float[Tensor, "*B C h w"]) -> Float[Tensor, "*B C h w"]:
        """The UNet's latents as the autoencoder knows them."""
        return latents / _spread(self.factor, latents) + _spread(self.shift, latents)


def _of_channels(vae: AutoencoderKL, name: str) -> Float[Tensor, "C 1 1"]:
    numbers, channels = vae.config[name], latent_channels(vae.config)
    if len(numbers) != channels:
        raise ConfigError(f"{name} of the autoencoder must be {channels} numbers, one a channel, got {len(numbers)}.")
    return torch.tensor(numbers)[:, None, None]


def _spread(number: Number, latents: Float[Tensor, "*B C h w"]) -> Number:
    """A number for every cell of ``latents``."""
    if not isinstance(number, Tensor):
        return number
    height, width = latents.shape[-2] // number.shape[1], latents.shape[-1] // number.shape[2]
    return sent(number, latents.device, latents.dtype).repeat(1, height, width)
