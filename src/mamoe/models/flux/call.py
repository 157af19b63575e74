"""How a FLUX is called: latents as rows of 2x2 cells, positions, guidance as a number, padding as a mask.

Shapes: B images · c latent channels · h, w latent cells · N = h/2 * w/2 patches · S text tokens.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Shaped
from torch import Tensor

from mamoe.models.flux.model2 import MaMoEFlux2Transformer2DModel
from mamoe.models.joint.mask import padding_mask
from mamoe.models.joint.patches import NOISIEST, PATCH, packed, unpacked
from mamoe.models.wrapped import unwrapped

# What a guidance-distilled network is told where nobody asks for guidance, as in training: at 1 it predicts what the
# pictures themselves are, which is what a fine-tuning has to compare it with.
NO_GUIDANCE = 1.0


def picture_places(size: tuple[int, int], device: torch.device) -> Float[Tensor, "N 3"]:
    """Where every patch of latents of ``size`` (h, w) lies: 0, row, column."""
    row = torch.arange(size[0] // PATCH, device=device, dtype=torch.float32)
    column = torch.arange(size[1] // PATCH, device=device, dtype=torch.float32)
    rows, columns = torch.meshgrid(row, column, indexing="ij")
    return torch.stack([torch.zeros_like(rows), rows, columns], dim=2).flatten(0, 1)


def call_flux(
    network: Any,
    noisy: Float[Tensor, "B c h w"],
    timestep: Shaped[Tensor, "B"],
    inputs: Mapping[str, Any],
    guidance: float = NO_GUIDANCE,
) -> Float[Tensor, "B c h w"]:
    """What a FLUX.1, stock or ours, makes of noisy latents.

    Args:
        network: the transformer, compiled or not.
        noisy: latents.
        timestep: in [0, 1000].
        inputs: text and layout, from ``Conditioning.unet_inputs()``.
        guidance: what a distilled network is told; others are told nothing.
    """
    tokens = inputs["encoder_hidden_states"].shape[1]
    of_text = torch.zeros(tokens, 3, device=noisy.device)  # words have no place: their order is T5's matter
    pooled = inputs["added_cond_kwargs"]["text_embeds"]
    return _called(network, noisy, timestep, inputs, guidance, txt_ids=of_text, pooled_projections=pooled)


def call_flux2(
    network: Any,
    noisy: Float[Tensor, "B c h w"],
    timestep: Shaped[Tensor, "B"],
    inputs: Mapping[str, Any],
    guidance: float = NO_GUIDANCE,
) -> Float[Tensor, "B c h w"]:
    """What a FLUX.2, stock or ours, makes of noisy latents; arguments as of :func:`call_flux`.

    A place has four numbers there: picture, row, column, word.

    Raises:
        ValueError: words of some pictures stand elsewhere than those of others, in a stock network.
    """
    tokens = inputs["encoder_hidden_states"].shape[1]
    of_text = torch.zeros(tokens, 4, device=noisy.device)
    of_text[:, 3] = torch.arange(tokens, device=noisy.device)
    if (places := inputs.get("word_places")) is None:
        return _called(network, noisy, timestep, inputs, guidance, txt_ids=of_text)
    if isinstance(plain := unwrapped(network), MaMoEFlux2Transformer2DModel):
        told = {**(inputs.get("cross_attention_kwargs") or {}), "word_places": places}
        inputs = {**inputs, "cross_attention_kwargs": told}
    elif (places != places[:1]).any():
        raise ValueError(
            f"A {type(plain).__name__} has the words of all pictures in the same places, and here they end in the same "
            "one: give prompts with their padding (layout.global_padding=true)."
        )
    else:
        of_text[:, 3] = places[0]
    return _called(network, noisy, timestep, inputs, guidance, txt_ids=of_text)


def _called(
    network: Any,
    noisy: Float[Tensor, "B c h w"],
    timestep: Tensor,
    inputs: Mapping[str, Any],
    guidance: float,
    *,
    txt_ids: Float[Tensor, "S axes"],
    **further: Any,
) -> Float[Tensor, "B c h w"]:
    size, text = (noisy.shape[2], noisy.shape[3]), inputs["encoder_hidden_states"]
    told = dict(inputs.get("cross_attention_kwargs") or {})
    if (valid := inputs.get("encoder_attention_mask")) is not None:
        cells = size[0] // PATCH * (size[1] // PATCH)
        told["attention_mask"] = padding_mask(valid, cells)
    distilled = unwrapped(network).config["guidance_embeds"]
    places = picture_places(size, noisy.device)
    rows = network(
        packed(noisy),
        text,
        timestep=timestep.to(noisy.dtype) / NOISIEST,
        img_ids=F.pad(places, (0, txt_ids.shape[1] - places.shape[1])),
        txt_ids=txt_ids,
        guidance=torch.full((len(noisy),), guidance, device=noisy.device) if distilled else None,
        joint_attention_kwargs=told or None,
        **further,
    ).sample
    return unpacked(rows, size)
