"""Sizes for pictures of mixed aspect: few, all of about one area, each close to the aspects it stands for."""

from __future__ import annotations

import math

STRETCH = 1.05  # a picture's aspect is at most this factor from its bucket's, before sizes are rounded


def bucket_size(picture: tuple[int, int], size: tuple[int, int], multiple: int) -> tuple[int, int]:
    """The (H, W) to which a picture of that (height, width) is squeezed: about as large as ``size``.

    Aspects are counted in steps of ``STRETCH**2`` from that of ``size``, which is a bucket itself; a bucket is one
    step, so that it does not depend on the other pictures. The short side is rounded to ``multiple`` first and the
    long one follows from it: the picture's aspect changes by a factor of at most
    ``STRETCH * (1 + multiple / (2 * long side - multiple))``, 5.9 % at 512x512, and the area is off by at most about
    ``1.5 * multiple / short side``.

    Raises:
        ValueError: a size that is not positive.
    """
    if min(*picture, *size, multiple) < 1:
        raise ValueError(f"Sizes must be positive, got a picture {picture} for {size} in multiples of {multiple}.")
    step = 2 * math.log(STRETCH)
    given, wanted = math.log(picture[1] / picture[0]), math.log(size[1] / size[0])
    aspect = math.exp(wanted + step * round((given - wanted) / step))
    longer = max(aspect, 1 / aspect)
    short = _rounded(math.sqrt(size[0] * size[1] / longer), multiple)
    long = _rounded(short * longer, multiple)
    return (short, long) if aspect >= 1 else (long, short)


def _rounded(side: float, multiple: int) -> int:
    return max(1, round(side / multiple)) * multiple
