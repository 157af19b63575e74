"""Latents as rows of patches, as Z-Image reads them.

Shapes: B images · c latent channels · h, w latent cells · p cells a side of a patch · N patches.
"""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor


def patches_of(latents: Float[Tensor, "B c h w"], patch: int) -> Float[Tensor, "B N ppc"]:
    """Patches in reading order; of each the channels of a cell side by side, cell by cell."""
    apart = latents.unflatten(3, (-1, patch)).unflatten(2, (-1, patch))  # B c h/p p w/p p
    return apart.permute(0, 2, 4, 3, 5, 1).flatten(3).flatten(1, 2)


def put_together(rows: Float[Tensor, "B N ppc"], size: tuple[int, int], patch: int) -> Float[Tensor, "B c h w"]:
    """The inverse of :func:`patches_of` for latents of ``size`` (h, w)."""
    apart = rows.unflatten(2, (patch, patch, -1)).unflatten(1, (size[0] // patch, -1))  # B h/p w/p p p c
    return apart.permute(0, 5, 1, 3, 2, 4).flatten(4).flatten(2, 3)
