"""The autoencoder's latents, and how a UNet knows them: the one place that scales and shifts."""

from __future__ import annotations

from dataclasses import dataclass

from diffusers import AutoencoderKL
from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True, kw_only=True, slots=True)
class LatentScaling:
    """How the UNet knows latents: ``(latent - shift) * factor``."""

    factor: float
    shift: float = 0.0

    @classmethod
    def of(cls, vae: AutoencoderKL) -> LatentScaling:
        return cls(factor=vae.config["scaling_factor"], shift=vae.config.get("shift_factor") or 0.0)

    def scaled(self, latents: Float[Tensor, "*B C h w"]) -> Float[Tensor, "*B C h w"]:
        """The autoencoder's latents as the UNet knows them."""
        return (latents - self.shift) * self.factor

    def unscaled(self, latents: Float[Tensor, "*B C h w"]) -> Float[Tensor, "*B C h w"]:
        """The UNet's latents as the autoencoder knows them."""
        return latents / self.factor + self.shift
