"""A batch after the network has spoken: everything a loss may look at."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from jaxtyping import Float, Int64
from torch import Tensor

from mamoe.diffusion.parameterization import Prediction, noised, target_of, to_x0


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Denoised:
    """The network's answer to noisy latents, and what went into them."""

    prediction: Prediction  # what ``output`` means
    output: Float[Tensor, "B C h w"]
    clean: Float[Tensor, "B C h w"]  # the latents without noise
    noise: Float[Tensor, "B C h w"]
    alpha: Float[Tensor, "B 1 1 1"]
    sigma: Float[Tensor, "B 1 1 1"]
    timesteps: Int64[Tensor, "B"]
    cell_weight: Float[Tensor, "B h w"] | None = None  # how much each cell counts; None = the data gave no weights

    @property
    def target(self) -> Float[Tensor, "B C h w"]:
        """What ``output`` should have been."""
        return target_of(self.prediction, self.clean, self.noise, self.alpha, self.sigma)

    @property
    def clean_estimate(self) -> Float[Tensor, "B C h w"]:
        """The clean latents that ``output`` stands for; from epsilon it needs alpha > 0."""
        noisy = noised(self.clean, self.noise, self.alpha, self.sigma)
        return to_x0(self.prediction, self.output, noisy, self.alpha, self.sigma)


LatentLoss = Callable[[Denoised], Float[Tensor, "B"]]  # one number per picture, float32, not yet weighted by SNR
