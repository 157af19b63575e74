"""Whether a network can read what text encoders give, by the configurations of both."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from mamoe.conditioning.stacked_text import width_of


def text_problems(unet: Mapping[str, Any], encoders: Sequence[nn.Module | None]) -> list[str]:
    """Why a network of this configuration cannot read what these text encoders give; empty when it can."""
    configs: list[Any] = [encoder.config for encoder in encoders if encoder is not None]
    if "caption_channels" in unet:
        return _transformer_problems(unet, configs)
    if "caption_projection_dim" in unet:
        return _joined_problems(unet, configs)
    if "pooled_projection_dim" in unet:
        return _pooled_problems(unet, configs)
    if "joint_attention_dim" in unet:
        return _stacked_problems(unet["joint_attention_dim"], encoders)
    if "cap_feat_dim" in unet:
        return _stacked_problems(unet["cap_feat_dim"], encoders)
    width = sum(config.hidden_size for config in configs)
    gives = f"the text encoder{'s' if len(configs) > 1 else ''} give{'' if len(configs) > 1 else 's'}"
    reads = unet["cross_attention_dim"]
    problems = []
    if any(one != width for one in (reads if isinstance(reads, list | tuple) else [reads])):
        sizes = " + ".join(str(config.hidden_size) for config in configs)
        problems.append(f"the UNet reads text features of width {reads} (cross_attention_dim), {gives} {sizes}")
    kind = unet.get("addition_embed_type")
    if kind not in (None, "text_time"):
        problems.append(f"the UNet wants more than text (addition_embed_type {kind!r}), which no base model here gives")
    elif (kind == "text_time") != (len(configs) > 1):
        wants = "wants" if kind == "text_time" else "does not take"
        problems.append(
            f"the UNet {wants} a pooled prompt and the picture's sizes (addition_embed_type {kind!r}), which go with "
            f"two text encoders, and there {'are two' if len(configs) > 1 else 'is one'}"
        )
    elif kind == "text_time":
        pooled, sizes = configs[-1].projection_dim, 6 * unet["addition_time_embed_dim"]
        if unet["projection_class_embeddings_input_dim"] != pooled + sizes:
            problems.append(
                f"the UNet reads {unet['projection_class_embeddings_input_dim']} numbers about the whole picture "
                f"(projection_class_embeddings_input_dim), the second text encoder gives {pooled} and six sizes {sizes}"
            )
    return problems


def _transformer_problems(network: Mapping[str, Any], configs: Sequence[Any]) -> list[str]:
    problems, width = [], sum(config.hidden_size for config in configs)
    reads = network["caption_channels"] or network["cross_attention_dim"]
    if reads != width:
        problems.append(f"the transformer reads text features of width {reads}, its text encoder gives {width}")
    return problems


def _pooled_problems(network: Mapping[str, Any], configs: Sequence[Any]) -> list[str]:
    if len(configs) != 2:
        return ["the transformer reads one encoder's words and another's vector of the whole prompt, and there is one"]
    pooled, words = (config.hidden_size for config in configs)
    problems = []
    if network["joint_attention_dim"] != words:
        problems.append(
            f"the transformer reads text features of width {network['joint_attention_dim']}, the second text encoder "
            f"gives {words}"
        )
    if network["pooled_projection_dim"] != pooled:
        problems.append(
            f"the transformer reads {network['pooled_projection_dim']} numbers about the whole picture, the first text "
            f"encoder gives {pooled}"
        )
    return problems


def _joined_problems(network: Mapping[str, Any], configs: Sequence[Any]) -> list[str]:
    kinds = [hasattr(config, "projection_dim") for config in configs]
    if kinds not in ([True, True], [True, True, False]):
        return [
            f"the transformer reads two of CLIP's text encoders, with or without T5's, and there are {len(configs)}"
        ]
    problems, width, whole = [], network["joint_attention_dim"], network["pooled_projection_dim"]
    clip, t5 = configs[:2], configs[2:]
    if any(config.hidden_size != width for config in t5):
        problems.append(
            f"the transformer reads text features of width {width}, the third text encoder gives {t5[0].hidden_size}"
        )
    if (sides := [config.hidden_size for config in clip]) and sum(sides) > width:
        problems.append(f"the transformer reads text features of width {width}, CLIP's give {sides[0]} + {sides[1]}")
    pooled = [config.projection_dim for config in clip]
    if sum(pooled) != whole:
        problems.append(
            f"the transformer reads {whole} numbers about the whole picture, CLIP's text encoders give {pooled[0]} + "
            f"{pooled[1]}"
        )
    return problems


def _stacked_problems(reads: int, encoders: Sequence[nn.Module | None]) -> list[str]:
    gives = sum(width_of(encoder) for encoder in encoders if encoder is not None)
    if reads == gives:
        return []
    return [f"the transformer reads text features of width {reads}, its encoder's layers that are read give {gives}"]
