"""What a diffusion network predicts, and how the predictions turn into one another.

With ``alpha = sqrt(alphas_cumprod[t])`` and ``sigma = sqrt(1 - alphas_cumprod[t])``, so that alpha² + sigma² = 1:

    x_t = alpha x0 + sigma eps            Ho et al. 2020, eq. 4
    v   = alpha eps - sigma x0            Salimans & Ho 2022, section 4 and appendix D

(x_t, v) is (x0, eps) turned by an angle, hence the inverse  x0 = alpha x_t - sigma v,  eps = sigma x_t + alpha v.

A flow goes straight from the picture to the noise instead, alpha + sigma = 1, and its network predicts the constant
velocity along that line (Liu et al. 2022, section 2.1; Esser et al. 2024, section 2):

    u   = eps - x0,    hence    x0 = x_t - sigma u,  eps = x_t + alpha u

The noise level of Karras et al. 2022 is sigma / alpha, and SNR = alpha² / sigma², for both.
``alpha`` and ``sigma`` broadcast against the pictures: ``[B 1 1 1]``, as :mod:`mamoe.diffusion.levels` makes them.
"""

from __future__ import annotations

from enum import StrEnum

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from mamoe.machine.transfers import sent


class Prediction(StrEnum):
    """What the network's output means."""

    EPSILON = "epsilon"  # the noise
    V = "v"  # the velocity
    X0 = "x0"  # the clean picture
    FLOW = "flow"  # noise minus picture, on the straight line between them

    @property
    def diffusers_name(self) -> str:
        """The scheduler's ``prediction_type``."""
        return _DIFFUSERS_NAMES[self]

    @classmethod
    def parse(cls, name: str) -> Prediction:
        """A member from our name (``v``) or diffusers' (``v_prediction``).

        Raises:
            ValueError: neither knows the name.
        """
        for member in cls:
            if name in (member.value, member.diffusers_name):
                return member
        known = ", ".join(f"{m.value} ({m.diffusers_name})" for m in cls)
        raise ValueError(f"The prediction must be one of {known}; got {name!r}.")


_DIFFUSERS_NAMES = {
    Prediction.EPSILON: "epsilon",
    Prediction.V: "v_prediction",
    Prediction.X0: "sample",
    Prediction.FLOW: "flow_prediction",
}


def alpha_sigma(
    alphas_cumprod: Float[Tensor, "T"], timesteps: Int64[Tensor, "B"]
) -> tuple[Float[Tensor, "B 1 1 1"], Float[Tensor, "B 1 1 1"]]:
    """The share of picture and of noise in x_t, each in [0, 1]."""
    if alphas_cumprod.device != timesteps.device:
        alphas_cumprod = sent(alphas_cumprod, timesteps.device)
    kept = alphas_cumprod[timesteps].view(-1, 1, 1, 1)
    return kept.sqrt(), (1 - kept).sqrt()


def noised(x0: Tensor, eps: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
    """x_t of the forward process."""
    return alpha * x0 + sigma * eps


def velocity(x0: Tensor, eps: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
    """v, the derivative of x_t along the angle."""
    return alpha * eps - sigma * x0


def target_of(prediction: Prediction, x0: Tensor, eps: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
    """What the network should have said."""
    if prediction is Prediction.EPSILON:
        return eps
    if prediction is Prediction.X0:
        return x0
    if prediction is Prediction.FLOW:
        return eps - x0
    return velocity(x0, eps, alpha, sigma)


def to_x0(prediction: Prediction, output: Tensor, x_t: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
    """The clean picture a network output stands for. From epsilon it needs alpha > 0."""
    if prediction is Prediction.EPSILON:
        return (x_t - sigma * output) / alpha
    if prediction is Prediction.X0:
        return output
    if prediction is Prediction.FLOW:
        return x_t - sigma * output
    return alpha * x_t - sigma * output


def to_eps(prediction: Prediction, output: Tensor, x_t: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
    """The noise a network output stands for. From a picture it needs sigma > 0."""
    if prediction is Prediction.EPSILON:
        return output
    if prediction is Prediction.X0:
        return (x_t - alpha * output) / sigma
    if prediction is Prediction.FLOW:
        return x_t + alpha * output
    return sigma * x_t + alpha * output


def snr(alphas_cumprod: Float[Tensor, "T"], timesteps: Int64[Tensor, "B"]) -> Float[Tensor, "B"]:
    """Signal-to-noise ratio alpha² / sigma², in [0, inf); 0 at the last step of a zero-terminal-SNR schedule."""
    kept = alphas_cumprod.to(timesteps.device)[timesteps]
    return torch.div(kept, 1 - kept)
