"""The rest group's expert as adapters of the layers it lies beside: what stock models take of such experts."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from diffusers.models.transformers.transformer_flux import FluxTransformer2DModel
from diffusers.models.transformers.transformer_flux2 import Flux2Transformer2DModel
from diffusers.models.transformers.transformer_qwenimage import QwenImageTransformer2DModel
from torch import Tensor

_ADDITION = re.compile(r"(?P<block>.+)\.experts\.(?P<layer>widen|narrow)\.down_ErC")
# Of blocks with two streams, and of single ones.
_BESIDE: dict[type[Any], tuple[Mapping[str, str], Mapping[str, str]]] = {
    FluxTransformer2DModel: ({"widen": "ff.net.0.proj", "narrow": "ff.net.2"}, {"widen": "proj_mlp"}),
    Flux2Transformer2DModel: (
        {"widen": "ff.linear_in", "narrow": "ff.linear_out"},
        {"widen": "attn.to_qkv_mlp_proj"},  # behind queries, keys and values
    ),
    QwenImageTransformer2DModel: ({"widen": "img_mlp.net.0.proj", "narrow": "img_mlp.net.2"}, {}),
}


def rest_as_adapters(state: Mapping[str, Tensor], stock: type[Any]) -> dict[str, Tensor]:
    """Trained weights by name, those of expert 0 as peft names adapters; those of the other experts are left out.

    Of a layer that has an adapter of its own already, the two become one of the sum of their ranks.
    """
    named = {name: value for name, value in state.items() if ".experts." not in name}
    for name, value in state.items():
        found = _ADDITION.fullmatch(name)
        if found is None:
            continue
        single = found["block"].startswith("single_")
        layer = f"{found['block']}.{_BESIDE[stock][single][found['layer']]}"
        down, up = value[0], state[f"{found['block']}.experts.{found['layer']}.up_EFr"][0]
        if single and stock is Flux2Transformer2DModel:
            up = F.pad(up, (0, 0, 3 * down.shape[1], 0))
        for part, own, axis in (("lora_A", down, 0), ("lora_B", up, 1)):
            key = f"{layer}.{part}.default.weight"
            named[key] = torch.cat([named[key], own], dim=axis) if key in named else own
    return named
