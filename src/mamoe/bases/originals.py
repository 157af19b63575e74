"""Models under the names of their first publication, which other programs read as one file.

The inverse of what :mod:`mamoe.bases.single_file` has diffusers do.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch import Tensor
from transformers import CLIPTextModel, CLIPTextModelWithProjection

_RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
_OPEN_CLIP = "gelu"  # OpenAI's has quick_gelu
_ENDS = {
    "conv_in": "input_blocks.0.0",
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
    "mid_block.resnets.0": "middle_block.0",
    "mid_block.attentions.0": "middle_block.1",
    "mid_block.resnets.1": "middle_block.2",
}


def original_names(
    unet: UNet2DConditionModel,
    vae: AutoencoderKL,
    text_encoder: CLIPTextModel,
    text_encoder_2: CLIPTextModelWithProjection | None = None,
) -> dict[str, Tensor]:
    """All weights of a stock Stable Diffusion model by their names in one original file.

    Two text encoders make a file of the XL kind. A single one is written as OpenAI's CLIP was (Stable Diffusion 1) or,
    where its activation is OpenCLIP's, as that (Stable Diffusion 2).
    """
    first = text_encoder.state_dict()
    if text_encoder_2 is not None:
        words = original_clip(first, "conditioner.embedders.0.transformer.")
        words |= original_open_clip(text_encoder_2.state_dict(), "conditioner.embedders.1.model.")
    elif text_encoder.config.hidden_act == _OPEN_CLIP:
        words = original_open_clip(first, "cond_stage_model.model.")
    else:
        words = original_clip(first, "cond_stage_model.transformer.")
    return {**original_unet(unet), **original_autoencoder(vae), **words}


def original_unet(unet: UNet2DConditionModel) -> dict[str, Tensor]:
    """A UNet's weights under the prefix ``model.diffusion_model``."""
    layers = unet.config["layers_per_block"] + 1
    names = dict(_ENDS)
    up_blocks: Any = unet.up_blocks
    for i in range(len(unet.down_blocks)):
        for j in range(layers - 1):
            names[f"down_blocks.{i}.resnets.{j}"] = f"input_blocks.{1 + i * layers + j}.0"
            names[f"down_blocks.{i}.attentions.{j}"] = f"input_blocks.{1 + i * layers + j}.1"
        names[f"down_blocks.{i}.downsamplers.0.conv"] = f"input_blocks.{(i + 1) * layers}.0.op"
        for j in range(layers):
            names[f"up_blocks.{i}.resnets.{j}"] = f"output_blocks.{i * layers + j}.0"
            names[f"up_blocks.{i}.attentions.{j}"] = f"output_blocks.{i * layers + j}.1"
        place = 2 if hasattr(up_blocks[i], "attentions") else 1
        names[f"up_blocks.{i}.upsamplers.0.conv"] = f"output_blocks.{i * layers + layers - 1}.{place}.conv"
    return {
        f"model.diffusion_model.{_renamed(key, names, _RESNET if '.resnets.' in key else {})}": value
        for key, value in unet.state_dict().items()
    }


def original_autoencoder(vae: AutoencoderKL) -> dict[str, Tensor]:
    """An autoencoder's weights under the prefix ``first_stage_model``; its attention's layers are 1x1 convolutions."""
    last = len(vae.config["block_out_channels"]) - 1
    original = {}
    for key, value in vae.state_dict().items():
        name = re.sub(r"down_blocks\.(\d+)\.resnets", r"down.\1.block", key)
        name = re.sub(r"up_blocks\.(\d+)\.resnets", lambda m: f"up.{last - int(m[1])}.block", name)
        name = re.sub(r"down_blocks\.(\d+)\.downsamplers\.0", r"down.\1.downsample", name)
        name = re.sub(r"up_blocks\.(\d+)\.upsamplers\.0", lambda m: f"up.{last - int(m[1])}.upsample", name)
        name = re.sub(r"mid_block\.resnets\.(\d)", lambda m: f"mid.block_{int(m[1]) + 1}", name)
        name = name.replace("mid_block.attentions.0", "mid.attn_1").replace("conv_norm_out", "norm_out")
        name = name.replace("conv_shortcut", "nin_shortcut")
        if "attn_1" in name:
            name = re.sub(r"to_([qkv])\.", r"\1.", name).replace("to_out.0", "proj_out").replace("group_norm", "norm")
            value = value[..., None, None] if value.ndim == 2 else value
        original[f"first_stage_model.{name}"] = value
    return original


def original_clip(state: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """A text encoder as OpenAI's CLIP was wrapped: the names transformers has, under a prefix."""
    return {f"{prefix}text_model.{key.removeprefix('text_model.')}": value for key, value in state.items()}


def original_open_clip(state: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """A text encoder as OpenCLIP names it, with queries, keys and values in one matrix."""
    plain = {key.removeprefix("text_model."): value for key, value in state.items()}
    tops = {
        "embeddings.token_embedding.weight": "token_embedding.weight",
        "embeddings.position_embedding.weight": "positional_embedding",
        "final_layer_norm.weight": "ln_final.weight",
        "final_layer_norm.bias": "ln_final.bias",
    }
    original = {tops[key]: value for key, value in plain.items() if key in tops}
    if "text_projection.weight" in plain:
        original["text_projection"] = plain["text_projection.weight"].T
    short = {"layer_norm": "ln_", "mlp.fc1": "mlp.c_fc", "mlp.fc2": "mlp.c_proj", "self_attn.out_proj": "attn.out_proj"}
    for key, value in plain.items():
        if not (match := re.match(r"encoder\.layers\.(\d+)\.(.*)", key)):
            continue
        block, name = f"transformer.resblocks.{match[1]}.", match[2]
        if name.startswith("self_attn.q_proj"):
            three = [plain[key.replace("q_proj", f"{part}_proj")] for part in "qkv"]
            original[f"{block}attn.in_proj_{name.rpartition('.')[2]}"] = torch.cat(three)
        elif not name.startswith(("self_attn.k_proj", "self_attn.v_proj")):
            for new, old in short.items():
                name = name.replace(new, old)
            original[block + name] = value
    return {prefix + key: value for key, value in original.items()}


def _renamed(key: str, names: Mapping[str, str], inner: Mapping[str, str]) -> str:
    outer = max((name for name in names if key.startswith(name + ".")), key=len)
    rest = key.removeprefix(outer + ".")
    for new, old in inner.items():
        rest = re.sub(rf"^{new}\b", old, rest)
    return f"{names[outer]}.{rest}"
