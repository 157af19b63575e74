"""FLUX.1's and FLUX.2's transformers as families of networks."""

from __future__ import annotations

from functools import partial

from mamoe.models.backbone import Pyramid
from mamoe.models.flux.call import call_flux, call_flux2
from mamoe.models.flux.model import MaMoEFluxTransformer2DModel
from mamoe.models.flux.model2 import MaMoEFlux2Transformer2DModel
from mamoe.models.joint.backbone import converted, joint_backbone

_BLOCK = r"(?:single_)?transformer_blocks\.\d+\."
_EXPERTS = r"transformer_blocks\.\d+\.ff\.net\.(?:0\.proj|2)|single_transformer_blocks\.\d+\.proj_mlp"


_flux_backbone = partial(
    joint_backbone,
    pyramid=lambda config: Pyramid(count=1, skipped=1),
    latent_channels=lambda config: config["in_channels"] // 4,
    distilled=lambda config: config["guidance_embeds"],
    even_steps=True,
)

FLUX = _flux_backbone(
    ours=MaMoEFluxTransformer2DModel,
    convert=converted(MaMoEFluxTransformer2DModel),
    pooled_width=lambda config: config["pooled_projection_dim"],
    call=call_flux,
    routed=_EXPERTS,
    adapted={
        "attention": rf"{_BLOCK}attn\.(?:to_q|to_k|to_v|to_out\.0|add_[qkv]_proj|to_add_out)",
        "projection": rf"x_embedder|context_embedder|proj_out|norm_out\.linear|{_BLOCK}norm1?(?:_context)?\.linear|"
        r"time_text_embed\.\w+\.linear_[12]",
        "feed_forward": rf"{_EXPERTS}|transformer_blocks\.\d+\.ff_context\.net\.(?:0\.proj|2)|"
        r"single_transformer_blocks\.\d+\.proj_out",
    },
)


def drawn_shift(patches: int, steps: int) -> float:
    """The logarithm of the shift that FLUX.2 is drawn with, as its makers fitted it: a line in the steps.

    It runs through a line in the patches at 10 steps and another at 200, which holds for pictures above 4300 patches
    at any number of steps.
    """
    few, many = 8.73809524e-05 * patches + 1.89833333, 0.00016927 * patches + 0.45666666
    return many if patches > 4300 else many + (few - many) * (200 - steps) / 190


_EXPERTS_2 = r"transformer_blocks\.\d+\.ff\.linear_(?:in|out)"

FLUX2 = _flux_backbone(
    ours=MaMoEFlux2Transformer2DModel,
    convert=converted(MaMoEFlux2Transformer2DModel),
    call=call_flux2,
    autoencoder="AutoencoderKLFlux2",
    drawn_shift=drawn_shift,
    # Of a single block the first layer makes queries, too, and has adapters of its own beside its experts.
    routed=_EXPERTS_2,
    adapted={
        "attention": r"transformer_blocks\.\d+\.attn\.(?:to_q|to_k|to_v|to_out\.0|add_[qkv]_proj|to_add_out)|"
        r"single_transformer_blocks\.\d+\.attn\.to_(?:qkv_mlp_proj|out)",
        "projection": r"x_embedder|context_embedder|proj_out|norm_out\.linear|"
        r"(?:double|single)_stream_modulation(?:_img|_txt)?\.linear|time_guidance_embed\.\w+\.linear_[12]",
        "feed_forward": rf"{_EXPERTS_2}|transformer_blocks\.\d+\.ff_context\.linear_(?:in|out)",
    },
)
