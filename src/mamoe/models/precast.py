"""Frozen weights kept in the format that autocast computes in.

Autocast casts the weights of products, linear layers and convolutions, in every call. What a frozen one becomes is the
same each time: kept so, it takes half the memory, nobody casts it, and no bit of a loss or gradient is another. Norms
and tables, which autocast leaves in float32, stay as they are.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from diffusers import ModelMixin
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from mamoe.models.experts.moe import MoEFeedForward

# By exact class: one that inherits from these may read its weights in other ways.
_PRODUCTS = (
    nn.Linear,
    nn.Conv1d,
    nn.Conv2d,
    nn.Conv3d,
    nn.ConvTranspose1d,
    nn.ConvTranspose2d,
    nn.ConvTranspose3d,
)
_READ = ("weight", "bias")  # what goes by other names is computed with before (weight_norm, pruning)


def precast(network: nn.Module, dtype: torch.dtype, *, keep: bool = False) -> dict[str, Tensor]:
    """Put what autocast to ``dtype`` would cast of a network's frozen weights into ``dtype``, in place.

    The network has to be called under autocast from then on, and with float32 inputs as before: a diffusers network's
    ``dtype`` stays what it was. Nothing is cast twice, so a second call changes nothing. Of a network whose trained
    weights are saved alone the base is to be remembered before (:func:`mamoe.runs.adapter.remember_base`).

    Args:
        network: whatever trains of it (``requires_grad``) already does.
        dtype: bfloat16 or float16.
        keep: give back what was there; else it goes weight by weight, so that both are never in memory as a whole.

    Returns:
        If ``keep``, the float32 weights in whose place others are, by their names in ``network``, on its device: what a
        checkpoint of the whole network needs.
    """
    if dtype == torch.float16 and isinstance(network, ModelMixin) and network.config.get("force_upcast"):
        return {}  # it would overflow, and computes in float32, see mamoe.models.autoencoder.without_overflow
    stays = {id(weight) for weight in _read_otherwise(network)}
    originals: dict[str, Tensor] = {}
    for name, weight in network.named_parameters():
        if not weight.requires_grad and weight.dtype == torch.float32 and id(weight) not in stays:
            if keep:
                originals[name] = weight.data
            weight.data = weight.data.to(dtype)
    return originals


def frozen_sizes(network: nn.Module) -> tuple[int, int]:
    """How many numbers a network's frozen weights have, and how many of them are in 16 bits."""
    frozen = [weight for weight in network.parameters() if not weight.requires_grad]
    return sum(weight.numel() for weight in frozen), sum(w.numel() for w in frozen if w.dtype.itemsize == 2)


def _read_otherwise(network: nn.Module) -> Iterator[Tensor]:
    """Weights that not only autocast's products read, or that these read beside weights that train."""
    for module in network.modules():
        read = _READ if type(module) in _PRODUCTS else ()
        yield from (weight for name, weight in module.named_parameters(recurse=False) if name not in read)
        if isinstance(module, ModelMixin):  # diffusers takes the type of its first weight for a network's own
            first = next(module.parameters(), None)
            yield from [] if first is None else [first]
        elif isinstance(module, LoraLayer) and _is_dora(module):  # it takes the length of W + B A in float32
            yield from module.get_base_layer().parameters()
        elif isinstance(module, MoEFeedForward) and _learns_in_part(module):  # all experts are one product
            yield from (weight for layer in _layers(module) for weight in layer.parameters(recurse=False))
    yield from (weight for weight in network.parameters() if isinstance(weight, DTensor))


def _is_dora(layer: Any) -> bool:
    return len(layer.lora_magnitude_vector) > 0


def _learns_in_part(experts: MoEFeedForward) -> bool:
    return len({layer.weight.requires_grad for layer in _layers(experts)}) > 1


def _layers(experts: MoEFeedForward) -> list[nn.Linear]:
    """The linear layers of all experts that are one product, which those with adapters are not."""
    nets: list[Any] = [net._modules for net in experts.nets]
    pairs = [(own["0"]._modules.get("proj"), own["2"]) for own in nets]
    return [layer for pair in pairs for layer in pair if type(layer) is nn.Linear]
