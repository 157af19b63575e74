"""Which picture is seen when.

Training reads one endless stream: pass after pass over the data, each pass in an order of its own derived from
(seed, epoch). A global batch is a window of that stream, dealt out to the processes in turn. So there is no last
partial batch to drop, a run may stop and go on at any position, and neither the number of workers nor of processes
changes which pictures make up a step.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import pairwise

import torch
from jaxtyping import Int64
from torch import Tensor
from torch.utils.data import Sampler

from mamoe.errors import ConfigError
from mamoe.randomness import generator_for

Key = tuple[int, int]  # (epoch, index)


def epoch_order(seed: int, epoch: int, size: int) -> Int64[Tensor, "size"]:
    """The order of one pass over the data, a permutation."""
    return torch.randperm(size, generator=generator_for(seed, "order", epoch))


def steps_of_epochs(epochs: float, size: int, batch_size: int, accumulate: int = 1) -> int:
    """Optimizer steps until every picture has been seen ``epochs`` times (``batch_size`` over all processes)."""
    return math.ceil(epochs * size / (batch_size * accumulate))


def check_division(size: int, batch_size: int, world_size: int) -> None:
    """Raises ConfigError where there is no picture, or batches cannot be dealt out evenly."""
    if size < 1:
        raise ConfigError("The training data set is empty: no picture to train on.")
    if batch_size % world_size:
        raise ConfigError(
            f"The batch size counts the pictures of all processes together and must be divisible by their "
            f"number: got {batch_size} for {world_size} processes."
        )


def piece_starts(count: int, pieces: int) -> list[int]:
    """Where the pieces of ``count`` pictures begin, and the end of the last: sizes differ by one at most."""
    return [piece * count // pieces for piece in range(pieces + 1)]


class StreamBatches(Sampler[list[Key]]):
    """The micro-batches of one process: its share of each global batch, in pieces, as (epoch, index) keys.

    Args:
        size: pictures in the data set.
        batch_size: pictures of a global batch, over all processes; divisible by ``world_size``.
        num_batches: how many global batches to yield the pieces of.
        first: position in the stream of the first picture: how many were seen before.
        pieces: micro-batches that a process's share comes in.
    """

    def __init__(
        self,
        size: int,
        *,
        batch_size: int,
        num_batches: int,
        seed: int,
        first: int = 0,
        rank: int = 0,
        world_size: int = 1,
        pieces: int = 1,
    ) -> None:
        check_division(size, batch_size, world_size)
        self.size, self.batch_size, self.num_batches = size, batch_size, num_batches
        self.seed, self.first, self.rank, self.world_size = seed, first, rank, world_size
        self._starts = piece_starts(batch_size // world_size, pieces)

    def __len__(self) -> int:
        return self.num_batches * (len(self._starts) - 1)

    def __iter__(self) -> Iterator[list[Key]]:
        epoch, order = -1, None
        for batch in range(self.num_batches):
            keys = []
            start = self.first + batch * self.batch_size
            for position in range(start + self.rank, start + self.batch_size, self.world_size):
                if order is None or position // self.size != epoch:
                    epoch = position // self.size
                    order = epoch_order(self.seed, epoch, self.size)
                keys.append((epoch, int(order[position % self.size])))
            for start, end in pairwise(self._starts):
                yield keys[start:end]
