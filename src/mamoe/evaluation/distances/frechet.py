"""The Frechet distance of two Gaussians fitted to features, in three steps: features -> statistics -> number.

    d(1, 2) = |mu1 - mu2|^2 + tr S1 + tr S2 - 2 tr (S1 S2)^(1/2)        (Heusel et al. 2017, arXiv 1706.08500)

With roots R^T R = S the last trace is the nuclear norm of R1 R2^T. While there are no more pictures than channels, the
centred features themselves are a root: no covariance, no matrix root, and no loss of digits. All of it is float64.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from mamoe.randomness import generator_for

INFINITY_POINTS = 15  # fits of the line, as in Chong & Forsyth 2020
INFINITY_LEAST = 30  # pictures; below this the line says nothing


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Gaussian:
    """Mean and spread of n features of d channels."""

    n: int
    mean: Float64[Tensor, "d"]
    root: Float64[Tensor, "r d"]  # root^T root is the covariance with divisor n - 1
    centred: Float64[Tensor, "n d"]  # the features less their mean


def gaussian(features: Float[Tensor, "n d"]) -> Gaussian:
    """Fit a Gaussian.

    Raises:
        ValueError: fewer than two features, or features that are not finite.
    """
    if features.ndim != 2 or len(features) < 2:
        raise ValueError(f"A Frechet distance needs at least 2 features [n d], got {tuple(features.shape)}.")
    exact = features.double()
    if not exact.isfinite().all():
        raise ValueError("The features hold values that are not finite.")
    mean = exact.mean(dim=0)
    centred = exact - mean
    n, channels = features.shape
    root = centred / (n - 1) ** 0.5 if n <= channels else root_of(centred.T @ centred / (n - 1))
    return Gaussian(n=n, mean=mean, root=root, centred=centred)


def root_of(covariance: Float64[Tensor, "d d"]) -> Float64[Tensor, "r d"]:
    """Some R with R^T R = covariance; of full rank where Cholesky's way works, else by eigenvectors."""
    factor, failed = torch.linalg.cholesky_ex(covariance, upper=True)
    if not failed:
        return factor
    values, vectors = torch.linalg.eigh(covariance)
    kept = values > values[-1].clamp_min(0) * len(values) * torch.finfo(values.dtype).eps
    return values[kept].sqrt()[:, None] * vectors[:, kept].T


def frechet_distance(one: Gaussian, other: Gaussian) -> float:
    """The squared Frechet (Wasserstein-2) distance, at least 0.

    Raises:
        ValueError: the two have different numbers of channels: they come from different extractors.
    """
    if one.mean.shape != other.mean.shape:
        raise ValueError(
            f"Features of {len(one.mean)} and of {len(other.mean)} channels are not from the same extractor."
        )
    shift = (one.mean - other.mean).square().sum()
    spread = one.root.square().sum() + other.root.square().sum()
    return max(0.0, float(shift + spread - 2 * _nuclear_norm(one.root @ other.root.T)))


def influences(one: Gaussian, other: Gaussian) -> Float64[Tensor, "n"]:
    """How much every picture of ``one`` pulls the distance: n times the derivative by the picture's weight.

    With c = x - mu1 and T the optimal map between the Gaussians it is n / (n - 1) (c.c - c.Tc) + 2 c.(mu1 - mu2), less
    the mean of that over the pictures. Resampling these values is the bootstrap of
    the distance linearised at its value (infinitesimal jackknife, Efron 1982).
    """
    left, strengths, _ = torch.linalg.svd(one.root @ other.root.T, full_matrices=False)
    along = _coordinates(one) @ (left * strengths.sqrt())
    spread = (one.centred.square().sum(dim=1) - along.square().sum(dim=1)) * one.n / (one.n - 1)
    pull = spread + 2 * one.centred @ (one.mean - other.mean)
    return pull - pull.mean()


def frechet_infinity(
    features: Float[Tensor, "n d"], reference: Gaussian, *, seed: int, points: int = INFINITY_POINTS
) -> tuple[float, float]:
    """The distance for endlessly many pictures: a line through the distances of growing random parts, over 1/size.

    Chong & Forsyth 2020 (arXiv 1911.07023); parts from a tenth of the pictures (at least 10) to all of them.

    Args:
        features: of the measured pictures, in any order that is always the same.
        reference: what they are compared with, as large as it is.
        seed: of the parts.
        points: how many parts.

    Returns:
        The line's value at 1/size = 0 (it can be below 0) and its standard error.

    Raises:
        ValueError: fewer than ``INFINITY_LEAST`` pictures.
    """
    n = len(features)
    if n < INFINITY_LEAST:
        raise ValueError(f"The distance for endlessly many pictures needs {INFINITY_LEAST} pictures, got {n}.")
    sizes = torch.linspace(max(n // 10, 10), n, points).round().long().tolist()
    distances = []
    for i, size in enumerate(sizes):
        part = torch.randperm(n, generator=generator_for(seed, "frechet infinity", i))[:size]
        distances.append(frechet_distance(gaussian(features[part]), reference))
    return _at_zero([1 / size for size in sizes], distances)


def _nuclear_norm(product: Float64[Tensor, "r s"]) -> Tensor:
    if min(product.shape) < max(product.shape) or len(product) <= 512:
        return torch.linalg.svdvals(product).sum()
    # Three times as fast as the singular values, and as exact as long as they are not tiny.
    return torch.linalg.eigvalsh(product @ product.T).clamp_min(0).sqrt().sum()


def _coordinates(one: Gaussian) -> Float64[Tensor, "n r"]:
    """a with a_i R = x_i - mean, where R is the root."""
    if len(one.root) == one.n:
        return torch.eye(one.n, dtype=torch.float64) * (one.n - 1) ** 0.5
    return torch.linalg.lstsq(one.root.T, one.centred.T).solution.T


def _at_zero(x: Sequence[float], y: Sequence[float]) -> tuple[float, float]:
    xs, ys = torch.tensor(x, dtype=torch.float64), torch.tensor(y, dtype=torch.float64)
    spread = (xs - xs.mean()).square().sum()
    slope = ((xs - xs.mean()) * (ys - ys.mean())).sum() / spread
    start = ys.mean() - slope * xs.mean()
    noise = (ys - start - slope * xs).square().sum() / (len(xs) - 2)
    return float(start), float((noise * (1 / len(xs) + xs.mean().square() / spread)).sqrt())
