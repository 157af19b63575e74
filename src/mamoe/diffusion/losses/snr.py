"""The weight of a loss over the noise levels."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from mamoe.diffusion.parameterization import Prediction
from mamoe.errors import ConfigError


@dataclass(frozen=True, slots=True)
class MinSnr:
    """Min-SNR-gamma weight of a squared error (Hang et al. 2023, section 3.4).

    The paper weighs the x0 error by min(SNR, gamma). Since |x0 error|² = |eps error|² / SNR = |v error|² / (SNR + 1),
    the same objective is min(SNR, gamma)/SNR for epsilon and min(SNR, gamma)/(SNR + 1) for v. In a flow
    x0's error is sigma times the output's, with sigma = 1 / (1 + sqrt(SNR)): min(SNR, gamma)/(1 + sqrt(SNR))². All are
    finite at SNR = 0, where x0, v and flow get weight 0.

    Raises:
        ConfigError: gamma is not above 0.
    """

    gamma: float

    def __post_init__(self) -> None:
        if self.gamma <= 0:
            raise ConfigError(f"snr_gamma must be positive or null, got {self.gamma}.")

    def __call__(self, snr: Float[Tensor, "B"], prediction: Prediction) -> Float[Tensor, "B"]:
        """The weights, where the error is one of ``prediction``."""
        if prediction is Prediction.EPSILON:
            return (self.gamma / snr).clamp(max=1.0)
        capped = torch.clamp(snr, max=self.gamma)
        if prediction is Prediction.FLOW:
            return capped / (1 + snr.sqrt()).square()
        return capped if prediction is Prediction.X0 else capped / (snr + 1)
