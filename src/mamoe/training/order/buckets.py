"""Batches of pictures of one size each, from a data set of several sizes.

Every bucket (the pictures of one size) is an endless stream of its own: pass after pass, each in the order that the
whole data set has in that pass. A batch is a window of one bucket's stream, and it comes where its first picture stands
in the order of that pass. So every batch is full, every picture is seen exactly once per pass, and with a single bucket
the batches are those of :class:`mamoe.training.order.epochs.StreamBatches`. A bucket's last batch of a pass is filled
with the pictures that its next pass begins with: by the end of pass e every picture has been seen in all passes up to
e.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import lru_cache
from itertools import count, islice, pairwise

from torch.utils.data import Sampler

from mamoe.training.order.epochs import Key, check_division, epoch_order, piece_starts


class BucketBatches(Sampler[list[Key]]):
    """The micro-batches of one process: its share of each global batch, in pieces, as (epoch, index) keys.

    Args:
        buckets: the bucket of every picture, by any number.
        batch_size: pictures of a global batch, over all processes; divisible by ``world_size``.
        num_batches: how many global batches to yield the pieces of.
        first: how many pictures were seen before, a multiple of ``batch_size``.
        pieces: micro-batches that a process's share comes in.
    """

    def __init__(
        self,
        buckets: Sequence[int],
        *,
        batch_size: int,
        num_batches: int,
        seed: int,
        first: int = 0,
        rank: int = 0,
        world_size: int = 1,
        pieces: int = 1,
    ) -> None:
        check_division(len(buckets), batch_size, world_size)
        assert first % batch_size == 0, "a resumed run keeps its batch size, see continuing.continued"
        self.buckets, self.batch_size, self.num_batches = tuple(buckets), batch_size, num_batches
        self.seed, self.first, self.rank, self.world_size = seed, first, rank, world_size
        self._starts = piece_starts(batch_size // world_size, pieces)

    def __len__(self) -> int:
        return self.num_batches * (len(self._starts) - 1)

    def __iter__(self) -> Iterator[list[Key]]:
        done = self.first // self.batch_size
        for batch in islice(global_batches(self.buckets, self.batch_size, self.seed), done, done + self.num_batches):
            share = batch[self.rank :: self.world_size]
            for start, end in pairwise(self._starts):
                yield share[start:end]


def global_batches(buckets: Sequence[int], batch_size: int, seed: int) -> Iterator[list[Key]]:
    """The batches over all processes, without end."""
    sizes = Counter(buckets)

    @lru_cache(maxsize=2 + math.ceil(batch_size / min(sizes.values())))  # the passes that one batch can reach into
    def order_within(epoch: int) -> dict[int, list[int]]:
        members: dict[int, list[int]] = {bucket: [] for bucket in sizes}
        for index in epoch_order(seed, epoch, len(buckets)).tolist():
            members[buckets[index]].append(index)
        return members

    for epoch in count():
        seen = {bucket: epoch * size for bucket, size in sizes.items()}  # positions in the buckets' streams
        for index in epoch_order(seed, epoch, len(buckets)).tolist():
            bucket, position = buckets[index], seen[buckets[index]]
            seen[bucket] += 1
            if position % batch_size == 0:
                passes = [divmod(p, sizes[bucket]) for p in range(position, position + batch_size)]
                yield [(number, order_within(number)[bucket][place]) for number, place in passes]


def bucket_batches_of_epochs(epochs: float, buckets: Sequence[int], batch_size: int) -> int:
    """Batches until every picture has been seen ``epochs`` times."""
    return sum(math.ceil(epochs * size / batch_size) for size in Counter(buckets).values())
