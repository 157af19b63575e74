"""Pictures that came out as no numbers: a large guidance, or a format that overflows, makes NaN of colours."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from jaxtyping import Float
from torch import Tensor

from mamoe.data.folder.listing import some
from mamoe.errors import ConfigError

_BLACK = -1.0


class NotFinite(UserWarning):
    """Part of a drawn picture is NaN or infinite."""


def finite(images: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B 3 H W"]:
    """The pictures, black where they are no numbers; a :class:`NotFinite` warning says of how many.

    Libraries turn NaN into whatever bytes the processor makes of it, and say nothing that a user would understand.
    """
    sound = torch.isfinite(images)
    if not (whole := sound.flatten(1).all(1)).all():
        warnings.warn(
            f"{int((~whole).sum())} of {len(images)} pictures hold NaN or infinity in place of colours and are black "
            "there. Lower the guidance, or draw in float32 or bfloat16; if neither helps, the weights are not sound.",
            NotFinite,
            stacklevel=4,
        )
        images = torch.where(sound, images, _BLACK)
    return images


@contextmanager
def required_finite(names: Sequence[str]) -> Iterator[None]:
    """Refuse pictures that are not finite: nothing of them is written.

    Raises:
        ConfigError: names what was drawn.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("error", NotFinite)
        try:
            yield
        except NotFinite as error:
            raise ConfigError(f"Drawing {some(names)}: {error}") from None
