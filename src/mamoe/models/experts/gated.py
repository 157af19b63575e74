"""GEGLU's activation in one pass over memory, and its gradient in one, in Triton (Shazeer 2020, arXiv 2002.05202).

torch computes gelu and product one after another, and of halves of rows by kernels that move a number at a time: in a
step of Stable Diffusion 2.1 that is a tenth of the time. Sums and products here are float32, rounded once.

Shapes: K rows · G columns behind the activation; in front of it there are 2 G, values and then gates.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from jaxtyping import Float
from torch import Tensor

ROWS, COLUMNS = 8, 256  # of a program
_kernel: Any = triton.jit


def geglu(hidden: Float[Tensor, "K G2"]) -> Float[Tensor, "K G"]:
    """value * gelu(gate) of contiguous rows, in their type."""
    rows, columns = hidden.shape[0], hidden.shape[1] // 2
    out = hidden.new_empty((rows, columns))
    if rows:
        with torch.cuda.device_of(hidden):
            _forward[_grid(rows, columns)](hidden, out, rows, columns, ROWS=ROWS, COLUMNS=COLUMNS)
    return out


def geglu_backward(
    hidden: Float[Tensor, "K G2"], grad: Float[Tensor, "K G"]
) -> tuple[Float[Tensor, "K G"], Float[Tensor, "K G2"]]:
    """The activation again, and from its gradient that of ``hidden``; all rows contiguous."""
    rows, columns = grad.shape
    out, hidden_grad = torch.empty_like(grad), torch.empty_like(hidden)
    if rows:
        with torch.cuda.device_of(hidden):
            _backward[_grid(rows, columns)](hidden, grad, out, hidden_grad, rows, columns, ROWS=ROWS, COLUMNS=COLUMNS)
    return out, hidden_grad


def _grid(rows: int, columns: int) -> tuple[int, int]:
    return triton.cdiv(rows, ROWS), triton.cdiv(columns, COLUMNS)


@_kernel
def _places(rows, columns, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """Where values lie, where results lie, and which of them there are."""
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)[:, None]
    column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)[None, :]
    return row * 2 * columns + column, row * columns + column, (row < rows) & (column < columns)


@_kernel
def _forward(hidden, out, rows, columns, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    place, result, there = _places(rows, columns, ROWS, COLUMNS)
    value = tl.load(hidden + place, mask=there, other=0.0).to(tl.float32)
    gate = tl.load(hidden + place + columns, mask=there, other=0.0).to(tl.float32)
    share = 0.5 * (1.0 + tl.erf(gate * 0.7071067811865476))
    tl.store(out + result, (value * gate * share).to(out.dtype.element_ty), mask=there)


@_kernel
def _backward(hidden, grad, out, hidden_grad, rows, columns, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    place, result, there = _places(rows, columns, ROWS, COLUMNS)
    value = tl.load(hidden + place, mask=there, other=0.0).to(tl.float32)
    gate = tl.load(hidden + place + columns, mask=there, other=0.0).to(tl.float32)
    given = tl.load(grad + result, mask=there, other=0.0).to(tl.float32)
    share = 0.5 * (1.0 + tl.erf(gate * 0.7071067811865476))
    slope = share + gate * 0.3989422804014327 * tl.exp(-0.5 * gate * gate)
    gelu = gate * share
    kind = hidden_grad.dtype.element_ty
    tl.store(out + result, (value * gelu).to(out.dtype.element_ty), mask=there)
    tl.store(hidden_grad + place, (given * gelu).to(kind), mask=there)
    tl.store(hidden_grad + place + columns, (given * value * slope).to(kind), mask=there)
