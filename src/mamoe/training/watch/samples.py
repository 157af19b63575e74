"""Pictures drawn while a training runs: the same layouts and the same seeds every time, so that progress shows."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.loggers import TensorBoardLogger, WandbLogger
from PIL import Image, ImageDraw

from mamoe.data.folder.listing import bare_name
from mamoe.errors import ConfigError
from mamoe.randomness import derive_seed
from mamoe.sampling.filling import fill
from mamoe.sampling.records import record_of, write_picture
from mamoe.training.loop.interruption import Work, then, unless_told_to_stop
from mamoe.training.loop.steps import is_due
from mamoe.training.step.module import DiffusionModule
from mamoe.training.watch.validation import evaluating
from mamoe.vocabulary.colourize import colourize
from mamoe.vocabulary.drawing import DRAWING, Drawing, Mode, modes_of
from mamoe.vocabulary.sample import Sample
from mamoe.vocabulary.taxonomy import Taxonomy

log = logging.getLogger(__name__)

_GRID = "grid.png"  # written last
_TITLE_HEIGHT = 14
_GAP = 2


class Draw(Protocol):
    """Draws one picture per sample; ``seeds[i]`` alone decides the noise of picture i."""

    def __call__(self, samples: list[Sample], drawing: Drawing, seeds: list[int]) -> list[Image.Image]: ...


# A UNet becomes a way to draw, for as long as the ``with`` lasts: what else it takes is in memory no longer than that.
Sampler = Callable[[DiffusionModule], AbstractContextManager[Draw]]


class SampleGrids(Callback):
    """Writes ``<run>/samples/step-…/`` every n optimizer steps: a picture and its JSON per sample and mode, and a grid.

    The pictures are dealt out to the processes. The grid goes to every logger that shows pictures.

    Args:
        run_dir: the run's folder.
        sampler: how the pictures are drawn.
        samples: the layouts, prompts and real pictures; one row of the grid each.
        taxonomy: the colours of the maps.
        modes: one column of the grid each.
        every_n_steps: optimizer steps between grids; the last step gets one too.
        drawing: how, but for the mode; the pictures' seeds derive from its seed.
        use_ema: draw with the averaged weights where there are any.
    """

    def __init__(
        self,
        run_dir: Path,
        *,
        sampler: Sampler,
        samples: Sequence[Sample],
        taxonomy: Taxonomy,
        modes: Sequence[Mode] = tuple(Mode),
        every_n_steps: int,
        drawing: Drawing = DRAWING,
        use_ema: bool = True,
    ) -> None:
        if not samples or every_n_steps < 1:
            raise ConfigError(
                "Sample grids need at least one sample and every_n_steps >= 1; got "
                f"{len(samples)} samples, every_n_steps {every_n_steps}."
            )
        self._run_dir, self._sampler, self._samples, self._taxonomy = run_dir, sampler, list(samples), taxonomy
        self._modes, self._every, self._drawing = modes_of(modes), every_n_steps, drawing
        self._seeds = [derive_seed(drawing.seed, "sample grid", sample.index) for sample in self._samples]
        self._use_ema = use_ema

    def on_train_start(self, trainer: Trainer, pl_module: DiffusionModule) -> None:  # type: ignore[override]
        folder = self._folder(trainer)  # of a run that was told to stop while it drew them
        if trainer.strategy.broadcast(folder.is_dir() and not (folder / _GRID).exists()):
            self.write(trainer, pl_module)

    def on_train_batch_end(self, trainer: Trainer, pl_module: DiffusionModule, outputs, batch, batch_idx: int) -> None:  # type: ignore[override]
        if is_due(trainer, batch_idx, self._every):
            self.write(trainer, pl_module)

    def write(self, trainer: Trainer, module: DiffusionModule) -> Path:
        """Draw and write everything for the current step; returns the folder. Told to stop, it leaves the rest."""
        folder = self._folder(trainer)
        folder.mkdir(parents=True, exist_ok=True)
        mine = range(len(self._samples))[trainer.global_rank :: trainer.world_size]
        with (
            unless_told_to_stop(trainer, module.unet) as work,
            torch.no_grad(),
            evaluating(trainer, module, use_ema=self._use_ema),
            self._sampler(module) as draw,
        ):
            for mode in self._modes:
                self._draw(draw, work, folder, mode, mine, trainer.global_step)
        trainer.strategy.barrier("samples")
        if work.left_anywhere():
            log.info("Step %d: told to stop while drawing samples; %s", trainer.global_step, then(trainer))
        elif trainer.is_global_zero:
            grid = self._grid(folder)
            write_picture(grid, folder / _GRID)
            show(trainer, "samples", grid)
            log.info("Step %d: samples %s", trainer.global_step, folder / _GRID)
        return folder

    def _folder(self, trainer: Trainer) -> Path:
        return self._run_dir / "samples" / f"step-{trainer.global_step:08d}"

    def _draw(self, draw: Draw, work: Work, folder: Path, mode: Mode, rows: Sequence[int], step: int) -> None:
        names = [_picture_name(self._samples[i], mode) for i in rows]
        draw_samples(
            draw,
            work,
            folder,
            names,
            [self._samples[i] for i in rows],
            [self._seeds[i] for i in rows],
            replace(self._drawing, mode=mode),
            step,
        )

    def _grid(self, folder: Path) -> Image.Image:
        rows = []
        for sample in self._samples:
            layout = Image.fromarray(colourize(sample.panoptic, self._taxonomy))
            real = Image.fromarray(sample.picture)
            drawn = [Image.open(folder / _picture_name(sample, mode)) for mode in self._modes]
            rows.append([layout, real, *drawn])
        return tiled(rows, ["map", "real", *(mode.value for mode in self._modes)])


def tiled(rows: Sequence[Sequence[Image.Image]], titles: Sequence[str]) -> Image.Image:
    """Pictures side by side under column titles; a cell is as large as the largest picture."""
    width = max(picture.width for row in rows for picture in row)
    height = max(picture.height for row in rows for picture in row)
    size = (len(titles) * (width + _GAP) - _GAP, _TITLE_HEIGHT + len(rows) * (height + _GAP) - _GAP)
    grid = Image.new("RGB", size, "white")
    pen = ImageDraw.Draw(grid)
    for column, title in enumerate(titles):
        pen.text((column * (width + _GAP) + 2, 1), title, fill="black")
    for y, row in enumerate(rows):
        for x, picture in enumerate(row):
            grid.paste(picture, (x * (width + _GAP), _TITLE_HEIGHT + y * (height + _GAP)))
    return grid


def show(trainer: Trainer, name: str, picture: Image.Image) -> None:
    """Send a picture to the loggers that show pictures."""
    for logger in trainer.loggers:
        if isinstance(logger, TensorBoardLogger):
            logger.experiment.add_image(name, np.asarray(picture), trainer.global_step, dataformats="HWC")
        elif isinstance(logger, WandbLogger):
            logger.log_image(name, [picture], step=trainer.global_step)


def draw_samples(
    draw: Draw,
    work: Work,
    folder: Path,
    names: Sequence[str],
    samples: Sequence[Sample],
    seeds: Sequence[int],
    drawing: Drawing,
    step: int,
) -> None:
    """This process's pictures of a step, with their records; those of another session of the run are drawn anew."""

    def make(batch: list[int]) -> list[Image.Image]:
        work.go_on()
        return draw([samples[i] for i in batch], drawing, [seeds[i] for i in batch])

    def record(i: int) -> dict[str, Any]:
        sample = samples[i]
        return record_of(sample.prompts, sample.panoptic.size, seeds[i], drawing, key=sample.key, step=step)

    places = range(len(samples))
    batches = [places[first : first + drawing.batch_size] for first in places[:: drawing.batch_size]]
    fill(folder, names, batches, make, record=record, again=True)


def _picture_name(sample: Sample, mode: Mode) -> str:
    return f"{bare_name(sample.key)}.{mode.value}.png"
