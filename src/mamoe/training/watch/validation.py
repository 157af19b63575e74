"""The loss on fixed pictures with fixed noise and timesteps: a curve without the jitter of the training loss."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import torch
from jaxtyping import Float
from lightning.pytorch import Callback, Trainer
from torch import Tensor

from mamoe.errors import ConfigError
from mamoe.machine.compiling import uncompiled
from mamoe.training.loop.interruption import unless_told_to_stop
from mamoe.training.loop.metrics import MetricsFile, log_metrics
from mamoe.training.loop.steps import is_due
from mamoe.training.order.loaders import SampleSource
from mamoe.training.scale.sharding import put_together
from mamoe.training.step.draws import Draws, fixed_draws
from mamoe.training.step.module import DiffusionModule
from mamoe.vocabulary.batch import Batch, RegionBatch
from mamoe.vocabulary.sample import Sample
from mamoe.vocabulary.selection import spread

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class _Fixed:
    """A batch as the loss needs it, kept from one evaluation to the next."""

    latents: Float[Tensor, "B C h w"]  # on the CPU
    regions: RegionBatch
    draws: Draws
    cell_weight: Float[Tensor, "B h w"] | None


class FixedLoss(Callback):
    """Logs the mean loss of ``count`` pictures every n optimizer steps and after the last one.

    The pictures are spread evenly over the data set and seen as in pass 0; each has one noise and one timestep, and
    the timesteps are stratified over the pictures. Pictures are dealt out to the processes, none twice. Latents are
    encoded once and kept in memory (64 KiB for one of 512x512).

    Args:
        name: the metric, e.g. ``val/loss`` or ``train/stable_loss``.
        data: where the pictures come from.
        collate: samples -> batch.
        count: how many pictures; a smaller data set gives all it has.
        batch_size: pictures evaluated at a time by one process.
        every_n_steps: optimizer steps between evaluations.
        seed: of the noise and the timesteps.
        use_ema: evaluate the averaged weights where there are any.
    """

    def __init__(
        self,
        *,
        name: str,
        data: SampleSource,
        collate: Callable[[list[Sample]], Batch],
        count: int = 100,
        batch_size: int,
        every_n_steps: int,
        seed: int = 0,
        use_ema: bool = False,
    ) -> None:
        if len(data) < 1 or count < 1 or batch_size < 1 or every_n_steps < 1:
            raise ConfigError(
                f"{name} needs at least one picture, batch_size >= 1 and every_n_steps >= 1; got {len(data)} pictures, "
                f"count {count}, batch_size {batch_size}, every_n_steps {every_n_steps}."
            )
        self.name, self._data, self._collate, self._count = name, data, collate, min(count, len(data))
        self._batch_size, self._every, self._seed, self._use_ema = batch_size, every_n_steps, seed, use_ema
        self._fixed: list[_Fixed] | None = None

    def on_train_start(self, trainer: Trainer, pl_module: DiffusionModule) -> None:  # type: ignore[override]
        if trainer.global_step == 0 or trainer.strategy.broadcast(self._was_left(trainer)):
            self._run(trainer, pl_module)

    def on_train_batch_end(self, trainer: Trainer, pl_module: DiffusionModule, outputs, batch, batch_idx: int) -> None:  # type: ignore[override]
        if is_due(trainer, batch_idx, self._every):
            self._run(trainer, pl_module)

    def _run(self, trainer: Trainer, module: DiffusionModule) -> None:
        value = self.evaluate(trainer, module)
        if value is None:
            log.info("Step %d: told to stop while measuring %s", trainer.global_step, self.name)
            return
        log_metrics(trainer, {self.name: value})
        log.info("Step %d: %s %.5f", trainer.global_step, self.name, value)

    def _was_left(self, trainer: Trainer) -> bool:
        """Whether the run was told to stop while it measured at the step it goes on from."""
        files = [logger for logger in trainer.loggers if isinstance(logger, MetricsFile)]
        due = trainer.global_step % self._every == 0
        return due and any(not file.knows(self.name, trainer.global_step) for file in files)

    def evaluate(self, trainer: Trainer, module: DiffusionModule) -> float | None:
        """The mean loss over all fixed pictures and processes; None where the training is told to stop meanwhile."""
        losses = []
        with (
            unless_told_to_stop(trainer, module.unet) as work,
            torch.no_grad(),
            evaluating(trainer, module, use_ema=self._use_ema),
        ):
            if self._fixed is None:
                self._fixed = [self._prepare(module, group) for group in self._groups(trainer)]
            losses = [self._loss(module, fixed) for fixed in self._fixed]
        if work.left_anywhere():
            return None
        total = torch.zeros((), dtype=torch.float64, device="cpu")
        for loss in losses:
            total += loss.double().cpu().sum()
        total = total.to(module.device) if module.device.type == "cuda" else total
        return float(trainer.strategy.reduce(total, reduce_op="sum")) / self._count

    def _groups(self, trainer: Trainer) -> Iterator[list[tuple[int, Sample]]]:
        """This process's share as (place, picture), in batches of one size of picture each."""
        waiting: dict[tuple[int, int], list[tuple[int, Sample]]] = {}
        places = spread(range(len(self._data)), self._count)
        for place in range(self._count)[trainer.global_rank :: trainer.world_size]:
            sample = self._data[0, places[place]]
            group = waiting.setdefault(sample.panoptic.size, [])
            group.append((place, sample))
            if len(group) == self._batch_size:
                yield waiting.pop(sample.panoptic.size)
        yield from waiting.values()

    def _prepare(self, module: DiffusionModule, group: list[tuple[int, Sample]]) -> _Fixed:
        places, index = [place for place, _ in group], [sample.index for _, sample in group]
        batch = self._collate([sample for _, sample in group]).to(module.device)
        latents = module.encode(batch)
        shape, steps = tuple(latents.shape[1:]), len(module.levels)
        draws = fixed_draws(self._seed, index, places, self._count, shape, steps)  # type: ignore[arg-type]
        weight = None if batch.cell_weight is None else batch.cell_weight.cpu()
        return _Fixed(latents=latents.cpu(), regions=batch.regions.to("cpu"), draws=draws, cell_weight=weight)

    def _loss(self, module: DiffusionModule, fixed: _Fixed) -> Float[Tensor, "B"]:
        device = module.device
        weight = None if fixed.cell_weight is None else fixed.cell_weight.to(device)
        return module.loss_per_image(fixed.latents.to(device), fixed.regions.to(device), fixed.draws, weight)


@contextmanager
def evaluating(trainer: Trainer, module: DiffusionModule, *, use_ema: bool) -> Iterator[None]:
    """Evaluation mode and the trainer's precision inside the ``with``; on request the averaged weights."""
    module.look()
    modes = {part: part.training for part in module.modules()}
    with ExitStack() as stack:
        stack.enter_context(trainer.precision_plugin.forward_context())
        if use_ema and module.ema is not None:
            stack.enter_context(module.ema.in_place())
        stack.enter_context(put_together(module.unet))
        stack.enter_context(uncompiled(module.unet))
        module.eval()
        try:
            yield
        finally:
            for part, mode in modes.items():
                part.training = mode
