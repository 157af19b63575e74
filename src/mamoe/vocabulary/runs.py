"""Maps as runs: neighbours of one number, of which a map has a hundredth of its pixels."""

from __future__ import annotations

import numpy as np
from jaxtyping import Int64, Integer


def run_starts(values: Integer[np.ndarray, "*shape"]) -> Int64[np.ndarray, "n"]:
    """Where each run begins in the flat map; one may go on in the next row."""
    flat = values.ravel()
    return np.concatenate([np.zeros(1, dtype=np.int64), np.flatnonzero(flat[1:] != flat[:-1]) + 1])


def numbers_in(values: Integer[np.ndarray, "*shape"]) -> list[int]:
    """The different numbers of a map, ascending."""
    return np.unique(values.ravel()[run_starts(values)]).tolist()
