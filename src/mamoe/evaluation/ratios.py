"""Scores that are a function of sums over pictures, such as an IoU, and how sure they are."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from jaxtyping import Float64, Num

from mamoe.evaluation.distances.family import Measured
from mamoe.evaluation.intervals import REPLICATES, Layouts, bootstrap_counts, is_single, over
from mamoe.evaluation.protocol import CONFIDENCE, Interval


def measured_of_sums(
    per_picture: Num[np.ndarray, "n *d"],
    score: Callable[[Float64[np.ndarray, "*B *d"]], Float64[np.ndarray, "*B"]],
    *,
    absent: str,
    seed: int = 0,
    layouts: Layouts = None,
) -> Measured:
    """``score`` of the sum over pictures, with the percentile bootstrap interval over pictures.

    Args:
        per_picture: what each picture adds.
        score: sums, one or a batch of them -> values; nan where it is not defined.
        absent: the reason to give where it is not defined for the pictures as a whole.
        seed: of the bootstrap.
        layouts: of the pictures.
    """
    n = len(per_picture)
    flat = np.asarray(per_picture, dtype=np.float64).reshape(n, -1)
    value = float(score(flat.sum(axis=0).reshape(per_picture.shape[1:])))
    if np.isnan(value):
        return Measured(value=None, missing=absent)
    if is_single(n, layouts):
        return Measured(value=value)
    counts = bootstrap_counts(n, seed=seed, replicates=REPLICATES, layouts=layouts)
    sums = (counts @ torch.from_numpy(flat)).numpy().reshape(REPLICATES, *per_picture.shape[1:])
    values = score(sums)
    values = values[np.isfinite(values)]  # a rare class is in no picture of some replicates
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(values, [tail, 1 - tail])
    return Measured(value=value, interval=Interval(low=float(low), high=float(high), over=over(layouts)))


def ratio(sums: Float64[np.ndarray, "*B 2"]) -> Float64[np.ndarray, "*B"]:
    """First over second; nan where the second is 0."""
    over, under = sums[..., 0], sums[..., 1]
    return np.divide(over, under, out=np.full(np.shape(over), np.nan), where=under > 0)
