"""The rest group's expert of a FLUX as adapters of the layers it lies beside: what stock models take of experts."""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor

_ADDITION = re.compile(r"(?P<block>.+)\.experts\.(?P<layer>widen|narrow)\.(?P<part>down_ErC|up_EFr)")
_BESIDE = {"widen": "ff.net.0.proj", "narrow": "ff.net.2"}  # of a double block
_BESIDE_SINGLE = {"widen": "proj_mlp"}
_PARTS = {"down_ErC": "lora_A", "up_EFr": "lora_B"}


def rest_as_adapters(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Trained weights by name, those of expert 0 as peft names adapters; those of the other experts are left out."""
    named: dict[str, Tensor] = {}
    for name, value in state.items():
        found = _ADDITION.fullmatch(name)
        if found is None:
            named[name] = value
            continue
        beside = _BESIDE_SINGLE if found["block"].startswith("single_") else _BESIDE
        named[f"{found['block']}.{beside[found['layer']]}.{_PARTS[found['part']]}.default.weight"] = value[0]
    return named
