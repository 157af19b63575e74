"""Mean squared error in which some classes count more than others, so that rare ones are learned too.

A cell's weight is the mean, over its pixels, of the weights of their classes. It depends on the map alone: pictures
whose prompt and layout are dropped are weighed like all others, because what is to be drawn there is the same.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Float64
from torch import Tensor

from mamoe.diffusion.losses.denoised import Denoised


def masked_mse(batch: Denoised) -> Float[Tensor, "B"]:
    """Squared error times the weight of its cell, averaged over all cells and channels.

    Raises:
        ValueError: the batch has no cell weights.
    """
    if batch.cell_weight is None:
        raise ValueError("masked_mse needs cell weights, and the batch has none: give the collator class weights.")
    error = (batch.output.float() - batch.target.float()).square()
    return batch.weighed((error * batch.cell_weight[:, None]).flatten(1).mean(1), batch.prediction)


def inverse_frequency_weights(
    shares: Float64[np.ndarray, "classes"], *, power: float, cap: float
) -> Float64[np.ndarray, "classes"]:
    """A weight per class: (1 / share) ** power, the largest at most ``cap`` times the smallest, mean 1 over all cells.

    Args:
        shares: of each class in the latent cells of the training pictures, sum 1; a class with share 0 is weighed
            like the rarest there is.
        power: 1 makes every class count the same in all, 0 every cell; in between is a compromise.
        cap: how many times more a cell of the rarest class may count than one of the commonest, at least 1.

    Raises:
        ValueError: shares that do not sum to 1, a power outside [0, 1] or a cap below 1.
    """
    if not np.isclose(shares.sum(), 1.0) or shares.min() < 0:
        raise ValueError(f"Class shares must be 0 or more and sum to 1; they sum to {shares.sum():.6g}.")
    if not 0.0 <= power <= 1.0 or cap < 1.0:
        raise ValueError(f"power must lie in [0, 1] and cap be 1 or more; got {power} and {cap}.")
    present = shares > 0
    weights = np.full(shares.shape, np.inf)
    weights[present] = shares[present] ** -power
    weights = np.minimum(weights, cap * weights.min())
    weights[~present] = weights[present].max()
    return weights / (shares @ weights)
