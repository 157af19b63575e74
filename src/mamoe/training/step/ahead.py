"""Noise drawn a step ahead, where the host is what a step waits for."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor

from jaxtyping import Float
from torch import Tensor

from mamoe.training.order.epochs import Key
from mamoe.training.step.draws import picture_noise, posterior_noise

Shape = tuple[int, int, int]
Noise = tuple[Float[Tensor, "B C h w"], Float[Tensor, "B C h w"]]  # of the posterior, and what is added


class NoiseAhead:
    """A thread that draws the noise of the next batch while this one's step is ordered.

    It depends on seed, pictures and shape alone, so that it is the same whoever draws it, and when.

    Args:
        seed: of the training.
        batches: the pictures (epoch, index) of every batch from the first one on.
    """

    def __init__(self, seed: int, batches: Iterator[list[Key]]) -> None:
        self._seed, self._batches = seed, batches
        next(batches, None)  # nobody draws the first one's ahead
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="noise")
        self._drawn: tuple[list[Key], Shape, Future[Noise]] | None = None
        self._shape: Shape | None = None  # of the latents last asked for

    def of(self, keys: list[Key], shape: Shape) -> Noise | None:
        """The noise of pictures ``keys`` with latents of ``shape``, float32 on the CPU; None if nobody has begun it."""
        self._shape = shape
        if self._drawn is None or self._drawn[:2] != (keys, shape):
            return None
        return self._drawn[2].result()

    def begin(self) -> None:
        """Begin with the next batch's, once in every batch's step after its own was asked for; taken to be as large."""
        keys = next(self._batches, None)
        if keys is not None and self._shape is not None:
            self._drawn = (keys, self._shape, self._thread.submit(_noise, self._seed, keys, self._shape))


def _noise(seed: int, keys: list[Key], shape: Shape) -> Noise:
    epoch, index = [key[0] for key in keys], [key[1] for key in keys]
    return posterior_noise(seed, epoch, index, shape), picture_noise(seed, epoch, index, shape)
