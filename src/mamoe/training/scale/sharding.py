"""Weights, gradients, averages and moments dealt out over the processes: FSDP2, torch's ``fully_shard``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from diffusers import UNet2DConditionModel
from lightning.pytorch.strategies import ModelParallelStrategy, Strategy
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor

FSDP = "fsdp"


def with_sharding(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The trainer's settings, with Lightning's strategy in the place of the name ``fsdp``."""
    if settings.get("strategy") != FSDP:
        return dict(settings)
    return {**settings, "strategy": ModelParallelStrategy(save_distributed_checkpoint=False)}


def shard(unet: UNet2DConditionModel, strategy: Strategy, processes: int) -> None:
    """Deal the weights of ``unet`` out over all processes, if ``strategy`` says so; in place, as torch does it."""
    if not isinstance(strategy, ModelParallelStrategy) or isinstance(unet, FSDPModule):
        return
    mesh = init_device_mesh(strategy.root_device.type, (processes,))
    for block in (*unet.down_blocks, unet.mid_block, *unet.up_blocks):
        fully_shard(block, mesh=mesh)
    fully_shard(unet, mesh=mesh, reshard_after_forward=False)  # the backward pass begins with its weights


@contextmanager
def put_together(network: nn.Module) -> Iterator[None]:
    """Every process has all weights of ``network`` inside the ``with``: it may compute as often as it likes.

    Entered and left by every process; the weights must not change in between.
    """
    parts = [part for part in network.modules() if isinstance(part, FSDPModule)]
    for part in parts:
        part.set_reshard_after_forward(False, recurse=False)
        part.unshard()
    try:
        yield
    finally:
        for part in parts:
            part.reshard()
            part.set_reshard_after_forward(part is not network, recurse=False)


def gathered(state: Any, keep: bool) -> Any:
    """A state dict with whole tensors on the CPU in place of parts; without their values unless ``keep``.

    Called by every process where there are parts.
    """
    if isinstance(state, DTensor):
        whole = whole_of(state)
        return whole.cpu() if keep else torch.empty(0)
    if isinstance(state, Mapping):
        return {name: gathered(value, keep) for name, value in state.items()}
    return state


def whole_of(value: Tensor) -> Tensor:
    """A tensor put together from its parts."""
    return value.full_tensor() if isinstance(value, DTensor) else value
