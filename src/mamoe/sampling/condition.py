"""Condition pictures of a call of the pipeline: those given, or drawn from the maps."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor

from mamoe.data.condition import drawn_condition, drawn_kind
from mamoe.errors import MamoeError
from mamoe.models.control.call import Control
from mamoe.sampling.requests import Request
from mamoe.vocabulary.taxonomy import Taxonomy


def condition_pictures(
    requests: Sequence[Request],
    size: tuple[int, int],
    form: Control | None,
    condition: str | None,
    taxonomy: Taxonomy | None,
) -> UInt8[Tensor, "B 3 H W"] | None:
    """The condition picture of every request; None for a model that takes none.

    Args:
        requests: of one call.
        size: (H, W) of the pictures to draw.
        form: how the UNet takes condition pictures; None = not at all.
        condition: what they were in training: ``classes``, ``edges``, or anything else for pictures from files.
        taxonomy: the colours of the classes.

    Raises:
        MamoeError: a picture is missing, of another size, or given to a model that takes none. All problems in one.
    """
    kind = drawn_kind(condition)
    problems, pictures = [], []
    for number, request in enumerate(requests):
        picture = request.condition
        if form is None and picture is not None:
            problems.append(f"picture {number}: this model takes no condition picture")
        if form is None:
            continue
        if picture is None and kind is not None and taxonomy is not None and request.panoptic is not None:
            picture = drawn_condition(request.panoptic, taxonomy, kind)
        if picture is None:
            missing = "a panoptic map to draw its condition picture from" if kind else "a condition picture"
            problems.append(f"picture {number}: this model needs {missing}")
        elif picture.shape != (*size, 3) or picture.dtype != np.uint8:
            problems.append(
                f"picture {number}: the condition picture must be uint8 {(*size, 3)} (H, W, RGB), got {picture.dtype} "
                f"{picture.shape}"
            )
        else:
            pictures.append(torch.from_numpy(np.ascontiguousarray(picture)).permute(2, 0, 1))
    if problems:
        raise MamoeError("The pipeline cannot draw this:\n" + "\n".join(f"- {problem}" for problem in problems))
    return torch.stack(pictures) if pictures else None
