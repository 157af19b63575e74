"""The loaders that fetch the pictures of a training in the order of :mod:`mamoe.training.order.epochs`."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

import torch
from lightning.pytorch import LightningDataModule
from torch.utils.data import DataLoader

from mamoe.machine.workers import leave_signals_to_the_trainer, worker_context
from mamoe.training.order.buckets import BucketBatches
from mamoe.training.order.epochs import Key, StreamBatches, piece_starts
from mamoe.vocabulary.batch import Batch
from mamoe.vocabulary.sample import Sample


class SampleSource(Protocol):
    """A map-style data set that draws picture ``index`` as pass ``epoch`` sees it."""

    def __len__(self) -> int: ...

    def __getitem__(self, key: Key, /) -> Sample: ...


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


class LayoutDataModule(LightningDataModule):
    """Training batches for the steps a trainer has left. Fixed-image losses read their data sets themselves.

    Args:
        train: the training split.
        collate: samples -> batch; runs in the workers.
        batch_size: pictures of a batch over all processes together, before accumulation.
        num_workers: processes that load pictures; 0 loads in the training process.
        seed: the order of the pictures derives from it.
        prefetch_factor: batches each worker keeps ready.
        buckets: of every picture, where they differ in size: only pictures of one bucket make up a batch.
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
        buckets: Sequence[int] | None = None,
    ) -> None:
        super().__init__()
        self.train, self.collate, self.batch_size = train, collate, batch_size
        self.num_workers, self.seed, self.prefetch_factor = num_workers, seed, prefetch_factor
        self.buckets = buckets
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

    def pictures(self) -> Iterator[list[Key]]:
        """Those of every batch that the loader fetches, from its first one on."""
        assert self._loader is not None, "the training has a loader"
        return iter(self._loader.batch_sampler)  # type: ignore[arg-type]

    def take_waited(self) -> float:
        """Seconds the training waited for pictures since the last call."""
        return self._loader.take_waited() if self._loader is not None else 0.0

    def train_dataloader(self) -> TimedLoader:
        trainer = self.trainer
        assert trainer is not None
        share: dict[str, Any] = {
            "batch_size": self.batch_size,
            "num_batches": (trainer.max_steps - trainer.global_step) * trainer.accumulate_grad_batches // self.pieces,
            "seed": self.seed,
            "first": self.first,
            "rank": trainer.global_rank,
            "world_size": trainer.world_size,
            "pieces": self.pieces,
        }
        if self.buckets is None:
            batches = StreamBatches(len(self.train), **share)
        else:
            batches = BucketBatches(self.buckets, **share)
        workers = {}
        if self.num_workers:
            workers = {
                "multiprocessing_context": worker_context(),
                "persistent_workers": True,
                "prefetch_factor": self.prefetch_factor,
                "worker_init_fn": leave_signals_to_the_trainer,
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
