"""The rest group's expert as adapters of the layers it lies beside: what stock models take of experts."""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from torch import Tensor

from mamoe.models.joint.steered import SteeredJoint

_ADDITION = re.compile(r"(?P<block>(?P<list>\w+)\.\d+)\.experts\.(?P<part>widen|narrow)\.down_ErC")


def rest_as_adapters(state: Mapping[str, Tensor], ours: type[SteeredJoint]) -> dict[str, Tensor]:
    """Trained weights by name, those of expert 0 as peft names adapters; those of the other experts are left out.

    Of a layer that has an adapter of its own already, the two become one of the sum of their ranks.
    """
    named = {name: value for name, value in state.items() if ".experts." not in name}
    for name, value in state.items():
        found = _ADDITION.fullmatch(name)
        if found is None:
            continue
        block, part = found["block"], found["part"]
        up = state[f"{block}.experts.{part}.up_EFr"][0]
        for layer, adapter in ours.blocks[found["list"]].as_adapters(part, value[0], up).items():
            for half, own, axis in zip(("lora_A", "lora_B"), adapter, (0, 1), strict=True):
                key = f"{block}.{layer}.{half}.default.weight"
                # A copy, because several layers may have the same half, and files hold no tensor twice.
                named[key] = torch.cat([named[key], own], dim=axis) if key in named else own.clone()
    return named
