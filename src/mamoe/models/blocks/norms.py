"""Norms that answer in the format they are given.

Autocast on a GPU computes norms in float32 and hands on float32, which the layer behind casts back: three copies of
every tensor forward and backward, a fifth of a training step. The kernels sum in float32 whatever they are given, so
what is lost is one rounding, which the next layer would have made.

Their weights are cast instead. A network that knows its norms casts all of them at once (:func:`cast_at_once`): two
hundred small casts forward, and as many backward, cost the host a thirtieth of a step.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

Cast = tuple[Tensor | None, Tensor | None]


class LayerNorm(nn.LayerNorm):
    cast: Cast | None = None  # weight and bias, where they were cast with others'

    def forward(self, input: Tensor) -> Tensor:
        if not _would_be_widened(input):
            return super().forward(input)
        weight, bias = _cast(self, input)
        return _as_given(input, lambda: F.layer_norm(input, self.normalized_shape, weight, bias, self.eps))


class GroupNorm(nn.GroupNorm):
    cast: Cast | None = None

    def forward(self, input: Tensor) -> Tensor:
        if not _would_be_widened(input):
            return super().forward(input)
        weight, bias = _cast(self, input)
        return _as_given(input, lambda: F.group_norm(input, self.num_groups, weight, bias, self.eps))


def keep_format(network: nn.Module) -> list[LayerNorm | GroupNorm]:
    """Let every norm of ``network`` answer in the format it is given, and name those it has; weights and names stay."""
    for module in network.modules():
        if type(module) is nn.LayerNorm:
            module.__class__ = LayerNorm
        elif type(module) is nn.GroupNorm:
            module.__class__ = GroupNorm
    return [module for module in network.modules() if isinstance(module, LayerNorm | GroupNorm)]


def cast_at_once(
    norms: Sequence[LayerNorm | GroupNorm], device: torch.device
) -> contextlib.AbstractContextManager[None]:
    """Within, these norms have their weights cast already, where autocast on ``device`` is why they need it.

    What runs again later (gradient checkpointing) casts its own to the same values. So do norms that are compiled, and
    those of several processes, which send gradients round as they come: these would come together, and last.
    """
    if torch.compiler.is_compiling() or not _widens(device):
        return contextlib.nullcontext()
    weights = [weight for norm in norms for weight in (norm.weight, norm.bias) if weight is not None]
    return _cast_within(norms, weights, device) if _plain(weights, device) else contextlib.nullcontext()


@contextlib.contextmanager
def _cast_within(
    norms: Sequence[LayerNorm | GroupNorm], weights: Sequence[Tensor], device: torch.device
) -> Iterator[None]:
    made = iter(_Cast.apply(torch.get_autocast_dtype(device.type), *weights))  # type: ignore[arg-type]
    for norm in norms:
        norm.__dict__["cast"] = tuple(None if one is None else next(made) for one in (norm.weight, norm.bias))
    try:
        yield
    finally:
        for norm in norms:
            del norm.__dict__["cast"]


class _Cast(torch.autograd.Function):
    """Tensors of one axis, cast into one memory by one kernel; so are their gradients."""

    @staticmethod
    def forward(ctx: Any, dtype: torch.dtype, *parts: Tensor) -> tuple[Tensor, ...]:
        ctx.dtype = parts[0].dtype
        ctx.set_materialize_grads(False)
        return _together(parts, dtype)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        there = iter(_together([grad for grad in grads if grad is not None], ctx.dtype))
        return None, *(None if grad is None else next(there) for grad in grads)


def _together(parts: Sequence[Tensor], dtype: torch.dtype) -> tuple[Tensor, ...]:
    if not parts:
        return ()
    lengths = [len(part) for part in parts]
    made = parts[0].new_empty(sum(lengths), dtype=dtype).split(lengths)
    torch._foreach_copy_(list(made), list(parts))
    return tuple(made)


def _plain(weights: Sequence[Tensor], device: torch.device) -> bool:
    """Whether all lie here, of one type, and nobody else waits for their gradients."""
    alone = not (torch.distributed.is_available() and torch.distributed.is_initialized())
    alike = {(weight.device, weight.dtype) for weight in weights}
    return alone and alike == {(device, torch.float32)} and not any(isinstance(one, DTensor) for one in weights)


def _cast(norm: LayerNorm | GroupNorm, input: Tensor) -> Cast:
    if norm.cast is not None and not torch.compiler.is_compiling():
        return norm.cast
    weight, bias = norm.weight, norm.bias
    return None if weight is None else weight.to(input.dtype), None if bias is None else bias.to(input.dtype)


def _as_given(input: Tensor, compute: Callable[[], Tensor]) -> Tensor:
    """What is computed without autocast, in the format of the input."""
    kind = input.device.type
    if torch.compiler.is_compiling():  # which knows this way to say it
        with torch.autocast(kind, enabled=False):
            return compute()
    torch.set_autocast_enabled(kind, False)  # an eighth of the time that the line above takes
    try:
        return compute()
    finally:
        torch.set_autocast_enabled(kind, True)


def _widens(device: torch.device) -> bool:
    # Autocast on a CPU leaves norms alone.
    return device.type == "cuda" and torch.is_autocast_enabled("cuda")


def _would_be_widened(x: Tensor) -> bool:
    return x.dtype in (torch.bfloat16, torch.float16) and _widens(x.device)
