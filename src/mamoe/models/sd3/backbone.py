"""Stable Diffusion 3's transformers as a family of networks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from jaxtyping import Float, Shaped
from torch import Tensor

from mamoe.models.backbone import Pyramid
from mamoe.models.joint.backbone import converted, joint_backbone
from mamoe.models.joint.mask import padding_mask
from mamoe.models.sd3.model import MaMoESD3Transformer2DModel, most_cells
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
        told["attention_mask"] = padding_mask(valid, cells)
    return network(
        noisy,
        text,
        pooled_projections=inputs["added_cond_kwargs"]["text_embeds"],
        timestep=timestep,
        joint_attention_kwargs=told or None,
    ).sample


SD3 = joint_backbone(
    ours=MaMoESD3Transformer2DModel,
    convert=converted(MaMoESD3Transformer2DModel),
    pyramid=lambda config: Pyramid(count=1, skipped=config["patch_size"].bit_length() - 1),
    pooled_width=lambda config: config["pooled_projection_dim"],
    call=call_sd3,
    most_cells=most_cells,
    routed=_EXPERTS,
    adapted={
        "attention": rf"{_BLOCK}attn2?\.(?:to_q|to_k|to_v|to_out\.0|add_[qkv]_proj|to_add_out)",
        "projection": rf"pos_embed\.proj|context_embedder|proj_out|norm_out\.linear|{_BLOCK}norm1(?:_context)?\.linear|"
        r"time_text_embed\.\w+\.linear_[12]",
        "feed_forward": rf"{_EXPERTS}|{_BLOCK}ff_context\.net\.(?:0\.proj|2)",
    },
)
