"""Calls of the autoencoder, whose methods diffusers declares as answering with a named output or a bare tuple."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import cast

import torch
from diffusers import AutoencoderKL
from diffusers.models.autoencoders.vae import DecoderOutput, DiagonalGaussianDistribution
from diffusers.models.modeling_outputs import AutoencoderKLOutput
from jaxtyping import Float
from torch import Tensor, nn

from mamoe.storage.fingerprints import fingerprint_of

_ARCHITECTURE = ("act_fn", "norm_num_groups", "down_block_types", "layers_per_block")  # what no weight's shape tells


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


@contextmanager
def without_overflow(vae: AutoencoderKL, device: torch.device) -> Iterator[None]:
    """Inside the ``with``, an autoencoder whose config says ``force_upcast`` computes in float32 instead of float16.

    SDXL's overflows in float16. bfloat16, which has the range of float32, is left as it is.

    Args:
        vae: the autoencoder; its weights may be kept elsewhere (offloading).
        device: where it computes.
    """
    # Cast as a plain module: diffusers' own `to` warns, in every call, of parts to be kept in float32 that are none.
    half, kind = vae.dtype == torch.float16, device.type
    cast_to_half = torch.is_autocast_enabled(kind) and torch.get_autocast_dtype(kind) == torch.float16
    if not vae.config.get("force_upcast", False) or not (half or cast_to_half):
        yield
        return
    network = cast(nn.Module, vae)
    nn.Module.to(network, torch.float32)
    try:
        with torch.autocast(kind, enabled=False):
            yield
    finally:
        nn.Module.to(network, torch.float16 if half else torch.float32)


def vae_fingerprint(vae: AutoencoderKL, precision: str) -> str:
    """A short name for what decides a posterior: architecture, weights of the encoding half, and number format.

    Args:
        precision: of the computation, as lightning calls it, e.g. ``32-true`` or ``bf16-mixed``.
    """
    weights = {k: v for k, v in vae.state_dict().items() if k.startswith(("encoder.", "quant_conv."))}
    return fingerprint_of(f"{precision} {[vae.config.get(key) for key in _ARCHITECTURE]}", weights)
