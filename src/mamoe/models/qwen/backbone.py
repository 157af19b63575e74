"""Qwen-Image's transformers as a family of networks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from jaxtyping import Float, Shaped
from torch import Tensor

from mamoe.models.backbone import Pyramid
from mamoe.models.joint.backbone import converted, joint_backbone
from mamoe.models.joint.patches import NOISIEST, PATCH, packed, unpacked
from mamoe.models.qwen.model import MaMoEQwenImageTransformer2DModel

_BLOCK = r"transformer_blocks\.\d+\."
_EXPERTS = rf"{_BLOCK}img_mlp\.net\.(?:0\.proj|2)"


def call_qwen_image(
    network: Any,
    noisy: Float[Tensor, "B c h w"],
    timestep: Shaped[Tensor, "B"],
    inputs: Mapping[str, Any],
    guidance: float = 1.0,
) -> Float[Tensor, "B c h w"]:
    """What a Qwen-Image, stock or ours, makes of noisy latents; it is not distilled and told no ``guidance``.

    Args:
        network: the transformer, compiled or not.
        noisy: latents.
        timestep: in [0, 1000].
        inputs: text and layout, from ``Conditioning.unet_inputs()``. Padding is left out by the stock one too.
        guidance: see above.

    Raises:
        ValueError: the latents are no whole number of patches.
    """
    size = (noisy.shape[2], noisy.shape[3])
    rows = network(
        packed(noisy),
        inputs["encoder_hidden_states"],
        encoder_hidden_states_mask=inputs.get("encoder_attention_mask"),
        timestep=timestep.to(noisy.dtype) / NOISIEST,
        img_shapes=[[(1, size[0] // PATCH, size[1] // PATCH)]] * len(noisy),
        attention_kwargs=dict(inputs.get("cross_attention_kwargs") or {}) or None,
    ).sample
    return unpacked(rows, size)


def _unheard(config: Mapping[str, Any]) -> str:
    """Of the last block the text goes nowhere: what makes it is in the files, and has nothing to learn from."""
    last = rf"transformer_blocks\.{config['num_layers'] - 1}\."
    return rf"{last}(?:attn\.(?:add_q_proj|norm_added_q|to_add_out)|txt_mlp\.net\.(?:0\.proj|2))"


QWEN_IMAGE = joint_backbone(
    ours=MaMoEQwenImageTransformer2DModel,
    convert=converted(MaMoEQwenImageTransformer2DModel),
    pyramid=lambda config: Pyramid(count=1, skipped=PATCH.bit_length() - 1),
    latent_channels=lambda config: config["in_channels"] // PATCH**2,
    autoencoder="AutoencoderKLQwenImage",
    call=call_qwen_image,
    even_steps=True,
    keeps_length=True,
    unheard=_unheard,
    routed=_EXPERTS,
    adapted={
        "attention": rf"{_BLOCK}attn\.(?:to_q|to_k|to_v|to_out\.0|add_[qkv]_proj|to_add_out)",
        "projection": rf"img_in|txt_in|proj_out|norm_out\.linear|{_BLOCK}(?:img|txt)_mod\.1|"
        r"time_text_embed\.\w+\.linear_[12]",
        "feed_forward": rf"{_EXPERTS}|{_BLOCK}txt_mlp\.net\.(?:0\.proj|2)",
    },
)
