"""Weights that stay as they are beside what trains, in fewer bits.

    bf16   all of them                                              2 bytes a weight
    int8   linear layers of the blocks (Dettmers et al. 2022)       1 byte
    nf4    likewise (Dettmers et al. 2023, QLoRA, section 3)        half a byte, and 1/8 byte of scales

The rest of int8 and nf4 is bf16; norms are float32 in all. Sums and products are made in the autocast's format.
Text encoders know int8 too.
"""

from __future__ import annotations

from collections.abc import Collection
from enum import StrEnum
from typing import Any, TypeGuard

import torch
from torch import nn
from transformers import T5EncoderModel

from mamoe.machine.optional import required
from mamoe.models.blocks.block import blocks_of

_BLOCK = 64  # weights of a row that share a scale in nf4


class Frozen(StrEnum):
    """What frozen weights are kept in."""

    FP32 = "fp32"
    BF16 = "bf16"
    INT8 = "int8"
    NF4 = "nf4"

    @property
    def dtype(self) -> torch.dtype:
        """What they are read in."""
        return torch.float32 if self is Frozen.FP32 else torch.bfloat16


def quantise(network: nn.Module, kind: Frozen) -> None:
    """Put the frozen linear layers of a network's blocks into fewer bits, where they are; others stay.

    Adapters beside them are looked past: of a layer that has some the layer inside is meant.

    Raises:
        ConfigError: the package for it is not installed.
    """
    if kind in (Frozen.FP32, Frozen.BF16):
        return
    library = _library("model.frozen_precision", kind)
    for block in blocks_of(network):
        _shrink(library, block, kind)


def quantise_text(encoder: T5EncoderModel) -> None:
    """Put a text encoder's linear layers into int8, where they are; it can learn nothing any more.

    Layers whose sums go beyond float16, in which int8 products are made, stay as they are: transformers names them.

    Raises:
        ConfigError: the package for it is not installed.
    """
    stay = tuple(encoder._keep_in_fp32_modules or ())  # pyright: ignore[reportPrivateUsage]
    _shrink(_library("model.text_precision", Frozen.INT8), encoder.requires_grad_(False), Frozen.INT8, stay)


def let_go(network: nn.Module) -> None:
    """Leave a network without weights, whoever still holds it."""
    for parent in list(network.modules()):
        for name, layer in list(parent.named_children()):
            if isinstance(layer, nn.Linear) and type(layer) is not nn.Linear:  # of bitsandbytes: it stays where it is
                bias = layer.bias is not None
                setattr(parent, name, nn.Linear(layer.in_features, layer.out_features, bias=bias, device="meta"))
    network.to("meta")


def _library(key: str, kind: Frozen) -> Any:
    return required("bitsandbytes", f"{key}={kind}", "quantised", f"keep the weights in bf16 ({key})")


def _shrink(library: Any, network: nn.Module, kind: Frozen, stay: Collection[str] = ()) -> None:
    for parent in list(network.modules()):
        for name, layer in list(parent.named_children()):
            if name not in stay and _may_shrink(layer, kind):
                setattr(parent, name, _in_fewer_bits(library, layer, kind))


def _may_shrink(layer: nn.Module, kind: Frozen) -> TypeGuard[nn.Linear]:
    if type(layer) is not nn.Linear or layer.weight.requires_grad:
        return False
    return kind is not Frozen.NF4 or layer.in_features % _BLOCK == 0


def _in_fewer_bits(library: Any, layer: nn.Linear, kind: Frozen) -> nn.Module:
    sizes, bias, device = (layer.in_features, layer.out_features), layer.bias is not None, layer.weight.device
    if kind is Frozen.NF4:
        small = library.nn.Linear4bit(*sizes, bias=bias, compute_dtype=torch.bfloat16, quant_type="nf4", device="meta")
        # On some CPUs it packs the bits anew to evaluate, and cannot take that apart to train on.
        small.support_avx512bf16_for_cpu = False
        small.weight = library.nn.Params4bit(layer.weight.data, requires_grad=False, quant_type="nf4")
    else:
        small = library.nn.Linear8bitLt(*sizes, bias=bias, has_fp16_weights=False, device="meta")
        small.weight = library.nn.Int8Params(layer.weight.data, requires_grad=False, has_fp16_weights=False)
    if bias:
        small.bias = nn.Parameter(layer.bias.data, requires_grad=False)
    return small.to(device)  # which makes the bits


def widen_norms(network: nn.Module) -> None:
    """Keep in float32 what is neither a product's weight nor its bias: norms, tables, scales."""
    products = (nn.Linear, nn.Embedding, nn.modules.conv._ConvNd)  # pyright: ignore[reportPrivateUsage]
    for module in network.modules():
        if not isinstance(module, products):
            for parameter in module.parameters(recurse=False):
                parameter.data = parameter.data.float()
