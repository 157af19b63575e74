"""Give a text encoder's features zero mean and unit variance without changing what the UNet computes.

A small encoder trained with a UNet puts most of its output into one direction that all words share; "red" and "blue"
differ by a few percent, and a fine-tuning of the cross-attentions hardly sees the difference. The output's affine
layer can take mean and scale away, and the cross-attentions can give them back:

    keys     a constant added to every key shifts all of a query's scores alike, and the softmax does not see it
    values   weights sum to 1, so a constant added to every value is a constant output: it moves into the bias
"""

from __future__ import annotations

import torch
from diffusers import UNet2DConditionModel
from diffusers.models.attention_processor import Attention
from jaxtyping import Float
from torch import Tensor, nn
from transformers import CLIPTextModel


@torch.no_grad()
def standardise_text(text_encoder: CLIPTextModel, unet: UNet2DConditionModel, features: Float[Tensor, "n D"]) -> None:
    """Change both networks in place; their composition stays the same function up to rounding.

    Args:
        text_encoder: ends in a layer norm with weight and bias.
        unet: its cross-attentions read the encoder's features; their output projections have a bias.
        features: what the encoder gives for the tokens of typical prompts; n large against D.
    """
    mean, scale = features.mean(0), features.std(0)
    norm = text_encoder.final_layer_norm
    norm.weight.div_(scale)
    norm.bias.sub_(mean).div_(scale)
    for name, attention in unet.named_modules():
        if name.endswith("attn2") and isinstance(attention, Attention):
            to_k, to_v, to_out = attention.to_k, attention.to_v, attention.to_out[0]  # pyright: ignore[reportOptionalSubscript]
            assert isinstance(to_k, nn.Linear) and isinstance(to_v, nn.Linear) and isinstance(to_out, nn.Linear)
            to_out.bias.add_(to_out.weight @ (to_v.weight @ mean))
            to_k.weight.mul_(scale)
            to_v.weight.mul_(scale)
