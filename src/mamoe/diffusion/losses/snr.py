"""The weight of a loss over the noise levels."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from mamoe.diffusion.parameterization import Prediction


def min_snr_weight(snr: Float[Tensor, "B"], gamma: float, prediction: Prediction) -> Float[Tensor, "B"]:
    """Min-SNR-gamma weight of a squared error of ``prediction`` (Hang et al. 2023, section 3.4).

    The paper weighs the x0 error by min(SNR, gamma). Since |x0 error|² = |eps error|² / SNR = |v error|² / (SNR + 1),
    the same objective is min(SNR, gamma)/SNR for epsilon and min(SNR, gamma)/(SNR + 1) for v. All are finite at
    SNR = 0, where x0 and v get weight 0.
    """
    if prediction is Prediction.EPSILON:
        return (gamma / snr).clamp(max=1.0)
    capped = torch.clamp(snr, max=gamma)
    return capped if prediction is Prediction.X0 else capped / (snr + 1)
