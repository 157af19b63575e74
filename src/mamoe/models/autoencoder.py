"""Calls of the autoencoder, whose methods diffusers declares as answering with a named output or a bare tuple."""

from __future__ import annotations

from diffusers import AutoencoderKL
from diffusers.models.autoencoders.vae import DecoderOutput, DiagonalGaussianDistribution
from diffusers.models.modeling_outputs import AutoencoderKLOutput
from jaxtyping import Float
from torch import Tensor


def posterior_of(vae: AutoencoderKL, pictures: Float[Tensor, "B 3 H W"]) -> DiagonalGaussianDistribution:
    """The distribution of the latents [B C h w], not yet scaled, of ``pictures`` in [-1, 1]."""
    output = vae.encode(pictures)
    assert isinstance(output, AutoencoderKLOutput)
    return output.latent_dist


def decoded(vae: AutoencoderKL, latents: Float[Tensor, "B C h w"]) -> Float[Tensor, "B 3 H W"]:
    """The pictures, about in [-1, 1], of ``latents`` that are not scaled any more."""
    output = vae.decode(latents)  # pyright: ignore[reportArgumentType]
    assert isinstance(output, DecoderOutput)
    return output.sample
