"""Which picture is seen when, and the loaders that fetch it.

Training reads one endless stream: pass after pass over the data, each pass in an order of its own derived from
(seed, epoch). A global batch is a window of that stream, dealt out to the processes in turn. So there is no last
partial batch to drop, a run may stop and go on at any position, and neither the number of workers nor of processes
changes which pictures make up a step.
"""

from __future__ import annotations

import math
import signal
import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Protocol

import torch
from jaxtyping import Int64
from lightning.pytorch import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader, Sampler

from mamoe.randomness import generator_for
from mamoe.tensors import Batch, Sample
from mamoe.types import ConfigError

Key = tuple[int, int]  # (epoch, index)


class SampleSource(Protocol):
    """A map-style data set that draws picture ``index`` as pass ``epoch`` sees it."""

    def __len__(self) -> int: ...

    def __getitem__(self, key: Key, /) -> Sample: ...


def epoch_order(seed: int, epoch: int, size: int) -> Int64[Tensor, "size"]:
    """The order of one pass over the data, a permutation."""
    return torch.randperm(size, generator=generator_for(seed, "order", epoch))


def steps_of_epochs(epochs: float, size: int, batch_size: int, accumulate: int = 1) -> int:
    """Optimizer steps until every picture has been seen ``epochs`` times (``batch_size`` over all processes)."""
    return math.ceil(epochs * size / (batch_size * accumulate))


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
        if size < 1:
            raise ConfigError("The training data set is empty: no picture to train on.")
        if batch_size % world_size:
            raise ConfigError(
                f"The batch size counts the pictures of all processes together and must be divisible by their "
                f"number: got {batch_size} for {world_size} processes."
            )
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


class TimedLoader(DataLoader):
    """A loader that adds up the time its reader waits for the next batch."""

    _waited = 0.0

    def __iter__(self) -> Iterator[Batch]:  # type: ignore[override]
        batches = super().__iter__()
        while True:
            asked = time.perf_counter()
            batch = next(batches, None)
            self._waited += time.perf_counter() - asked
            if batch is None:
                return
            yield batch

    def take_waited(self) -> float:
        """Seconds waited since the last call."""
        waited, self._waited = self._waited, 0.0
        return waited


def _leave_signals_to_the_trainer(worker: int) -> None:
    # Ctrl-C and schedulers signal the whole process group; a worker that died of it would break the last step.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, signal.SIG_IGN)


class LayoutDataModule(LightningDataModule):
    """Training batches for the steps a trainer has left. Fixed-image losses read their data sets themselves.

    Args:
        train: the training split.
        collate: samples -> batch; runs in the workers.
        batch_size: pictures of a batch over all processes together, before accumulation.
        num_workers: processes that load pictures; 0 loads in the training process.
        seed: the order of the pictures derives from it.
        prefetch_factor: batches each worker keeps ready.
    """

    def __init__(
        self,
        *,
        train: SampleSource,
        collate: Callable[[list[Sample]], Batch],
        batch_size: int,
        num_workers: int = 0,
        seed: int = 0,
        prefetch_factor: int = 2,
    ) -> None:
        super().__init__()
        self.train, self.collate, self.batch_size = train, collate, batch_size
        self.num_workers, self.seed, self.prefetch_factor = num_workers, seed, prefetch_factor
        self.first = 0  # pictures seen before this run: set when a run is resumed
        self.pieces = 1  # micro-batches that a process's share of a batch comes in: doubled where memory is short
        self._loader: TimedLoader | None = None

    def samples_seen(self, steps_done: int, accumulate: int) -> int:
        """Position in the stream after ``steps_done`` optimizer steps of this run, of ``accumulate`` pieces each."""
        return self.first + steps_done * accumulate // self.pieces * self.batch_size

    def piece(self, batch_idx: int) -> tuple[int, float]:
        """Where a micro-batch begins in its process's share of a batch, and the mean size of micro-batches."""
        assert self.trainer is not None
        share = self.batch_size // self.trainer.world_size
        return piece_starts(share, self.pieces)[batch_idx % self.pieces], share / self.pieces

    def take_waited(self) -> float:
        """Seconds the training waited for pictures since the last call."""
        return self._loader.take_waited() if self._loader is not None else 0.0

    def train_dataloader(self) -> TimedLoader:
        trainer = self.trainer
        assert trainer is not None
        batches = StreamBatches(
            len(self.train),
            batch_size=self.batch_size,
            num_batches=(trainer.max_steps - trainer.global_step) * trainer.accumulate_grad_batches // self.pieces,
            seed=self.seed,
            first=self.first,
            rank=trainer.global_rank,
            world_size=trainer.world_size,
            pieces=self.pieces,
        )
        workers = {}
        if self.num_workers:
            # A forked worker would inherit locks of the parent's threads and a CUDA context it must not touch.
            workers = {
                "multiprocessing_context": "spawn",
                "persistent_workers": True,
                "prefetch_factor": self.prefetch_factor,
                "worker_init_fn": _leave_signals_to_the_trainer,
            }
        self._loader = TimedLoader(
            self.train,  # type: ignore[arg-type]
            batch_sampler=batches,
            collate_fn=self.collate,
            num_workers=self.num_workers,
            pin_memory=torch.cuda.is_available(),
            **workers,
        )
        return self._loader
