"""Prints, as JSON, how far kernels of our own are from torch's in float64: results and gradients, by case."""

import json

import torch
import torch.nn.functional as F
from torch import Tensor

from mamoe.models.blocks import group_norm, layer_norm
from mamoe.models.experts.gated import geglu, geglu_backward


def distance(one: Tensor, other: Tensor) -> float:
    return float(((one.double() - other).norm() / other.norm()).detach())


def normed(shape: tuple[int, ...], groups: int, silu: bool, dtype: torch.dtype = torch.float32) -> list[float]:
    """Far from zero, where sums of squares would lose digits."""
    x = (torch.randn(shape) * 2 + 20).to(dtype).contiguous(memory_format=torch.channels_last)
    given, grad = [x, torch.randn(shape[1]), torch.randn(shape[1])], torch.randn(shape).to(dtype)
    ours, exact = [one.clone().requires_grad_() for one in given], [one.double().requires_grad_() for one in given]
    y = group_norm.group_norm(ours[0], groups, *ours[1:], 1e-5, silu=silu)
    wanted = F.group_norm(exact[0], groups, *exact[1:], 1e-5)
    wanted = F.silu(wanted) if silu else wanted
    y.backward(grad)
    wanted.backward(grad.double())
    for one in (y, ours[0].grad):
        assert one is not None and one.dtype == dtype and one.is_contiguous(memory_format=torch.channels_last)
    return [distance(y, wanted), *(distance(a.grad, b.grad) for a, b in zip(ours, exact, strict=True))]


def gated(rows: int, columns: int, dtype: torch.dtype = torch.float32) -> list[float]:
    hidden, grad = torch.randn(rows, 2 * columns).to(dtype), torch.randn(rows, columns).to(dtype)
    exact = hidden.double().requires_grad_()
    value, gate = exact.chunk(2, dim=1)
    wanted = value * F.gelu(gate)
    wanted.backward(grad.double())
    again, hidden_grad = geglu_backward(hidden, grad)
    return [distance(geglu(hidden), wanted), distance(again, wanted), distance(hidden_grad, exact.grad)]


def rows_normed(rows: int, width: int, dtype: torch.dtype = torch.float32) -> list[float]:
    given = [(torch.randn(2, rows, width) + 20).to(dtype), torch.randn(width), torch.randn(width)]
    ours, exact = [one.clone().requires_grad_() for one in given], [one.double().requires_grad_() for one in given]
    grad = torch.randn(2, rows, width).to(dtype)
    y = layer_norm.layer_norm(ours[0], ours[1], ours[2], 1e-5)
    wanted = F.layer_norm(exact[0], (width,), *exact[1:], 1e-5)
    y.backward(grad)
    wanted.backward(grad.double())
    return [distance(y, wanted), *(distance(a.grad, b.grad) for a, b in zip(ours, exact, strict=True))]


torch.manual_seed(0)
layer_norm.PROGRAMS = 3  # each a loop over tiles
found = {
    "of one tile": normed((1, 64, 8, 8), 8, True),
    "of odd sizes": normed((2, 20, 5, 7), 4, False),
    "of several tiles and columns": normed((1, 66, 9, 9), 6, True),
    "norm in half precision": normed((1, 32, 8, 8), 4, True, torch.bfloat16),
    "rows": rows_normed(35, 320),
    "rows in half precision": rows_normed(3, 40, torch.bfloat16),
    "gated": gated(9, 260),
    "gated in half precision": gated(9, 40, torch.bfloat16),
}
group_norm.MOST_PARTS = 2  # each a loop over tiles
found["in parts of several tiles"] = normed((1, 16, 13, 13), 2, True)
print(json.dumps(found))
