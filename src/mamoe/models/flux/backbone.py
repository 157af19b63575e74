"""FLUX.1's and FLUX.2's transformers as families of networks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from diffusers.models.transformers.transformer_flux import FluxTransformer2DModel
from diffusers.models.transformers.transformer_flux2 import Flux2Transformer2DModel

from mamoe.errors import ConfigError
from mamoe.models.backbone import Backbone, Pyramid
from mamoe.models.flux.call import call_flux, call_flux2
from mamoe.models.flux.model import MaMoEFluxTransformer2DModel
from mamoe.models.flux.model2 import MaMoEFlux2Transformer2DModel
from mamoe.models.flux.steered import OWN_CONFIG, SteeredFlux

_BLOCK = r"(?:single_)?transformer_blocks\.\d+\."
_EXPERTS = r"transformer_blocks\.\d+\.ff\.net\.(?:0\.proj|2)|single_transformer_blocks\.\d+\.proj_mlp"


def converted(kind: type[SteeredFlux]) -> Any:
    """What makes networks of a stock class those of ``kind``, asked as other families are asked."""

    def convert(
        transformer: Any,
        *,
        moe_levels: Sequence[int] | None = None,
        learned_strength: bool = False,
        shared_expert: bool = False,
        copies: bool = True,
        expert_rank: int | None = None,
        expert_alpha: float | None = None,
        **own: Any,
    ) -> Any:
        problems = []
        if moe_levels is not None and list(moe_levels) != [0]:
            problems.append(f"its blocks all work on one level, so moe_levels must be [0] or null, got {moe_levels}")
        if learned_strength:
            problems.append("text attends here too, so that its regions bind as they are (regions.strength=hard)")
        if shared_expert:
            problems.append("its experts are additions to a shared feed-forward already")
        if problems:
            raise ConfigError(f"A {kind.__name__} cannot be made so: {'; '.join(problems)}.")
        return kind.from_transformer(transformer, **own)

    return convert


FLUX = Backbone(
    part="transformer",
    stock=FluxTransformer2DModel,
    ours=MaMoEFluxTransformer2DModel,
    convert=converted(MaMoEFluxTransformer2DModel),
    own_config=OWN_CONFIG,
    pyramid=lambda config: Pyramid(count=1, skipped=1),
    levels_with_blocks=lambda transformer: (0,),
    text_width=lambda config: config["joint_attention_dim"],
    pooled_width=lambda config: config["pooled_projection_dim"],
    latent_channels=lambda config: config["in_channels"] // 4,
    call=call_flux,
    methods=("lora", "lora_experts"),
    distilled=lambda config: config["guidance_embeds"],
    even_steps=True,
    weighs=False,
    routed=_EXPERTS,
    lora_prefix="transformer",
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

FLUX2 = Backbone(
    part="transformer",
    stock=Flux2Transformer2DModel,
    ours=MaMoEFlux2Transformer2DModel,
    convert=converted(MaMoEFlux2Transformer2DModel),
    own_config=OWN_CONFIG,
    pyramid=lambda config: Pyramid(count=1, skipped=1),
    levels_with_blocks=lambda transformer: (0,),
    text_width=lambda config: config["joint_attention_dim"],
    latent_channels=lambda config: config["in_channels"] // 4,
    call=call_flux2,
    methods=("lora", "lora_experts"),
    distilled=lambda config: config["guidance_embeds"],
    even_steps=True,
    drawn_shift=drawn_shift,
    weighs=False,
    # Of a single block the first layer makes queries, too, and has adapters of its own beside its experts.
    routed=_EXPERTS_2,
    lora_prefix="transformer",
    adapted={
        "attention": r"transformer_blocks\.\d+\.attn\.(?:to_q|to_k|to_v|to_out\.0|add_[qkv]_proj|to_add_out)|"
        r"single_transformer_blocks\.\d+\.attn\.to_(?:qkv_mlp_proj|out)",
        "projection": r"x_embedder|context_embedder|proj_out|norm_out\.linear|"
        r"(?:double|single)_stream_modulation(?:_img|_txt)?\.linear|time_guidance_embed\.\w+\.linear_[12]",
        "feed_forward": rf"{_EXPERTS_2}|transformer_blocks\.\d+\.ff_context\.linear_(?:in|out)",
    },
)
