"""Stable Diffusion 3's transformers as a family of networks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from diffusers.models.transformers.transformer_sd3 import SD3Transformer2DModel
from jaxtyping import Float, Shaped
from torch import Tensor

from mamoe.models.backbone import Backbone, Pyramid
from mamoe.models.blocks.joint import joint_mask
from mamoe.models.flux.backbone import converted
from mamoe.models.flux.steered import OWN_CONFIG
from mamoe.models.sd3.model import MaMoESD3Transformer2DModel
from mamoe.models.wrapped import unwrapped

_BLOCK = r"transformer_blocks\.\d+\."
_EXPERTS = rf"{_BLOCK}ff\.net\.(?:0\.proj|2)"


def call_sd3(
    network: Any,
    noisy: Float[Tensor, "B c h w"],
    timestep: Shaped[Tensor, "B"],
    inputs: Mapping[str, Any],
    guidance: float = 1.0,
) -> Float[Tensor, "B c h w"]:
    """What a Stable Diffusion 3, stock or ours, makes of noisy latents; it is not distilled and told no ``guidance``.

    Raises:
        ValueError: tokens are to be left out of a stock network, which would not leave them out.
    """
    told, text = dict(inputs.get("cross_attention_kwargs") or {}), inputs["encoder_hidden_states"]
    if (valid := inputs.get("encoder_attention_mask")) is not None:
        plain = unwrapped(network)
        if not isinstance(plain, MaMoESD3Transformer2DModel):
            raise ValueError(
                f"A {type(plain).__name__} ignores masks: it reads the padding of prompts of other lengths."
            )
        cells = noisy.shape[2] // plain.config["patch_size"] * (noisy.shape[3] // plain.config["patch_size"])
        told["attention_mask"] = joint_mask(valid.unsqueeze(1).expand(-1, cells, -1), torch.zeros_like(valid).long())
    return network(
        noisy,
        text,
        pooled_projections=inputs["added_cond_kwargs"]["text_embeds"],
        timestep=timestep,
        joint_attention_kwargs=told or None,
    ).sample


SD3 = Backbone(
    part="transformer",
    stock=SD3Transformer2DModel,
    ours=MaMoESD3Transformer2DModel,
    convert=converted(MaMoESD3Transformer2DModel),
    own_config=OWN_CONFIG,
    pyramid=lambda config: Pyramid(count=1, skipped=config["patch_size"].bit_length() - 1),
    levels_with_blocks=lambda transformer: (0,),
    text_width=lambda config: config["joint_attention_dim"],
    pooled_width=lambda config: config["pooled_projection_dim"],
    call=call_sd3,
    methods=("lora", "lora_experts"),
    weighs=False,
    routed=_EXPERTS,
    lora_prefix="transformer",
    adapted={
        "attention": rf"{_BLOCK}attn2?\.(?:to_q|to_k|to_v|to_out\.0|add_[qkv]_proj|to_add_out)",
        "projection": rf"pos_embed\.proj|context_embedder|proj_out|norm_out\.linear|{_BLOCK}norm1(?:_context)?\.linear|"
        r"time_text_embed\.\w+\.linear_[12]",
        "feed_forward": rf"{_EXPERTS}|{_BLOCK}ff_context\.net\.(?:0\.proj|2)",
    },
)
