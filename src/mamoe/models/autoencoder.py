"""Calls of the autoencoder, whose methods diffusers declares as answering with a named output or a bare tuple.

Of autoencoders of films (Qwen-Image's) a picture is a film of one frame; nobody else sees that axis.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, cast

import torch
from diffusers import AutoencoderKL, AutoencoderKLFlux2, AutoencoderKLQwenImage
from diffusers.models.autoencoders.vae import DecoderOutput, DiagonalGaussianDistribution
from diffusers.models.modeling_outputs import AutoencoderKLOutput
from jaxtyping import Float
from torch import Tensor, nn

from mamoe.models.blocks.pictures import without_idle_passes
from mamoe.storage.fingerprints import fingerprint_of

_ARCHITECTURE = ("act_fn", "norm_num_groups", "down_block_types", "layers_per_block")  # what no weight's shape tells


# By the name that a pipeline's index has for them; AutoencoderKL is what all are declared as here.
KINDS: Mapping[str, type[Any]] = {
    kind.__name__: kind for kind in (AutoencoderKL, AutoencoderKLFlux2, AutoencoderKLQwenImage)
}


def is_of_films(config: Mapping[str, Any]) -> bool:
    """Whether an autoencoder of this configuration is one of films, as Qwen-Image's."""
    return "z_dim" in config


def latent_channels(config: Mapping[str, Any]) -> int:
    """C of the latents of an autoencoder of this configuration."""
    return config["z_dim"] if is_of_films(config) else config["latent_channels"]


def cell_pixels(config: Mapping[str, Any]) -> int:
    """How many pixels a side a latent cell has, of an autoencoder of this configuration."""
    return 2 ** (len(config["dim_mult" if is_of_films(config) else "block_out_channels"]) - 1)


def posterior_of(vae: AutoencoderKL, pictures: Float[Tensor, "B 3 H W"]) -> DiagonalGaussianDistribution:
    """The distribution of the latents [B C h w], not yet scaled, of ``pictures`` in [-1, 1]."""
    films = is_of_films(vae.config)
    output = vae.encode(pictures.unsqueeze(2) if films else pictures)
    assert isinstance(output, AutoencoderKLOutput)
    found = output.latent_dist
    return DiagonalGaussianDistribution(found.parameters.squeeze(2)) if films else found


def decoded(vae: AutoencoderKL, latents: Float[Tensor, "B C h w"]) -> Float[Tensor, "B 3 H W"]:
    """The pictures, about in [-1, 1], of ``latents`` that are not scaled any more."""
    films = is_of_films(vae.config)
    output = vae.decode(latents.unsqueeze(2) if films else latents)  # pyright: ignore[reportArgumentType]
    assert isinstance(output, DecoderOutput)
    return output.sample.squeeze(2) if films else output.sample


def with_channels_last(vae: AutoencoderKL) -> AutoencoderKL:
    """The autoencoder, its weights' channels last in memory: on a CPU it takes half the time. One of films stays."""
    network: Any = vae  # whose own `to` is declared without this option
    if is_of_films(vae.config):
        return network
    without_idle_passes(network)
    return network.to(memory_format=torch.channels_last)


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
