"""Copies between host and device that neither waits for.

A copy from ordinary memory makes the host wait until the device has done all it was told before; one from pinned
memory is put in the queue like any other piece of work.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor


def works_ahead(device: torch.device) -> bool:
    """Whether the host goes on while ``device`` computes, so that reading a result means waiting for it."""
    return device.type == "cuda"


def sent(tensor: Tensor, device: torch.device | str, dtype: torch.dtype | None = None) -> Tensor:
    """``tensor`` on ``device``, on request in another type; on its way there while the host goes on."""
    if torch.device(device).type == "cuda" and tensor.device.type == "cpu":
        tensor = tensor.pin_memory()
    return tensor.to(device, dtype, non_blocking=True)


def sent_together(tensors: Sequence[Tensor], device: torch.device | str, dtype: torch.dtype | None = None) -> Tensor:
    """``tensors`` of one type, one after another, on ``device``; as :func:`sent`, and copied once on their way."""
    if torch.device(device).type != "cuda" or any(one.requires_grad or one.device.type != "cpu" for one in tensors):
        return sent(torch.cat(list(tensors)), device, dtype)
    rows, first = sum(one.shape[0] for one in tensors), tensors[0]
    room = torch.empty((rows, *first.shape[1:]), dtype=first.dtype, pin_memory=True)
    torch.cat(list(tensors), out=room)
    return room.to(device, dtype, non_blocking=True)


class Arrival:
    """A result on its way from the device to the host.

    Args:
        tensor: on the device; it may change after this.
    """

    def __init__(self, tensor: Tensor) -> None:
        on_gpu = tensor.device.type == "cuda"
        self._host = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=on_gpu)
        self._host.copy_(tensor, non_blocking=True)
        self._event: Any = None
        if on_gpu:
            self._event = torch.cuda.Event()
            self._event.record(torch.cuda.current_stream(tensor.device))

    def read(self) -> Tensor:
        """The result on the host; waits until it is there, but for nothing the device was told later."""
        if self._event is not None:
            self._event.synchronize()
        return self._host
