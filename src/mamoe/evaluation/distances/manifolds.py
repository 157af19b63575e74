"""Precision, recall, density and coverage: which pictures lie among the nearest neighbours of which others.

    precision   share of generated pictures inside some ball around a real one, its k-th neighbour on the edge
    recall      share of real pictures inside some ball around a generated one
                (Kynkaanniemi et al. 2019, arXiv 1904.06991; k = 3)
    density     how many real balls hold a generated picture, by k;  coverage   share of real balls that hold one
                (Naeem et al. 2020, arXiv 2002.09797; k = 5)

Distances are made for some rows at a time; no matrix of all pairs is held. float64 throughout.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from mamoe.evaluation.distances.kernels import PIECE, check_pair

PRECISION_K, DENSITY_K = 3, 5


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Membership:
    """What each picture adds to the four scores; a score is the mean of its values."""

    precision: Float64[Tensor, "generated"]  # 0 or 1
    recall: Float64[Tensor, "real"]  # 0 or 1
    density: Float64[Tensor, "generated"]  # 0 ... real pictures / k
    coverage: Float64[Tensor, "real"]  # 0 or 1


def membership(
    generated: Float[Tensor, "n d"],
    real: Float[Tensor, "m d"],
    *,
    precision_k: int = PRECISION_K,
    density_k: int = DENSITY_K,
) -> Membership:
    """Look up every picture among the balls of the others.

    As published, a picture on the edge of a ball counts as inside for precision and recall, and as outside for density
    and coverage.

    Raises:
        ValueError: not more pictures of each kind than the neighbours asked for, or different numbers of channels.
    """
    check_pair(generated, real, least=max(precision_k, density_k) + 1)
    generated, real = generated.double(), real.double()
    real_radii = neighbour_distances(real, (precision_k, density_k))
    generated_radii = neighbour_distances(generated, (precision_k,))
    precision, density, recall, coverage = [], [], [], []
    for squared in squared_distances(generated, real):
        precision.append((squared <= real_radii[0]).any(1))
        density.append((squared < real_radii[1]).sum(1).double() / density_k)
    for start, squared in _with_starts(squared_distances(real, generated)):
        recall.append((squared <= generated_radii[0]).any(1))
        coverage.append(squared.amin(1) < real_radii[1, start : start + len(squared)])
    return Membership(
        precision=torch.cat(precision).double(),
        recall=torch.cat(recall).double(),
        density=torch.cat(density).double(),
        coverage=torch.cat(coverage).double(),
    )


def neighbour_distances(features: Float64[Tensor, "n d"], ks: tuple[int, ...]) -> Float64[Tensor, "k n"]:
    """Squared distance of every picture to its k-th nearest neighbour, itself not counted."""
    nearest = [
        torch.topk(squared, max(ks) + 1, largest=False).values for squared in squared_distances(features, features)
    ]
    return torch.cat(nearest)[:, list(ks)].T


def squared_distances(x: Float64[Tensor, "n d"], y: Float64[Tensor, "m d"]) -> Iterator[Float64[Tensor, "a m"]]:
    """|x_i - y_j|^2 for some rows i after another, at least 0."""
    rows = max(1, PIECE // len(y))
    own = y.square().sum(1)
    for part in x.split(rows):
        squared = (part @ y.T).mul_(-2).add_(own)
        yield squared.add_(part.square().sum(1)[:, None]).clamp_min_(0)


def _with_starts(pieces: Iterator[Tensor]) -> Iterator[tuple[int, Tensor]]:
    start = 0
    for piece in pieces:
        yield start, piece
        start += len(piece)
