"""Kernel distances (maximum mean discrepancy) of two sets of features, and their bootstrap, in pieces.

Everything is a sum over pairs, sum_ij w_i v_j k(x_i, y_j), for one or many rows of weights: ones give the distance,
counts a bootstrap replicate. A piece of some rows of the kernel matrix is made, weighed and dropped; the whole one is
never held. All sums are float64.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float, Float64
from torch import Tensor

Kernel = Callable[[Float64[Tensor, "a d"], Float64[Tensor, "b d"]], Float64[Tensor, "a b"]]
Weights = Float64[Tensor, "B n"]

PIECE = 2**21  # entries of a kernel matrix made at a time: 16 MiB
CMMD_SIGMA, CMMD_SCALE = 10.0, 1000.0  # Jayasumana et al. 2024


def polynomial_kernel(x: Float64[Tensor, "a d"], y: Float64[Tensor, "b d"]) -> Float64[Tensor, "a b"]:
    """(x.y / d + 1)^3, the kernel of KID (Binkowski et al. 2018, arXiv 1801.01401)."""
    product = (x @ y.T).div_(x.shape[1]).add_(1)
    return product.square().mul_(product)


def gaussian_kernel_less_one(
    x: Float64[Tensor, "a d"], y: Float64[Tensor, "b d"], sigma: float = CMMD_SIGMA
) -> Float64[Tensor, "a b"]:
    """exp(-|x - y|^2 / 2 sigma^2) - 1. The one cancels in the distance, and without it no digits are lost."""
    squared = (x @ y.T).mul_(-2)
    squared += x.square().sum(1)[:, None]
    squared += y.square().sum(1)
    return squared.clamp_min_(0).mul_(-0.5 / sigma**2).expm1_()


def pair_sums(
    kernel: Kernel, x: Float64[Tensor, "n d"], y: Float64[Tensor, "m d"], w: Weights, v: Float64[Tensor, "B m"]
) -> Tensor:
    """sum_ij w_bi v_bj k(x_i, y_j) for every row b of weights: f64[B]."""
    rows = max(1, PIECE // len(y))
    total = torch.zeros(len(w), dtype=torch.float64)
    for i in range(0, len(x), rows):
        total += (w[:, i : i + rows].T * (kernel(x[i : i + rows], y) @ v.T)).sum(0)
    return total


def own_sums(kernel: Kernel, x: Float64[Tensor, "n d"], w: Weights) -> tuple[Tensor, Tensor]:
    """sum_ij w_bi w_bj k(x_i, x_j) f64[B], and the same for i = j alone. Half of the symmetric matrix is made."""
    rows = max(1, PIECE // len(x))
    total, diagonal = torch.zeros(len(w), dtype=torch.float64), torch.zeros(len(w), dtype=torch.float64)
    for i in range(0, len(x), rows):
        piece = kernel(x[i : i + rows], x[i:])
        square, weights = piece[:, :rows], w[:, i : i + rows]
        total += (weights.T * (square @ weights.T)).sum(0)
        diagonal += weights.square() @ square.diagonal()
        total += 2 * (weights.T * (piece[:, rows:] @ w[:, i + rows :].T)).sum(0)
    return total, diagonal


def unbiased(
    kernel: Kernel, x: Float[Tensor, "n d"], y: Float[Tensor, "m d"], w: Weights, v: Float64[Tensor, "B m"]
) -> Tensor:
    """The U-statistic of the squared distance, pairs of a picture with itself left out: f64[B]."""
    x, y = x.double(), y.double()
    means = []
    for features, weights in ((x, w), (y, v)):
        total, diagonal = own_sums(kernel, features, weights)
        means.append((total - diagonal) / (weights.sum(1).square() - weights.square().sum(1)))
    return means[0] + means[1] - 2 * pair_sums(kernel, x, y, w, v) / (w.sum(1) * v.sum(1))


def biased(
    kernel: Kernel, x: Float[Tensor, "n d"], y: Float[Tensor, "m d"], w: Weights, v: Float64[Tensor, "B m"]
) -> Tensor:
    """The V-statistic of the squared distance, over all pairs: f64[B]."""
    x, y = x.double(), y.double()
    own = [own_sums(kernel, features, weights)[0] / weights.sum(1).square() for features, weights in ((x, w), (y, v))]
    return own[0] + own[1] - 2 * pair_sums(kernel, x, y, w, v) / (w.sum(1) * v.sum(1))


def kid(x: Float[Tensor, "n d"], y: Float[Tensor, "m d"]) -> float:
    """The squared kernel distance of all pictures at once (U-statistic); can be a little below 0.

    Raises:
        ValueError: fewer than two features of a kind, or different numbers of channels.
    """
    check_pair(x, y, least=2)
    return float(unbiased(polynomial_kernel, x, y, _all(x), _all(y)))


def cmmd(x: Float[Tensor, "n d"], y: Float[Tensor, "m d"]) -> float:
    """1000 times the squared distance under a Gaussian kernel with sigma 10, over all pairs (V-statistic).

    Jayasumana et al. 2024 (arXiv 2401.09603), whose published code keeps the pairs of a picture with itself.

    Args:
        x: CLIP embeddings of length 1.
        y: the same of the reference.

    Raises:
        ValueError: no features, or different numbers of channels.
    """
    check_pair(x, y, least=1)
    return max(0.0, CMMD_SCALE * float(biased(gaussian_kernel_less_one, x, y, _all(x), _all(y))))


def check_pair(x: Tensor, y: Tensor, *, least: int) -> None:
    """Refuse what cannot be compared.

    Raises:
        ValueError: says what was wanted and what came.
    """
    if x.ndim != 2 or y.ndim != 2 or x.shape[1] != y.shape[1]:
        raise ValueError(f"Features {tuple(x.shape)} and {tuple(y.shape)} are not from the same extractor.")
    if min(len(x), len(y)) < least:
        raise ValueError(f"At least {least} features of each kind are wanted, got {len(x)} and {len(y)}.")


def _all(features: Tensor) -> Weights:
    return torch.ones(1, len(features), dtype=torch.float64)
