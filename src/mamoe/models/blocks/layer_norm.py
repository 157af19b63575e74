"""Layer norm in two passes over memory, one forward and one back, in Triton (Ba et al. 2016, arXiv 1607.06450).

torch sums the gradients of weight and bias in a pass of its own, which reads everything once more and takes longer than
the others together. Here a program that works on some rows sums theirs, and the sums of all are added at the end, in
float32 and in one order.

Shapes: M rows · C numbers of each.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable

NUMBERS = 4096  # that a program holds at once
PROGRAMS = 512  # among which the rows are dealt out on the way back
_kernel: Any = triton.jit(do_not_specialize=("rows", "tiles"))


def layer_norm(
    x: Float[Tensor, "*M C"], weight: Float[Tensor, "C"], bias: Float[Tensor, "C"], eps: float
) -> Float[Tensor, "*M C"]:
    """The norm of contiguous rows of a few thousand numbers, in their type. Gradients flow to all, once."""
    return _LayerNorm.apply(x, weight, bias, eps)  # type: ignore[no-any-return]


class _LayerNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:  # type: ignore[override]
        width = x.shape[-1]
        rows = x.numel() // width
        y, (mean, rstd) = torch.empty_like(x), x.new_empty((2, rows), dtype=torch.float32)
        at_once, columns = _tile(width)
        with torch.cuda.device_of(x):
            _forward[(triton.cdiv(rows, at_once),)](
                x, weight, bias, y, mean, rstd, rows, width, eps, ROWS=at_once, COLUMNS=columns
            )
        ctx.save_for_backward(x, weight, mean, rstd)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        x, weight, mean, rstd = ctx.saved_tensors
        width, grad = x.shape[-1], grad.contiguous()
        rows = x.numel() // width
        at_once, columns = _tile(width)
        tiles = triton.cdiv(triton.cdiv(rows, at_once), PROGRAMS)
        programs = triton.cdiv(rows, at_once * tiles)
        x_grad, sums = torch.empty_like(x), x.new_empty((2, programs, width), dtype=torch.float32)
        with torch.cuda.device_of(x):
            _backward[(programs,)](
                x, grad, weight, mean, rstd, x_grad, sums, rows, width, tiles, ROWS=at_once, COLUMNS=columns
            )
        weight_grad, bias_grad = sums.sum(1).to(weight.dtype)
        return x_grad, weight_grad, bias_grad, None


def _tile(width: int) -> tuple[int, int]:
    """Rows of a program, and the power of two that has room for one."""
    columns = triton.next_power_of_2(width)
    return max(1, NUMBERS // columns), columns


@_kernel
def _forward(x, weight, bias, y, mean, rstd, rows, width, eps, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    column = tl.arange(0, COLUMNS)
    there = (row < rows)[:, None] & (column < width)[None, :]
    place = row[:, None] * width + column[None, :]
    value = tl.load(x + place, mask=there, other=0.0).to(tl.float32)
    centre = tl.sum(value, axis=1) / width
    apart = tl.where(there, value - centre[:, None], 0.0)
    inverse = 1.0 / tl.sqrt(tl.sum(apart * apart, axis=1) / width + eps)
    w = tl.load(weight + column, mask=column < width, other=0.0).to(tl.float32)
    b = tl.load(bias + column, mask=column < width, other=0.0).to(tl.float32)
    normed = apart * inverse[:, None] * w[None, :] + b[None, :]
    tl.store(y + place, normed.to(y.dtype.element_ty), mask=there)
    tl.store(mean + row, centre, mask=row < rows)
    tl.store(rstd + row, inverse, mask=row < rows)


@_kernel
def _backward(
    x, y_grad, weight, mean, rstd, x_grad, sums, rows, width, tiles, ROWS: tl.constexpr, COLUMNS: tl.constexpr
):  # fmt: skip
    """The gradient of x; and in ``sums`` those of weight and bias, by the rows of this program."""
    program = tl.program_id(0)
    column = tl.arange(0, COLUMNS)
    known = column < width
    w = tl.load(weight + column, mask=known, other=0.0).to(tl.float32)
    of_weight = tl.zeros((COLUMNS,), tl.float32)
    of_bias = tl.zeros((COLUMNS,), tl.float32)
    for tile in range(tiles):
        row = (program.to(tl.int64) * tiles + tile) * ROWS + tl.arange(0, ROWS)
        there = (row < rows)[:, None] & known[None, :]
        place = row[:, None] * width + column[None, :]
        value = tl.load(x + place, mask=there, other=0.0).to(tl.float32)
        grad = tl.load(y_grad + place, mask=there, other=0.0).to(tl.float32)
        centre = tl.load(mean + row, mask=row < rows, other=0.0)
        inverse = tl.load(rstd + row, mask=row < rows, other=0.0)
        normed = tl.where(there, (value - centre[:, None]) * inverse[:, None], 0.0)
        of_weight += tl.sum(grad * normed, axis=0)
        of_bias += tl.sum(grad, axis=0)
        inner = grad * w[None, :]
        common = tl.sum(inner, axis=1) / width
        along = tl.sum(inner * normed, axis=1) / width
        own = (inner - common[:, None] - normed * along[:, None]) * inverse[:, None]
        tl.store(x_grad + place, own.to(x_grad.dtype.element_ty), mask=there)
    tl.store(sums + program * width + column, of_weight, mask=known)
    tl.store(sums + (tl.num_programs(0) + program) * width + column, of_bias, mask=known)
