"""How far the pictures of one row are from the reference pictures as a whole: the scores computed from features."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from mamoe.evaluation.distances.frechet import (
    INFINITY_LEAST,
    INFINITY_POINTS,
    frechet_distance,
    frechet_infinity,
    gaussian,
    influences,
)
from mamoe.evaluation.distances.kernels import (
    CMMD_SCALE,
    CMMD_SIGMA,
    Kernel,
    Weights,
    biased,
    gaussian_kernel_less_one,
    polynomial_kernel,
    unbiased,
)
from mamoe.evaluation.distances.manifolds import DENSITY_K, PRECISION_K, membership
from mamoe.evaluation.features.extractors import ExtractorName
from mamoe.evaluation.features.store import Features
from mamoe.evaluation.intervals import (
    KERNEL_REPLICATES,
    Layouts,
    bootstrap_counts,
    deviation_of_linear,
    interval_around,
    interval_of_mean,
    is_single,
)
from mamoe.evaluation.protocol import Better, Interval, Protocol, Score


class Kind(StrEnum):
    """Scores that any extractor's features give."""

    FID = "fid"  # Frechet distance
    FID_INFINITY = "fid-infinity"  # the same for endlessly many pictures
    KID = "kid"  # polynomial kernel, U-statistic
    CMMD = "cmmd"  # Gaussian kernel on features of length 1, V-statistic
    PRECISION = "precision"
    RECALL = "recall"
    DENSITY = "density"
    COVERAGE = "coverage"


_HIGHER = (Kind.PRECISION, Kind.RECALL, Kind.DENSITY, Kind.COVERAGE)
_OF_PICTURES = (Kind.PRECISION, Kind.DENSITY)  # means over the pictures, and not over the reference
_LEAST = {
    Kind.FID: 2,
    Kind.FID_INFINITY: INFINITY_LEAST,
    Kind.KID: 2,
    Kind.CMMD: 2,
    **dict.fromkeys(_HIGHER, max(PRECISION_K, DENSITY_K) + 1),  # neighbours, and the picture itself
}
_METHODS = {
    Kind.FID: "Frechet distance",
    Kind.FID_INFINITY: f"Frechet distance, line through {INFINITY_POINTS} parts of the pictures over 1/size",
    Kind.KID: "kernel distance, (x.y/d + 1)^3, U-statistic of all pictures",
    Kind.CMMD: f"kernel distance, Gaussian sigma {CMMD_SIGMA:g}, unit features, V-statistic, x{CMMD_SCALE:g}",
    Kind.PRECISION: f"precision, k = {PRECISION_K}",
    Kind.RECALL: f"recall, k = {PRECISION_K}",
    Kind.DENSITY: f"density, k = {DENSITY_K}",
    Kind.COVERAGE: f"coverage, k = {DENSITY_K}",
}
_PUBLISHED = {  # what may bear the name of a published score
    (Kind.FID, ExtractorName.INCEPTION): "FID",
    (Kind.FID, ExtractorName.INCEPTION_CLEAN): "FID-clean",
    (Kind.FID_INFINITY, ExtractorName.INCEPTION): "FID-infinity",
    (Kind.FID_INFINITY, ExtractorName.INCEPTION_CLEAN): "FID-infinity-clean",
    (Kind.KID, ExtractorName.INCEPTION): "KID",
    (Kind.KID, ExtractorName.INCEPTION_CLEAN): "KID-clean",
    (Kind.CMMD, ExtractorName.CLIP): "CMMD",
}
_GENERAL = {Kind.FID: "FD", Kind.FID_INFINITY: "FD-infinity", Kind.KID: "KD", Kind.CMMD: "MMD"}
_TITLES = {ExtractorName.CLIP: "CLIP", ExtractorName.DINOV2: "DINOv2"}


def score_name(kind: Kind, extractor: ExtractorName) -> str:
    """What a score is called: FID, KID and CMMD with their own networks alone, e.g. FD-alexnet with another."""
    if (kind, extractor) in _PUBLISHED:
        return _PUBLISHED[kind, extractor]
    return f"{_GENERAL.get(kind, kind.value)}-{_TITLES.get(extractor, extractor.value)}"


def method(kind: Kind) -> str:
    """What is computed, for the protocol's name."""
    return _METHODS[kind]


def better(kind: Kind) -> Better:
    """Which way a score improves."""
    return Better.HIGHER if kind in _HIGHER else Better.LOWER


