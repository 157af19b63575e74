"""A batch after the network has spoken: everything a loss may look at."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from mamoe.diffusion.losses.snr import MinSnr
from mamoe.diffusion.parameterization import Prediction, noised, target_of, to_x0
from mamoe.vocabulary.conditioning import Conditioning


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
    conditioning: Conditioning  # what the network was told
    seeds: tuple[int, ...]  # B: for what a loss draws itself, a stream per picture
    step: int | None = None  # optimizer steps done before; None = outside the training, on fixed pictures
    cell_weight: Float[Tensor, "B h w"] | None = None  # how much each cell counts; None = the data gave no weights
    weighting: MinSnr | None = None  # of the noise levels; None = all count alike

    @property
    def target(self) -> Float[Tensor, "B C h w"]:
        """What ``output`` should have been."""
        return target_of(self.prediction, self.clean, self.noise, self.alpha, self.sigma)

    @property
    def clean_estimate(self) -> Float[Tensor, "B C h w"]:
        """The clean latents that ``output`` stands for, float32; from epsilon it needs alpha > 0."""
        noisy = noised(self.clean, self.noise, self.alpha, self.sigma)
        return to_x0(self.prediction, self.output.float(), noisy, self.alpha, self.sigma)

    def weighed(self, loss: Float[Tensor, "B"], space: Prediction) -> Float[Tensor, "B"]:
        """``loss`` times the weight of its noise level; ``space`` is what it compares: predictions or pictures (X0)."""
        if self.weighting is None:
            return loss
        snr = torch.div(self.alpha.square(), self.sigma.square()).flatten()
        return loss * self.weighting(snr, space)


LatentLoss = Callable[[Denoised], Float[Tensor, "B"]]  # one number per picture, float32, weighed over the noise levels
