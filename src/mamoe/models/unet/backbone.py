"""Latent diffusion's UNets as a family of networks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from mamoe.models.backbone import Backbone, Pyramid
from mamoe.models.unet.model import MaMoEUNet2DConditionModel, levels_with_blocks
from mamoe.models.wrapped import unwrapped

_ADAPTED = {
    "attention": r"to_q|to_k|to_v|to_out\.0",
    "conv": r"conv1|conv2|conv_shortcut|downsamplers\.\d+\.conv|upsamplers\.\d+\.conv",
    "projection": r"proj_in|proj_out|time_emb_proj",
    "feed_forward": r"ff(?:\.experts\.\d+)?\.net\.0\.proj|ff(?:\.experts\.\d+)?\.net\.2",
}


def _sized(config: Mapping[str, Any]) -> bool:
    return config.get("addition_embed_type") == "text_time"


def _pooled_width(config: Mapping[str, Any]) -> int:
    if not _sized(config):
        return 0
    return config["projection_class_embeddings_input_dim"] - 6 * config["addition_time_embed_dim"]


def _for_steps(network: Any, inputs: dict[str, Any], dtype: torch.dtype) -> dict[str, Any]:
    """The layout in the type of the products, and a place where layers keep what they make of the text."""
    told, plain = inputs.get("cross_attention_kwargs"), unwrapped(network)
    base = getattr(plain, "base", plain)  # of a ControlNet-XS branch
    if told is None or not isinstance(base, MaMoEUNet2DConditionModel):
        return inputs
    told = {**told, "regions": base.computed_in(dtype, told["regions"])}
    # Whoever listens to the network between steps may change its weights, or the text in its place.
    if not any(one._forward_pre_hooks or one._forward_hooks for one in (network, plain, base)):
        told["kept"] = {}
    return {**inputs, "cross_attention_kwargs": told}


UNET = Backbone(
    part="unet",
    ours=MaMoEUNet2DConditionModel,
    convert=MaMoEUNet2DConditionModel.from_unet,
    pyramid=lambda config: Pyramid(count=len(config["block_out_channels"])),
    levels_with_blocks=levels_with_blocks,
    text_width=lambda config: config["cross_attention_dim"],
    adapted={kind: rf"(?:down_blocks|mid_block|up_blocks)\.(?:.*\.)?(?:{what})" for kind, what in _ADAPTED.items()},
    pooled_width=_pooled_width,
    sized=_sized,
    for_steps=_for_steps,
    takes_pictures=True,
    lora_prefix="unet",
    decoder=("up_blocks", "conv_norm_out", "conv_out"),
)
