"""The trained weights of a network alone, in a file of their own beside its configuration."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from mamoe.types import ConfigError

ADAPTER = "adapter.safetensors"


def trained_names(network: nn.Module) -> list[str]:
    return [name for name, parameter in network.named_parameters() if parameter.requires_grad]


def save_adapter(network: nn.Module, state: Mapping[str, Tensor], folder: Path) -> None:
    """Write what ``state`` says of the trained weights of ``network``, and the network's configuration."""
    folder.mkdir(parents=True, exist_ok=True)
    network.save_config(folder)  # type: ignore[operator]
    kept = {name: state[name].detach().cpu().contiguous() for name in trained_names(network)}
    save_file(kept, folder / ADAPTER, metadata={"format": "pt"})


def read_adapter(network: nn.Module, folder: Path) -> dict[str, Tensor]:
    """The trained weights written by :func:`save_adapter`, checked against ``network``.

    Raises:
        ConfigError: names or shapes are others than those of the network's trained weights.
    """
    state = load_file(folder / ADAPTER)
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
    return state


@torch.no_grad()
def load_adapter(network: nn.Module, folder: Path) -> None:
    """Put the weights of :func:`read_adapter` into ``network``."""
    own = dict(network.named_parameters())
    for name, value in read_adapter(network, folder).items():
        own[name].copy_(value)
