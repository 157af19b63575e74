"""The trained weights of a network alone, in a file of their own beside its configuration."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mamoe.errors import ConfigError
from mamoe.runs.recipe import read_recipe
from mamoe.storage.fingerprints import fingerprint_of
from mamoe.storage.tensor_file import read_metadata, read_tensors, write_tensors

ADAPTER = "adapter.safetensors"
_BASE = "base"  # in the file's metadata
_ROUNDED = "bf16-"  # before the fingerprint of a base model that was read in bfloat16
_REMEMBERED = "_base_fingerprint"
_SAMPLED = 64  # values of each frozen weight that enter its fingerprint


def same_method(theirs: Mapping[str, Any] | None, ours: Mapping[str, Any] | None) -> bool:
    """Whether an adapter trained by one method, as recipes write it, can be gone on with by the other."""
    return theirs is not None and ours is not None and json.loads(json.dumps(ours)) == dict(theirs)


def trained_names(network: nn.Module) -> list[str]:
    return [name for name, parameter in network.named_parameters() if parameter.requires_grad]


def save_adapter(network: nn.Module, state: Mapping[str, Tensor], folder: Path) -> None:
    """Write what ``state`` says of the trained weights of ``network``, and the network's configuration."""
    folder.mkdir(parents=True, exist_ok=True)
    network.save_config(folder)  # type: ignore[operator]
    kept = {name: state[name].detach().cpu().contiguous() for name in trained_names(network)}
    write_tensors(kept, folder / ADAPTER, {"format": "pt", _BASE: base_fingerprint(network)})


def base_fingerprint(network: nn.Module, *, rounded: bool = False) -> str:
    """A name for the weights that do not train: what an adapter was trained beside.

    It goes by a sample of each weight, rounded to float16: a base model kept in half precision has the same name. One
    that was read in bfloat16 has a name of its own, which others have where they are ``rounded`` likewise.
    """
    known = getattr(network, _REMEMBERED, None)
    if known is not None:
        return known
    frozen = {name: parameter for name, parameter in network.named_parameters() if not parameter.requires_grad}
    rounded = rounded or any(parameter.dtype == torch.bfloat16 for parameter in frozen.values())
    sample = {name: p.flatten()[:: max(1, p.numel() // _SAMPLED)] for name, p in frozen.items()}
    sample = {name: (p.bfloat16() if rounded else p).half() for name, p in sample.items()}
    name = fingerprint_of(str([tuple(parameter.shape) for parameter in frozen.values()]), sample)
    return f"{_ROUNDED}{name}" if rounded else name


def remember_base(network: nn.Module) -> None:
    """Let :func:`base_fingerprint` say what it says now, whatever is going to hold the frozen weights."""
    setattr(network, _REMEMBERED, base_fingerprint(network))


def was_rounded(folder: Path) -> bool:
    """Whether an adapter was trained beside weights that were read in bfloat16."""
    return str(read_metadata(folder / ADAPTER).get(_BASE)).startswith(_ROUNDED)


def read_adapter(network: nn.Module, folder: Path) -> dict[str, Tensor]:
    """The trained weights written by :func:`save_adapter`, checked against ``network``.

    Raises:
        ConfigError: names or shapes are others than those of the network's trained weights, or the adapter was trained
            on another base model.
    """
    state = read_tensors(folder / ADAPTER)
    base = read_metadata(folder / ADAPTER).get(_BASE)
    own = dict(network.named_parameters())
    wanted = {name: tuple(own[name].shape) for name in trained_names(network)}
    came = {name: tuple(value.shape) for name, value in state.items()}
    odd = sorted(name for name in wanted.keys() | came.keys() if wanted.get(name) != came.get(name))
    if odd:
        name = odd[0]
        raise ConfigError(
            f"The adapter in {folder} does not fit this model: {len(odd)} of its weights differ, first {name!r} (model "
            f"{wanted.get(name, 'has none')}, adapter {came.get(name, 'has none')}). Give the base model, the method "
            "and the layout it was trained with."
        )
    own_base = base_fingerprint(network, rounded=str(base).startswith(_ROUNDED))
    if base not in (None, own_base):
        raise ConfigError(
            f"The adapter in {folder} was trained on another base model{_place(folder)}, whose frozen weights have the "
            f"fingerprint {base}; this model's have {own_base}. Give the base model it was trained on."
        )
    return state


def _place(folder: Path) -> str:
    try:
        return f" ({read_recipe(folder.parent).base.path})"
    except ConfigError:  # an adapter on its own
        return ""


@torch.no_grad()
def load_adapter(network: nn.Module, folder: Path) -> None:
    """Put the weights of :func:`read_adapter` into ``network``."""
    own = dict(network.named_parameters())
    for name, value in read_adapter(network, folder).items():
        own[name].copy_(value)
