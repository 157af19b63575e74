"""How sure a number is: 95 % intervals from resampling pictures, or from several seeds; fixed by their own seed."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

import torch
from jaxtyping import Float64
from torch import Tensor

from mamoe.evaluation.protocol import CONFIDENCE, Interval, Over
from mamoe.randomness import generator_for

REPLICATES = 1000
KERNEL_REPLICATES = 200  # each is a pass over all pairs; their spread is all that is asked for
_Z = statistics.NormalDist().inv_cdf(0.5 + CONFIDENCE / 2)


# Pictures of one layout resemble each other, so that many of them say less than as many of different layouts would.
# They are drawn together, or not.
Layouts = Sequence[int] | None  # the layout of each picture, numbered from 0; None: each has its own


def is_single(n: int, layouts: Layouts) -> bool:
    """Whether n pictures are of one layout, so that nothing says how another would come out."""
    return n < 2 or (layouts is not None and max(layouts) == 0)


def over(layouts: Layouts) -> Over:
    """What the draws of :func:`bootstrap_counts` are of."""
    return Over.IMAGES if layouts is None else Over.LAYOUTS


def bootstrap_counts(
    n: int, *, seed: int, replicates: int, purpose: str = "bootstrap", layouts: Layouts = None
) -> Float64[Tensor, "B n"]:
    """How often each of n pictures is there in each replicate: as many layouts as there are, drawn with replacement."""
    of = torch.arange(n) if layouts is None else torch.tensor(layouts)
    number = int(of.max()) + 1
    drawn = torch.randint(number, (replicates, number), generator=generator_for(seed, purpose))
    counts = torch.zeros(replicates, number, dtype=torch.float64)
    return counts.scatter_add_(1, drawn, torch.ones_like(drawn, dtype=torch.float64))[:, of]


def interval_of_mean(values: Float64[Tensor, "n"], *, seed: int = 0, layouts: Layouts = None) -> Interval | None:
    """The percentile bootstrap interval of a mean over pictures; None for a single picture or layout.

    Args:
        values: what each picture adds, finite.
        seed: of the draws.
        layouts: of the pictures.
    """
    if is_single(len(values), layouts):
        return None
    counts = bootstrap_counts(len(values), seed=seed, replicates=REPLICATES, layouts=layouts)
    means = counts @ values.double() / counts.sum(1)
    tail = (1 - CONFIDENCE) / 2
    low, high = torch.quantile(means, torch.tensor([tail, 1 - tail], dtype=torch.float64)).tolist()
    return Interval(low=low, high=high, over=over(layouts))


def interval_around(value: float, deviation: float, least: float = -math.inf, *, layouts: Layouts = None) -> Interval:
    """value -/+ 1.96 standard deviations of its bootstrap replicates.

    For distances between distributions: their replicates hold pictures twice and lie too far away as a whole, so their
    percentiles would miss the value; their spread is right. ``least`` is what the score cannot go below.
    """
    return Interval(low=max(least, value - _Z * deviation), high=value + _Z * deviation, over=over(layouts))


def deviation_of_linear(values: Float64[Tensor, "n"], layouts: Layouts = None) -> float:
    """The standard deviation that bootstrap replicates of a mean of ``values`` have, without drawing them."""
    off = values.double() - values.double().mean()
    of = torch.arange(len(values)) if layouts is None else torch.tensor(layouts)
    together = torch.zeros(int(of.max()) + 1, dtype=torch.float64).index_add_(0, of, off)
    return float(together.square().sum().sqrt()) / len(values)


def interval_over_seeds(values: Sequence[float]) -> Interval | None:
    """The mean of several seeds -/+ Student's t times its standard error; None for fewer than two seeds."""
    if len(values) < 2:
        return None
    half = student_t(len(values) - 1) * statistics.stdev(values) / math.sqrt(len(values))
    mean = statistics.fmean(values)
    return Interval(low=mean - half, high=mean + half, over=Over.SEEDS)


def student_t(freedom: int, confidence: float = CONFIDENCE) -> float:
    """The t with P(|T| < t) = confidence, for whole degrees of freedom (Abramowitz & Stegun 26.7.3 and 26.7.4)."""
    low, high = 0.0, 1e4
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if _within(middle, freedom) < confidence else (low, middle)
    return (low + high) / 2


def _within(t: float, freedom: int) -> float:
    """P(|T| < t)."""
    angle = math.atan(t / math.sqrt(freedom))
    cosine, odd = math.cos(angle), freedom % 2
    term, total = cosine if odd else 1.0, 0.0
    for k in range(freedom // 2):
        total += term
        term *= cosine**2 * ((2 * k + 2) / (2 * k + 3) if odd else (2 * k + 1) / (2 * k + 2))
    return 2 / math.pi * (angle + math.sin(angle) * total) if odd else math.sin(angle) * total
