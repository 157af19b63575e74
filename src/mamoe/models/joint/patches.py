"""Latents as rows of 2x2 cells, as transformers read them that leave it to their pipelines to cut patches.

Shapes: B images · c latent channels · h, w latent cells · N = h/2 * w/2 patches.
"""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

PATCH = 2  # cells a side
NOISIEST = 1000.0  # what everybody else calls the timestep of pure noise; it is 1 for such transformers


def packed(latents: Float[Tensor, "B c h w"]) -> Float[Tensor, "B N c4"]:
    """Patches in reading order; of each the four cells of a channel side by side.

    Raises:
        ValueError: the latents are no whole number of patches.
    """
    height, width = latents.shape[2:]
    if height % PATCH or width % PATCH:
        raise ValueError(f"Latents must be whole patches of {PATCH}x{PATCH} cells, got {height}x{width} cells.")
    patches = latents.unflatten(3, (-1, PATCH)).unflatten(2, (-1, PATCH))  # B c h/2 2 w/2 2
    return patches.permute(0, 2, 4, 1, 3, 5).flatten(3).flatten(1, 2)


def unpacked(rows: Float[Tensor, "B N c4"], size: tuple[int, int]) -> Float[Tensor, "B c h w"]:
    """The inverse of :func:`packed` for latents of ``size`` (h, w)."""
    patches = rows.unflatten(2, (-1, PATCH, PATCH)).unflatten(1, (size[0] // PATCH, -1))
    return patches.permute(0, 3, 1, 4, 2, 5).flatten(4).flatten(2, 3)
