"""Scores of drawn pictures while a training runs."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from lightning.pytorch import Callback, Trainer
from PIL import Image

from mamoe.data.folder.listing import bare_name
from mamoe.errors import ConfigError
from mamoe.evaluation.distances.family import Kind, measure, score_name
from mamoe.evaluation.features.extractors import Extractor
from mamoe.evaluation.features.store import Features
from mamoe.randomness import derive_seed
from mamoe.training.loop.interruption import then, unless_told_to_stop
from mamoe.training.loop.metrics import log_metrics
from mamoe.training.loop.steps import is_due
from mamoe.training.step.module import DiffusionModule
from mamoe.training.watch.samples import Sampler, draw_samples
from mamoe.training.watch.validation import evaluating
from mamoe.vocabulary.drawing import DRAWING, Drawing
from mamoe.vocabulary.sample import Sample

log = logging.getLogger(__name__)

_UNFINISHED = "unfinished"  # a file in a step's folder


class FixedScores(Callback):
    """Logs ``val/<score>`` every n optimizer steps: pictures drawn for fixed layouts and seeds, against the real ones.

    The averaged weights draw where there are any. The pictures are dealt out to the processes and lie in
    ``<run>/scored/step-…/`` until they are measured, or for good. A score that cannot be measured is reported and not
    logged.

    Args:
        run_dir: the run's folder.
        sampler: how the pictures are drawn.
        samples: layouts, prompts and real pictures.
        extractor: whose features are compared.
        kinds: which scores.
        every_n_steps: optimizer steps between measurements; the last step is measured too.
        drawing: how; the pictures' seeds derive from its seed.
        keep_pictures: False deletes them once they are measured.
    """

    def __init__(
        self,
        run_dir: Path,
        *,
        sampler: Sampler,
        samples: Sequence[Sample],
        extractor: Extractor,
        kinds: Sequence[Kind],
        every_n_steps: int,
        drawing: Drawing = DRAWING,
        keep_pictures: bool = False,
    ) -> None:
        if not samples or not kinds or every_n_steps < 1:
            raise ConfigError(
                "Scores during training need pictures, scores and every_n_steps >= 1; got "
                f"{len(samples)} pictures, {len(kinds)} scores, every_n_steps {every_n_steps}."
            )
        self._run_dir, self._sampler, self._samples = run_dir, sampler, list(samples)
        self._extractor, self._kinds, self._every, self._drawing = extractor, tuple(kinds), every_n_steps, drawing
        self._seeds = [derive_seed(drawing.seed, "scored", sample.index) for sample in self._samples]
        self._keep = keep_pictures
        self._real: Features | None = None

    def on_train_start(self, trainer: Trainer, pl_module: DiffusionModule) -> None:  # type: ignore[override]
        # Of a run that was told to stop while it drew them.
        if trainer.strategy.broadcast((self._folder(trainer) / _UNFINISHED).exists()):
            self.score(trainer, pl_module)

    def on_train_batch_end(self, trainer: Trainer, pl_module: DiffusionModule, outputs, batch, batch_idx: int) -> None:  # type: ignore[override]
        if is_due(trainer, batch_idx, self._every):
            self.score(trainer, pl_module)

    def score(self, trainer: Trainer, module: DiffusionModule) -> dict[str, float]:
        """Draw, measure and log for the current step; returns what was logged, the same on every process.

        Told to stop, it leaves the rest and logs nothing.
        """
        folder = self._folder(trainer)
        folder.mkdir(parents=True, exist_ok=True)
        mine = range(len(self._samples))[trainer.global_rank :: trainer.world_size]
        with (
            unless_told_to_stop(trainer, module.unet) as work,
            torch.no_grad(),
            evaluating(trainer, module, use_ema=True),
            self._sampler(module) as draw,
        ):
            draw_samples(
                draw,
                work,
                folder,
                [self._name(i) for i in mine],
                [self._samples[i] for i in mine],
                [self._seeds[i] for i in mine],
                self._drawing,
                trainer.global_step,
            )
        trainer.strategy.barrier("scored")
        if work.left_anywhere():
            log.info("Step %d: told to stop while drawing pictures to score; %s", trainer.global_step, then(trainer))
            (folder / _UNFINISHED).touch()
            return {}
        values = self._measure(folder, trainer.global_step) if trainer.is_global_zero else {}
        values = trainer.strategy.broadcast(values)
        log_metrics(trainer, values)
        if trainer.is_global_zero:
            (folder / _UNFINISHED).unlink(missing_ok=True)
            if not self._keep:
                shutil.rmtree(folder)
        return values

    def _folder(self, trainer: Trainer) -> Path:
        return self._run_dir / "scored" / f"step-{trainer.global_step:08d}"

    def _measure(self, folder: Path, step: int) -> dict[str, float]:
        if self._real is None:
            self._real = self._features([sample.picture for sample in self._samples])
        images = [np.array(Image.open(folder / self._name(i)).convert("RGB")) for i in range(len(self._samples))]
        found = measure(self._kinds, self._features(images), self._real, seed=self._drawing.seed)
        values = {}
        for kind, measured in found.items():
            name = f"val/{score_name(kind, self._extractor.name)}"
            if measured.value is None:
                log.warning("Step %d: %s n/a (%s)", step, name, measured.missing)
            else:
                values[name] = measured.value
        log.info("Step %d: %s", step, ", ".join(f"{name} {value:.4g}" for name, value in values.items()))
        return values

    def _features(self, images: list[np.ndarray]) -> Features:
        return Features(
            values=self._extractor(images),
            extractor=self._extractor.identity,
            preprocessing=self._extractor.preprocessing.name,
            names=tuple(sample.key for sample in self._samples),
        )

    def _name(self, i: int) -> str:
        return f"{bare_name(self._samples[i].key)}.png"
