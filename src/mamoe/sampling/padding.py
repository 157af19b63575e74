"""Pictures of any size: drawn a little larger, on a whole number of latent cells, and cropped back."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from mamoe.sampling.requests import Request
from mamoe.vocabulary.panoptic import PanopticMap


class Padded(UserWarning):
    """Something was drawn at another size than asked for, and cropped back."""


def padded_size(size: tuple[int, int], factor: int) -> tuple[int, int]:
    """The smallest (H, W) that holds ``size`` and is divisible by ``factor``."""
    return -(-size[0] // factor) * factor, -(-size[1] // factor) * factor


def padding_said(size: tuple[int, int], drawn: tuple[int, int], factor: int) -> list[str]:
    """What to tell the user who asked for ``size``, all in (H, W); nothing where it is drawn as it is."""
    if size == drawn:
        return []
    return [
        f"Height and width {size} are not divisible by {factor}: drawn at {drawn}, continued at the right and lower "
        "edge, and cropped back."
    ]


def padded_request(request: Request, size: tuple[int, int]) -> Request:
    """The request with its map continued at the right and lower edge to ``size`` (H, W)."""
    if request.panoptic is None:
        return request
    segment, klass = (continued(ids, size) for ids in (request.panoptic.segment_id, request.panoptic.class_id))
    return replace(request, panoptic=PanopticMap(segment_id=segment, class_id=klass))


def continued(array: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """An array [H W ...] whose last row and column are repeated up to ``size``; as it is where it is that large."""
    missing = [(0, max(0, side - had)) for side, had in zip(size, array.shape[:2], strict=True)]
    if not any(after for _, after in missing):
        return array
    return np.pad(array, [*missing, *[(0, 0)] * (array.ndim - 2)], mode="edge")
