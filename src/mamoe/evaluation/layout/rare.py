"""Which classes are rare: those a network sees few pixels of."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float64, Int64

RARE = 0.01  # share of the labelled pixels below which a class is rare


def rare_classes(pixels: Int64[np.ndarray, "K"] | Float64[np.ndarray, "K"]) -> tuple[int, ...]:
    """Numbers of the classes that have some pixels, but less than one in a hundred.

    Args:
        pixels: of every class in a data set, void left out.
    """
    return tuple(int(i) for i in np.flatnonzero((pixels > 0) & (pixels < RARE * pixels.sum())))
