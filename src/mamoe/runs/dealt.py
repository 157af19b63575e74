"""Networks and tensors that are dealt out over processes, seen from the files they go into."""

from __future__ import annotations

from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor, distribute_tensor


def part_of(whole: Tensor, like: Tensor) -> Tensor:
    """This process's part of a tensor that all have, if ``like`` is a part."""
    if not isinstance(like, DTensor):
        return whole
    return distribute_tensor(whole.to(like.device), like.device_mesh, like.placements)


def class_name(network: nn.Module) -> str:
    """The name of a network's class before it was dealt out."""
    kind = type(network)
    return (kind.__bases__[1] if isinstance(network, FSDPModule) else kind).__name__
