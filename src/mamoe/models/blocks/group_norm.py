"""Group norm of pictures whose channels lie last in memory, and SiLU behind it, in Triton.

Convolutions on a GPU want channels last. torch's group norm wants them first, and copies: in a UNet's step with
channels last that costs more than it saves, and with channels first every convolution copies instead. Here every pass
reads and writes rows of channels as they lie.

Wu and He 2018, Group Normalization (arXiv 1803.08494). Means and variances of tiles are joined as in Chan, Golub and
LeVeque 1979, so that no digits are lost where the mean is large. Sums are taken in float32 and in one order: the same
input gives the same bits.

    y = silu(x̂ w + b),  x̂ = (x - mean) / sqrt(var + eps),  mean and variance of the channels of one group

Shapes: N pictures · P = H·W places · C channels · G groups of D = C/G channels · K tiles of places.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable

ROWS, CHANNELS = 64, 64  # of a tile
MOST_PARTS = 64  # into which the places of a picture are cut; each is a loop over tiles
AT_ONCE = 16  # parts that are joined by one load

# Sizes that differ from layer to layer; Triton would compile each kernel anew where one is 1 or a multiple of 16.
_kernel: Any = triton.jit(do_not_specialize=("groups", "parts", "tiles", "rows", "width"))


def group_norm(
    x: Float[Tensor, "N C H W"],
    groups: int,
    weight: Float[Tensor, "C"],
    bias: Float[Tensor, "C"],
    eps: float,
    *,
    silu: bool = False,
) -> Float[Tensor, "N C H W"]:
    """The norm of ``x``, whose channels lie last in memory, in its type and layout; ``silu``: and SiLU of it.

    Gradients flow to ``x``, ``weight`` and ``bias``, once.
    """
    return _GroupNorm.apply(x, weight, bias, groups, eps, silu)  # type: ignore[no-any-return]


class _GroupNorm(torch.autograd.Function):
    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, groups: int, eps: float, silu: bool
    ) -> Tensor:
        with torch.cuda.device_of(x):
            y, mean, rstd = _forward(x, weight, bias, groups, eps, silu)
        ctx.save_for_backward(x, weight, bias, mean, rstd)
        ctx.silu = silu
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        x, weight, bias, mean, rstd = ctx.saved_tensors
        with torch.cuda.device_of(x):
            x_grad, sums = _backward(x, weight, bias, mean, rstd, grad, ctx.silu)
        bias_grad, weight_grad = sums.sum(1).to(weight.dtype)
        return x_grad, weight_grad, bias_grad, None, None, None


def _cut(places: int) -> tuple[int, int]:
    """(parts of a picture's places, tiles of each)."""
    tiles = triton.cdiv(places, ROWS)
    each = triton.cdiv(tiles, MOST_PARTS)
    return triton.cdiv(tiles, each), each


def _forward(
    x: Tensor, weight: Tensor, bias: Tensor, groups: int, eps: float, silu: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """The result, mean [N G] and one over the deviation [N G]."""
    count, channels, height, width = x.shape
    places, width_of_group = height * width, channels // groups
    parts, tiles = _cut(places)
    columns = triton.cdiv(channels, CHANNELS)
    partial = x.new_empty((2, count, parts, channels), dtype=torch.float32)
    mean, rstd = x.new_empty((2, count, groups), dtype=torch.float32)
    y = torch.empty_like(x)
    grid = (parts, columns, count)
    _part_moments[grid](x, partial[0], partial[1], places, channels, parts, tiles, ROWS=ROWS, CHANNELS=CHANNELS)
    _moments[(groups, count)](
        partial[0],
        partial[1],
        mean,
        rstd,
        eps,
        places,
        channels,
        groups,
        parts,
        tiles * ROWS,
        width_of_group,
        WIDTH=triton.next_power_of_2(width_of_group),
        AT_ONCE=AT_ONCE,
    )
    _apply[grid](
        x, weight, bias, mean, rstd, y, places, channels, groups, tiles, width_of_group,
        SILU=silu, ROWS=ROWS, CHANNELS=CHANNELS,
    )  # fmt: skip
    return y, mean, rstd


def _backward(
    x: Tensor, weight: Tensor, bias: Tensor, mean: Tensor, rstd: Tensor, grad: Tensor, silu: bool
) -> tuple[Tensor, Tensor]:
    """The gradient of x, and those of bias and weight of every picture [2 N C]."""
    grad = grad.contiguous(memory_format=torch.channels_last)
    count, channels, height, width = x.shape
    places, groups = height * width, mean.shape[1]
    width_of_group = channels // groups
    parts, tiles = _cut(places)
    columns = triton.cdiv(channels, CHANNELS)
    partial = x.new_empty((2, count, parts, channels), dtype=torch.float32)
    sums = x.new_empty((2, count, channels), dtype=torch.float32)
    means = x.new_empty((2, count, groups), dtype=torch.float32)
    x_grad = torch.empty_like(x)
    grid = (parts, columns, count)
    _part_sums[grid](
        x, grad, weight, bias, mean, rstd, partial[0], partial[1], places, channels, groups, parts, tiles,
        width_of_group, SILU=silu, ROWS=ROWS, CHANNELS=CHANNELS,
    )  # fmt: skip
    _sums[(groups, count)](
        partial[0], partial[1], weight, sums[0], sums[1], means[0], means[1], places, channels, groups, parts,
        width_of_group, WIDTH=triton.next_power_of_2(width_of_group), AT_ONCE=AT_ONCE,
    )  # fmt: skip
    _apply_backward[grid](
        x, grad, weight, bias, mean, rstd, means[0], means[1], x_grad, places, channels, groups, tiles,
        width_of_group, SILU=silu, ROWS=ROWS, CHANNELS=CHANNELS,
    )  # fmt: skip
    return x_grad, sums


@_kernel
def _channels(channels, groups, width, CHANNELS: tl.constexpr):
    """The channels of a program, which of them there are, and their groups among those of all pictures."""
    column = tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
    return column, column < channels, tl.program_id(2) * groups + column // width


@_kernel
def _of_channels(weight, bias, mean, rstd, column, known, group):
    w = tl.load(weight + column, mask=known, other=0.0).to(tl.float32)
    b = tl.load(bias + column, mask=known, other=0.0).to(tl.float32)
    return w, b, tl.load(mean + group, mask=known, other=0.0), tl.load(rstd + group, mask=known, other=0.0)


@_kernel
def _places(tile, tiles, places, channels, column, known, ROWS: tl.constexpr):
    """Where the numbers of a tile lie, and which of them there are."""
    row = (tl.program_id(0) * tiles + tile) * ROWS + tl.arange(0, ROWS)
    place = (tl.program_id(2).to(tl.int64) * places + row)[:, None] * channels + column[None, :]
    return place, (row < places)[:, None] & known[None, :]


@_kernel
def _part_moments(
    x, means, squares, places, channels, parts, tiles, ROWS: tl.constexpr, CHANNELS: tl.constexpr
):  # fmt: skip
    """Mean and sum of squared distances of every channel in one part of a picture's places."""
    part, picture = tl.program_id(0), tl.program_id(2)
    column = tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
    known = column < channels
    mean = tl.zeros((CHANNELS,), tl.float32)
    square = tl.zeros((CHANNELS,), tl.float32)
    seen = 0.0
    for tile in range(tiles):
        place, there = _places(tile, tiles, places, channels, column, known, ROWS)
        value = tl.load(x + place, mask=there, other=0.0).to(tl.float32)
        rows = tl.minimum(tl.maximum(places - (part * tiles + tile) * ROWS, 0), ROWS).to(tl.float32)
        own = tl.sum(value, axis=0) / tl.maximum(rows, 1.0)
        distance = tl.where(there, value - own[None, :], 0.0)
        apart = own - mean
        share = rows / tl.maximum(seen + rows, 1.0)
        square += tl.sum(distance * distance, axis=0) + apart * apart * seen * share
        mean += apart * share
        seen += rows
    place = (picture * parts + part) * channels + column
    tl.store(means + place, mean, mask=known)
    tl.store(squares + place, square, mask=known)


@_kernel
def _moments(
    means, squares, mean, rstd, eps, places, channels, groups, parts, rows, width, WIDTH: tl.constexpr,
    AT_ONCE: tl.constexpr,
):  # fmt: skip
    """Mean and one over the deviation of a group, from those of its channels in every part of ``rows`` places."""
    group, picture = tl.program_id(0), tl.program_id(1)
    inner = tl.arange(0, WIDTH)
    column = group * width + inner
    whole = (places * width).to(tl.float32)
    total = 0.0
    for first in range(0, parts, AT_ONCE):
        part = first + tl.arange(0, AT_ONCE)
        there = (part < parts)[:, None] & (inner < width)[None, :]
        count = tl.minimum(places - part * rows, rows).to(tl.float32)[:, None]
        value = tl.load(means + (picture * parts + part)[:, None] * channels + column[None, :], mask=there, other=0.0)
        total += tl.sum(tl.sum(tl.where(there, value * count, 0.0), axis=1), axis=0)  # pyright: ignore[reportOperatorIssue]
    centre = total / whole
    spread = 0.0
    for first in range(0, parts, AT_ONCE):
        part = first + tl.arange(0, AT_ONCE)
        there = (part < parts)[:, None] & (inner < width)[None, :]
        count = tl.minimum(places - part * rows, rows).to(tl.float32)[:, None]
        place = (picture * parts + part)[:, None] * channels + column[None, :]
        value = tl.load(means + place, mask=there, other=0.0)
        square = tl.load(squares + place, mask=there, other=0.0)
        apart = value - centre
        spread += tl.sum(tl.sum(tl.where(there, square + apart * apart * count, 0.0), axis=1), axis=0)  # pyright: ignore
    tl.store(mean + picture * groups + group, centre)
    tl.store(rstd + picture * groups + group, 1.0 / tl.sqrt(spread / whole + eps))


@_kernel
def _apply(
    x, weight, bias, mean, rstd, y, places, channels, groups, tiles, width, SILU: tl.constexpr, ROWS: tl.constexpr,
    CHANNELS: tl.constexpr,
):  # fmt: skip
    column, known, group = _channels(channels, groups, width, CHANNELS)
    w, b, centre, inverse = _of_channels(weight, bias, mean, rstd, column, known, group)
    scale = inverse * w
    shift = b - centre * scale
    for tile in range(tiles):
        place, there = _places(tile, tiles, places, channels, column, known, ROWS)
        value = tl.load(x + place, mask=there, other=0.0).to(tl.float32) * scale[None, :] + shift[None, :]
        if SILU:
            value = value * tl.sigmoid(value)
        tl.store(y + place, value.to(y.dtype.element_ty), mask=there)


@_kernel
def _normed_and_grad(value, grad, w, b, centre, inverse, SILU: tl.constexpr):
    """x̂, and the gradient of x̂ w + b."""
    normed = (value - centre[None, :]) * inverse[None, :]
    if SILU:
        inner = normed * w[None, :] + b[None, :]
        gate = tl.sigmoid(inner)
        grad = grad * gate * (1.0 + inner * (1.0 - gate))
    return normed, grad


@_kernel
def _part_sums(
    x, y_grad, weight, bias, mean, rstd, plain, normed_sums, places, channels, groups, parts, tiles, width,
    SILU: tl.constexpr, ROWS: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    """Sums of the gradient, and of its products with x̂, of every channel in one part of a picture's places."""
    column, known, group = _channels(channels, groups, width, CHANNELS)
    w, b, centre, inverse = _of_channels(weight, bias, mean, rstd, column, known, group)
    first = tl.zeros((CHANNELS,), tl.float32)
    second = tl.zeros((CHANNELS,), tl.float32)
    for tile in range(tiles):
        place, there = _places(tile, tiles, places, channels, column, known, ROWS)
        value = tl.load(x + place, mask=there, other=0.0).to(tl.float32)
        grad = tl.load(y_grad + place, mask=there, other=0.0).to(tl.float32)
        normed, grad = _normed_and_grad(value, grad, w, b, centre, inverse, SILU)
        first += tl.sum(grad, axis=0)
        second += tl.sum(grad * normed, axis=0)
    place = (tl.program_id(2) * parts + tl.program_id(0)) * channels + column
    tl.store(plain + place, first, mask=known)
    tl.store(normed_sums + place, second, mask=known)


@_kernel
def _sums(
    plain, normed_sums, weight, bias_grad, weight_grad, means, normed_means, places, channels, groups, parts, width,
    WIDTH: tl.constexpr, AT_ONCE: tl.constexpr,
):  # fmt: skip
    """Gradients of bias and weight of one picture, and the means over a group that the gradient of x takes away."""
    group, picture = tl.program_id(0), tl.program_id(1)
    inner = tl.arange(0, WIDTH)
    column, known = group * width + inner, inner < width
    first = tl.zeros((WIDTH,), tl.float32)
    second = tl.zeros((WIDTH,), tl.float32)
    for start in range(0, parts, AT_ONCE):
        part = start + tl.arange(0, AT_ONCE)
        there = (part < parts)[:, None] & known[None, :]
        place = (picture * parts + part)[:, None] * channels + column[None, :]
        first += tl.sum(tl.load(plain + place, mask=there, other=0.0), axis=0)
        second += tl.sum(tl.load(normed_sums + place, mask=there, other=0.0), axis=0)
    own = picture * channels + column
    tl.store(bias_grad + own, first, mask=known)
    tl.store(weight_grad + own, second, mask=known)
    w = tl.load(weight + column, mask=known, other=0.0).to(tl.float32)
    whole = (places * width).to(tl.float32)
    tl.store(means + picture * groups + group, tl.sum(first * w, axis=0) / whole)
    tl.store(normed_means + picture * groups + group, tl.sum(second * w, axis=0) / whole)


@_kernel
def _apply_backward(
    x, y_grad, weight, bias, mean, rstd, means, normed_means, x_grad, places, channels, groups, tiles, width,
    SILU: tl.constexpr, ROWS: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    column, known, group = _channels(channels, groups, width, CHANNELS)
    w, b, centre, inverse = _of_channels(weight, bias, mean, rstd, column, known, group)
    common = tl.load(means + group, mask=known, other=0.0)
    along = tl.load(normed_means + group, mask=known, other=0.0)
    for tile in range(tiles):
        place, there = _places(tile, tiles, places, channels, column, known, ROWS)
        value = tl.load(x + place, mask=there, other=0.0).to(tl.float32)
        grad = tl.load(y_grad + place, mask=there, other=0.0).to(tl.float32)
        normed, grad = _normed_and_grad(value, grad, w, b, centre, inverse, SILU)
        own = (grad * w[None, :] - common[None, :] - normed * along[None, :]) * inverse[None, :]
        tl.store(x_grad + place, own.to(x_grad.dtype.element_ty), mask=there)
