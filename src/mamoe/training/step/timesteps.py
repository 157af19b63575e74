"""At which noise levels a training looks: how the timesteps of a batch are drawn."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

import torch
from jaxtyping import Int64
from torch import Tensor

from mamoe.randomness import generator_for


class TimestepKind(StrEnum):
    """Distributions over [0, T)."""

    UNIFORM = "uniform"  # every timestep alike
    LOGIT_NORMAL = "logit_normal"  # sigmoid of a normal, times T (Esser et al. 2024, section 3.1)
    STRATIFIED = "stratified"  # uniform, but one from each of as many equal strata as the global batch has pictures


@dataclass(frozen=True, kw_only=True, slots=True)
class TimestepSampling:
    """How timesteps are drawn; ``mean`` and ``std`` belong to the normal of ``LOGIT_NORMAL``.

    With our T discrete steps, the sigmoid's value u in (0, 1) means timestep floor(u T): a mean above 0 prefers noisy
    pictures.
    """

    kind: TimestepKind = TimestepKind.UNIFORM
    mean: float = 0.0
    std: float = 1.0


UNIFORM = TimestepSampling()


@dataclass(frozen=True, kw_only=True, slots=True)
class Places:
    """Where a process's pictures stand in the global batch: what strata they get, whoever computes them."""

    batch: int  # number of the global batch since the training began, accumulated ones counted singly
    first: int  # place of the process's first picture: its rank
    stride: int  # between its pictures: the number of processes
    size: int  # pictures of the global batch


def draw_timesteps(
    sampling: TimestepSampling,
    seed: int,
    keys: Sequence[tuple[int, int]],
    num_timesteps: int,
    places: Places | None = None,
) -> Int64[Tensor, "B"]:
    """Timesteps in [0, ``num_timesteps``) for pictures ``keys`` = (epoch, index), on the CPU.

    A uniform or logit-normal timestep depends on (seed, epoch, index) alone; a stratified one also on which stratum
    the picture's place in the global batch gets, a permutation drawn anew from (seed, number of the batch).
    """
    generators = [generator_for(seed, "timestep", *key) for key in keys]
    if sampling.kind is TimestepKind.UNIFORM:
        return torch.stack([torch.randint(num_timesteps, (), generator=g) for g in generators])
    if sampling.kind is TimestepKind.LOGIT_NORMAL:
        normal = torch.stack([torch.randn((), generator=g, dtype=torch.float64) for g in generators])
        level = torch.sigmoid(sampling.mean + sampling.std * normal)
    else:
        assert places is not None, "stratified timesteps need the pictures' places in the global batch"
        strata = torch.randperm(places.size, generator=generator_for(seed, "strata", places.batch))
        mine = strata[places.first :: places.stride][: len(keys)]
        offset = torch.stack([torch.rand((), generator=g, dtype=torch.float64) for g in generators])
        level = (mine + offset) / places.size
    return (level * num_timesteps).long().clamp(0, num_timesteps - 1)
