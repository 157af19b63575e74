"""The weights of all experts as one tensor, as a grouped product takes them.

Every expert keeps parameters of its own, under the names a stock feed-forward gives them. Where these lie end to end in
memory (:func:`lay_end_to_end`), they are one tensor already, and only the cast to the product's type is left.

E experts, of weights [F C] or biases [F].
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Shaped
from torch import Tensor
from torch.distributed.tensor import DTensor


def stacked(parts: Sequence[Tensor], dtype: torch.dtype) -> Shaped[Tensor, "E *part"]:
    """``parts`` of one shape as one tensor of a type; gradients reach each part in its own type."""
    if torch.compiler.is_compiling():  # makes one kernel of it by itself
        return torch.stack([part.to(dtype) for part in parts])
    return _Stacked.apply(dtype, *parts)  # type: ignore[no-any-return]


def lay_end_to_end(parts: Sequence[Tensor], rows: int | None = None) -> Shaped[Tensor, "R *part"] | None:
    """Give parameters of one shape a common memory, one after another; their values stay as they are.

    Moving them to another device or type parts them again, and nothing depends on it but speed. Those that have such a
    memory stay where they are: a recording of kernels (CUDA graphs) reads them there.

    Args:
        parts: E of them.
        rows: of the memory, those past E being zeros; None: E.

    Returns:
        That memory; None: they differ, or are spread over processes, and stay where they are.
    """
    alike = {(part.shape, part.dtype, part.device) for part in parts}
    if len(alike) > 1 or any(isinstance(part, DTensor) for part in parts):
        return None
    with torch.inference_mode(False), torch.no_grad():  # whoever draws in inference mode may train afterwards
        if (memory := _together(parts, rows or len(parts))) is not None:
            memory[len(parts) :].zero_()
            return memory
        memory = whole(parts, parts[0].dtype, rows).detach()
        for part, place in zip(parts, memory, strict=False):
            part.data = place
    return memory


def whole(parts: Sequence[Tensor], dtype: torch.dtype, rows: int | None = None) -> Shaped[Tensor, "R *part"]:
    """``parts`` of one shape as one tensor of a type, without gradients; their own memory where that will do.

    ``rows`` = R, those past the parts being zeros; None: there are none.
    """
    count = len(parts)
    if rows in (None, count) and (together := _together(parts, count)) is not None:
        return together.to(dtype)
    made = parts[0].new_empty((rows or count, *parts[0].shape), dtype=dtype)
    torch._foreach_copy_(list(made[:count].unbind(0)), list(parts))
    made[count:].zero_()
    return made


class _Stacked(torch.autograd.Function):
    """Stacks and casts with one kernel forward and one backward, where ``torch.stack`` takes one for every part."""

    @staticmethod
    def forward(ctx: Any, dtype: torch.dtype, *parts: Tensor) -> Tensor:
        ctx.dtype = parts[0].dtype
        return whole(parts, dtype)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        return None, *grad.to(ctx.dtype).unbind(0)


def _together(parts: Sequence[Tensor], rows: int) -> Tensor | None:
    """The parts and all ``rows`` as one tensor without a copy, if they lie end to end in a memory that has no others.

    Where there are as many rows as parts, it may have others.
    """
    first = parts[0].detach()
    length, begin = first.numel(), first.storage_offset()
    step, place = length * first.element_size(), first.data_ptr()
    # Asked of every expert in every call, so in few words: neighbours in one memory lie at these addresses, and
    # neighbours of two memories do not both fit into the first one's.
    if any(part.data_ptr() != place + i * step for i, part in enumerate(parts)):
        return None
    room, wanted = first.untyped_storage().nbytes(), (begin + rows * length) * first.element_size()
    if room < wanted or (rows > len(parts) and (begin or room > wanted)):
        return None
    if not all(part.is_contiguous() and part.dtype == first.dtype for part in parts):
        return None
    return first.as_strided((rows, *first.shape), (length, *first.stride()), begin)
