"""Mean squared error of the network's own output, and its weight over the noise levels."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from mamoe.diffusion.losses.denoised import Denoised
from mamoe.diffusion.parameterization import Prediction


def mse(batch: Denoised) -> Float[Tensor, "B"]:
    """Mean squared error in the network's own parameterization (Ho et al. 2020, eq. 14)."""
    return mse_per_image(batch.output, batch.target)


def mse_per_image(output: Float[Tensor, "B C h w"], target: Float[Tensor, "B C h w"]) -> Float[Tensor, "B"]:
    """Mean squared error of every picture, in float32 whatever the inputs are."""
    return (output.float() - target.float()).square().flatten(1).mean(1)


def min_snr_weight(snr: Float[Tensor, "B"], gamma: float, prediction: Prediction) -> Float[Tensor, "B"]:
    """Min-SNR-gamma weight of the mse in the network's own parameterization (Hang et al. 2023, section 3.4).

    The paper weighs the x0 error by min(SNR, gamma). Since |x0 error|² = |eps error|² / SNR = |v error|² / (SNR + 1),
    the same objective is min(SNR, gamma)/SNR for epsilon and min(SNR, gamma)/(SNR + 1) for v. All are finite at
    SNR = 0, where x0 and v get weight 0.
    """
    if prediction is Prediction.EPSILON:
        return (gamma / snr).clamp(max=1.0)
    capped = torch.clamp(snr, max=gamma)
    return capped if prediction is Prediction.X0 else capped / (snr + 1)
