"""A distance of pictures as a loss of latents: every few steps they are decoded, in between mse stands in."""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from mamoe.diffusion.losses.denoised import Denoised
from mamoe.diffusion.losses.mse import mse
from mamoe.diffusion.parameterization import Prediction
from mamoe.randomness import seeded

Decode = Callable[[Float[Tensor, "B C h w"]], Float[Tensor, "B 3 H W"]]  # latents as the UNet knows them -> [-1, 1]
Distance = Callable[[Tensor, Tensor], Float[Tensor, "B"]]  # of prediction and target, one number per picture


class OnPictures:
    """A distance of the decoded prediction and the decoded target in every ``every``-th optimizer step, else mse.

    Fixed pictures are always decoded, so that their loss is one curve. Decoding is in float32 whatever the precision
    of the training is: some autoencoders overflow in float16.

    Args:
        distance: of pictures.
        decode: differentiable.
        every: 1 decodes in every step.
        weight: times the distance, to bring it to the size of mse.
    """

    def __init__(self, distance: Distance, decode: Decode, *, every: int, weight: float) -> None:
        self._distance, self._decode, self._every, self._weight = distance, decode, every, weight

    def __call__(self, batch: Denoised) -> Float[Tensor, "B"]:
        if batch.step is not None and batch.step % self._every:
            return mse(batch)
        with torch.autocast(batch.clean.device.type, enabled=False):
            with torch.no_grad():
                wanted = self._decode(batch.clean.float())
            distance = self._distance(self._decode(batch.clean_estimate), wanted)
        return self._weight * batch.weighed(distance, Prediction.X0)


class OnLatents:
    """A distance of the predicted and the true latents, which needs no decoding.

    A distance that draws from the global stream finds it seeded from the stream of the batch's first picture, and
    leaves it as it was: a resumed run goes on alike, and fixed pictures keep their loss.
    """

    def __init__(self, distance: Distance) -> None:
        self._distance = distance

    def __call__(self, batch: Denoised) -> Float[Tensor, "B"]:
        device = batch.clean.device
        with seeded(batch.seeds[0], [device] if device.type == "cuda" else []):
            distance = self._distance(batch.clean_estimate, batch.clean)
        return batch.weighed(distance.float().flatten(), Prediction.X0)
