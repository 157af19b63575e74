"""Everything random about a picture's loss, drawn from the picture's own generators.

A picture's draws depend on (seed, purpose, epoch, index) alone: neither its batch mates nor the number of workers,
processes or accumulated batches change them. Only stratified timesteps also look at its place in the global batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from mamoe.machine.transfers import sent
from mamoe.randomness import derive_seed, generator_for, stacked_randn
from mamoe.training.step.timesteps import UNIFORM, Places, TimestepSampling, draw_timesteps


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Draws:
    """The random part of a batch's losses."""

    timesteps: Int64[Tensor, "B"]  # in [0, T)
    noise: Float[Tensor, "B C h w"]  # standard normal: what the network has to find
    dropped: Bool[Tensor, "B"]  # True: the picture is seen without prompt and layout
    loss_seeds: tuple[int, ...]  # B: for what a loss draws itself

    def to(self, device: torch.device | str) -> Draws:
        """Everything but ``dropped``, which only the host reads."""
        return replace(self, timesteps=sent(self.timesteps, device), noise=sent(self.noise, device))


def training_draws(
    seed: int,
    epoch: Sequence[int],
    index: Sequence[int],
    latent_shape: tuple[int, int, int],
    num_timesteps: int,
    prompt_dropout: float,
    *,
    sampling: TimestepSampling = UNIFORM,
    places: Places | None = None,
    noise: Float[Tensor, "B C h w"] | None = None,
) -> Draws:
    """Timesteps, normal noise and prompt dropout for a training batch, on the CPU; ``noise`` if it is drawn already."""
    keys = list(zip(epoch, index, strict=True))
    timesteps = draw_timesteps(sampling, seed, keys, num_timesteps, places)
    dropped = [torch.rand((), generator=generator_for(seed, "dropout", *k)) < prompt_dropout for k in keys]
    if noise is None:
        noise = picture_noise(seed, epoch, index, latent_shape)
    seeds = tuple(derive_seed(seed, "loss", *k) for k in keys)
    return Draws(timesteps=timesteps, noise=noise, dropped=torch.stack(dropped), loss_seeds=seeds)


def fixed_draws(
    seed: int,
    index: Sequence[int],
    positions: Sequence[int],
    count: int,
    latent_shape: tuple[int, int, int],
    num_timesteps: int,
) -> Draws:
    """One timestep and noise per picture, the same at every call: a yardstick for the progress of a training.

    ``positions`` are the pictures' places among ``count`` fixed ones: place p draws its timestep from the p-th of
    ``count`` equal strata of [0, T), so that together they cover all noise levels evenly. Nothing is dropped.
    """
    offsets = torch.stack([torch.rand((), generator=generator_for(seed, "fixed timestep", i)) for i in index])
    timesteps = ((torch.tensor(positions) + offsets) / count * num_timesteps).long().clamp(max=num_timesteps - 1)
    noise = stacked_randn(latent_shape, [generator_for(seed, "fixed noise", i) for i in index])
    dropped = torch.zeros(len(timesteps), dtype=torch.bool)
    seeds = tuple(derive_seed(seed, "fixed loss", i) for i in index)
    return Draws(timesteps=timesteps, noise=noise, dropped=dropped, loss_seeds=seeds)


def picture_noise(
    seed: int, epoch: Sequence[int], index: Sequence[int], latent_shape: tuple[int, int, int]
) -> Float[Tensor, "B C h w"]:
    """What is added to the latents of training pictures."""
    keys = zip(epoch, index, strict=True)
    return stacked_randn(latent_shape, [generator_for(seed, "noise", *k) for k in keys])


def posterior_noise(
    seed: int, epoch: Sequence[int], index: Sequence[int], latent_shape: tuple[int, int, int]
) -> Float[Tensor, "B C h w"]:
    """The noise of sampling an autoencoder's latent, a stream of its own."""
    keys = zip(epoch, index, strict=True)
    return stacked_randn(latent_shape, [generator_for(seed, "latent", *k) for k in keys])
