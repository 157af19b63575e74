"""PixArt's transformers as a family of networks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mamoe.errors import ConfigError
from mamoe.models.backbone import Backbone, Pyramid
from mamoe.models.dit.pixart import MaMoEPixArtTransformer2DModel


def _converted(transformer: Any, *, moe_levels: Sequence[int] | None = None, **own: Any) -> Any:
    if moe_levels is not None and list(moe_levels) != [0]:
        raise ConfigError(
            f"moe_levels must be [0] or null for a transformer, whose blocks all work on one level; got {moe_levels}."
        )
    return MaMoEPixArtTransformer2DModel.from_transformer(transformer, **own)


def _pyramid(config: Mapping[str, Any]) -> Pyramid:
    patch = config["patch_size"]
    if patch < 1 or patch & (patch - 1):
        raise ConfigError(f"Layouts reach patches of 1, 2, 4, … latent cells a side; this transformer has {patch}.")
    return Pyramid(count=1, skipped=patch.bit_length() - 1)


def _sized(config: Mapping[str, Any]) -> bool:
    """PixArt-alpha at 1024 pixels; where the configuration says nothing, diffusers goes by the size, too."""
    said = config.get("use_additional_conditions")
    return config["sample_size"] == 128 if said is None else bool(said)


PIXART = Backbone(
    part="transformer",
    ours=MaMoEPixArtTransformer2DModel,
    convert=_converted,
    pyramid=_pyramid,
    levels_with_blocks=lambda transformer: (0,),
    text_width=lambda config: config["caption_channels"] or config["cross_attention_dim"],
    sized=_sized,
    adapted={
        "attention": r"transformer_blocks\.\d+\.attn[12]\.(?:to_q|to_k|to_v|to_out\.0)",
        "projection": r"pos_embed\.proj|proj_out|(?:caption_projection|adaln_single)\.(?:.*\.)?linear(?:_[12])?",
        "feed_forward": r"transformer_blocks\.\d+\.ff(?:\.experts\.\d+)?\.net\.(?:0\.proj|2)",
    },
)