@dataclass(frozen=True, kw_only=True, slots=True)
class Measured:
    """A value with its interval, or the reason why there is none."""

    value: float | None
    missing: str | None = None
    interval: Interval | None = None

    def as_score(self, name: str, better: Better, n: int, protocol: Protocol) -> Score:
        """With a name and a protocol."""
        return Score(
            name=name,
            value=self.value,
            missing=self.missing,
            interval=self.interval,
            n=n,
            better=better,
            protocol=protocol,
        )


def measure(
    kinds: Sequence[Kind], pictures: Features, reference: Features, *, seed: int = 0, layouts: Layouts = None
) -> dict[Kind, Measured]:
    """All asked-for scores of some pictures against a reference, with bootstrap intervals over the pictures of both.

    Args:
        kinds: which.
        pictures: features of the row's pictures.
        reference: features of the reference, by the same extractor.
        seed: of the replicates.
        layouts: of the row's pictures.

    Raises:
        ValueError: the features come from different extractors.
    """
    pictures.fits(reference)
    x, y = pictures.values, reference.values
    found: dict[Kind, Measured] = {}
    for kind in kinds:
        least = min(len(x), len(y))
        if least < _LEAST[kind]:
            why = f"wants {_LEAST[kind]} pictures of each kind, got {len(x)} and {len(y)} of the reference"
            found[kind] = Measured(value=None, missing=why)
    ready = [kind for kind in kinds if kind not in found]
    if frechet := {Kind.FID, Kind.FID_INFINITY} & set(ready):
        found |= _frechet(x, y, Kind.FID_INFINITY in frechet, seed, layouts)
    if Kind.KID in ready:
        found[Kind.KID] = _kernel(unbiased, polynomial_kernel, x, y, seed, 1.0, layouts, least=-math.inf)
    if Kind.CMMD in ready:
        a, b = (F.normalize(features.double(), dim=1) for features in (x, y))
        found[Kind.CMMD] = _kernel(biased, gaussian_kernel_less_one, a, b, seed, CMMD_SCALE, layouts, least=0.0)
    if members := [kind for kind in ready if kind in _HIGHER]:
        inside = membership(x, y)
        for kind in members:
            values = getattr(inside, kind.value)
            of = layouts if kind in _OF_PICTURES else None
            interval = interval_of_mean(values, seed=seed, layouts=of)
            found[kind] = Measured(value=float(values.mean()), interval=interval)
    return {kind: found[kind] for kind in kinds}


def _frechet(
    x: Float[Tensor, "n d"], y: Float[Tensor, "m d"], with_infinity: bool, seed: int, layouts: Layouts
) -> dict[Kind, Measured]:
    one, other = gaussian(x), gaussian(y)
    value = frechet_distance(one, other)
    single = is_single(len(x), layouts)
    deviation = math.hypot(
        deviation_of_linear(influences(one, other), layouts), deviation_of_linear(influences(other, one))
    )
    around = None if single else interval_around(value, deviation, least=0.0, layouts=layouts)
    found = {Kind.FID: Measured(value=value, interval=around)}
    if with_infinity:
        end, error = frechet_infinity(x, other, seed=seed)
        around = None if single else interval_around(end, math.hypot(deviation, error), layouts=layouts)
        found[Kind.FID_INFINITY] = Measured(value=end, interval=around)
    return found


def _kernel(
    statistic: Callable[[Kernel, Tensor, Tensor, Weights, Weights], Tensor],
    kernel: Kernel,
    x: Float[Tensor, "n d"],
    y: Float[Tensor, "m d"],
    seed: int,
    scale: float,
    layouts: Layouts,
    *,
    least: float,
) -> Measured:
    weights = [
        torch.cat(
            [
                torch.ones(1, len(features), dtype=torch.float64),
                bootstrap_counts(
                    len(features), seed=seed, replicates=KERNEL_REPLICATES, purpose=f"bootstrap {side}", layouts=of
                ),
            ]
        )
        for side, features, of in (("pictures", x, layouts), ("reference", y, None))
    ]
    values = scale * statistic(kernel, x, y, *weights)
    replicates = values[1:][values[1:].isfinite()]  # two pictures drawn as one picture twice have no pairs
    value = max(least, float(values[0]))
    if is_single(len(x), layouts):
        return Measured(value=value)
    return Measured(value=value, interval=interval_around(value, float(replicates.std()), least, layouts=layouts))
