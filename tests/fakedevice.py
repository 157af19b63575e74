"""A device that is none: tensors of the CPU that count as a GPU's, to see on any machine where the host would wait."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

READS = {"item", "tolist", "cpu", "numpy", "nonzero", "equal", "allclose", "unique", "masked_select", "__array__"}
COUNTED = {"nonzero", "unique", "masked_select"}  # of these the host reads how many there are
READS |= {"__bool__", "__int__", "__float__", "__index__", "is_nonzero", "__contains__"}
HARMLESS = {"__get__", "__set__", "__delete__", "copy_", "to", "pin_memory"}


class FakeDevice(TorchFunctionMode):
    """Notes in ``waits`` what would make the host wait for the device: reads, blocking copies, host tensors in kernels.

    On the device is what was made there (``device=``), sent there (``.to`` a ``torch.device``), marked by :meth:`put`,
    or computed from such tensors. A copy waits unless it is ``non_blocking`` (whether from pinned memory cannot be
    seen here), and so does whatever mixes tensors of host and device, which a GPU would refuse. What was copied to the
    host without blocking may be read once :meth:`tick` was called, which stands for the end of a step.
    """

    def __init__(self) -> None:
        super().__init__()
        self.waits: list[str] = []
        self._step = 0

    def tick(self) -> list[str]:
        """A step is over; what it waited for."""
        waits, self.waits = self.waits, []
        self._step += 1
        return waits

    def put(self, *modules: nn.Module) -> None:
        """Count the weights of ``modules`` as the device's."""
        for module in modules:
            for tensor in (*module.parameters(), *module.buffers()):
                tensor._on_fake_device = True  # type: ignore[attr-defined]

    def __torch_function__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        kwargs, name = kwargs or {}, func.__name__
        given = list(tensors_in((args, kwargs)))
        there = [tensor for tensor in given if on_device(tensor)]
        host = [tensor for tensor in given if not on_device(tensor) and tensor.dim() > 0]
        if name == "to" and not there and any(isinstance(one, torch.device) for one in (*args, *kwargs.values())):
            if not kwargs.get("non_blocking"):
                self._note("a blocking copy to the device")
            return marked(func(*args, **kwargs).clone())
        if there and (name in READS or (name == "to" and "cpu" in args)):
            self._note(name)
        elif name in READS and any(getattr(tensor, "_arrives_in", None) == self._step for tensor in given):
            self._note(f"{name} of what was just sent for")
        elif name == "copy_" and len(there) == 1 and not kwargs.get("non_blocking"):
            self._note("a blocking copy")
        elif there and host and name not in HARMLESS:
            self._note(f"{name} of tensors of host and device")
        elif there and name == "__getitem__" and any(tensor.dtype == torch.bool for tensor in there[1:]):
            self._note("indexing by booleans")
        result = func(*args, **kwargs)
        if name == "copy_" and there and not on_device(args[0]):
            result._arrives_in = self._step
        if name == "__getitem__" and hasattr(given[0], "_arrives_in"):
            result._arrives_in = given[0]._arrives_in
        if name in READS - COUNTED or (name == "copy_" and not on_device(args[0])):
            return result
        if there or isinstance(kwargs.get("device"), torch.device):
            for tensor in tensors_in(result):
                marked(tensor)
        return result

    def _note(self, what: str) -> None:
        frame = sys._getframe()  # no more of the stack than is said: tens of thousands are noted
        while frame.f_back is not None and "fakedevice" in frame.f_code.co_filename:
            frame = frame.f_back
        self.waits.append(f"{what} at {frame.f_code.co_filename}:{frame.f_lineno}")


def on_device(tensor: Tensor) -> bool:
    return getattr(tensor, "_on_fake_device", False)


def marked(tensor: Tensor) -> Tensor:
    tensor._on_fake_device = True  # type: ignore[attr-defined]
    return tensor


def tensors_in(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, list | tuple):
        for one in value:
            yield from tensors_in(one)
    elif isinstance(value, dict):
        for one in value.values():
            yield from tensors_in(one)
