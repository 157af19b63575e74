"""Mean squared error of the network's own output."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from mamoe.diffusion.losses.denoised import Denoised


def mse(batch: Denoised) -> Float[Tensor, "B"]:
    """Mean squared error in the network's own parameterization (Ho et al. 2020, eq. 14)."""
    return batch.weighed(mse_per_image(batch.output, batch.target), batch.prediction)


def mse_per_image(output: Float[Tensor, "B C h w"], target: Float[Tensor, "B C h w"]) -> Float[Tensor, "B"]:
    """Mean squared error of every picture, in float32 whatever the inputs are."""
    return (output.float() - target.float()).square().flatten(1).mean(1)
