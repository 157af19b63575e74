"""Names for networks and tensors. What they come out as is on users' disks, see :mod:`mamoe.storage.hashing`."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import torch
from torch import Tensor, nn

_SAMPLED = 256  # values of each weight tensor that enter a fingerprint


def fingerprint_of(description: str, weights: Mapping[str, Tensor]) -> str:
    """A short name for a network: what ``description`` says, and names, shapes, types and a sample of its weights."""
    digest = hashlib.blake2b(description.encode(), digest_size=12)
    for name, weight in weights.items():
        values = weight.flatten()
        sample = values[:: max(1, len(values) // _SAMPLED)].cpu()
        digest.update(f"{name} {tuple(weight.shape)} {weight.dtype} ".encode())
        digest.update(_bytes(sample))
    return digest.hexdigest()


def weights_hash(*networks: nn.Module, size: int = 6) -> str:
    """``2 * size`` hex digits for all weights of some networks."""
    digest = hashlib.blake2b(digest_size=size)
    for network in networks:
        for name, weight in sorted(network.state_dict().items()):
            digest.update(f"{name} {weight.dtype} {tuple(weight.shape)} ".encode())
            digest.update(_bytes(weight.detach().cpu()))
    return digest.hexdigest()


def tensors_hash(tensors: Mapping[str, Tensor]) -> str:
    """32 hex digits for tensors on the CPU and their names, whatever their order."""
    digest = hashlib.blake2b(digest_size=16)
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype} ".encode())
        digest.update(_bytes(tensor))
    return digest.hexdigest()


def _bytes(tensor: Tensor) -> bytes:
    return tensor.contiguous().flatten().view(torch.uint8).numpy().tobytes()
