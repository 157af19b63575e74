"""The evaluation that follows a training: `mamoe evaluate` of its run, checked before the training begins."""

from __future__ import annotations

import shutil
from pathlib import Path

from mamoe.assemble.checking import check_data
from mamoe.assemble.data import TRAIN, dataset, layout_settings
from mamoe.assemble.device import device_of
from mamoe.commands.evaluate import evaluate_run, extractors_of
from mamoe.config.train import EvaluateAfter, Train
from mamoe.console import progress
from mamoe.evaluation.request import Asked, Progress
from mamoe.evaluation.run import AUTOENCODER_FLOOR, LAYOUT, SCORES, check_scores
from mamoe.evaluation.table import Table
from mamoe.vocabulary.drawing import Drawing


def check_after(config: Train, after: EvaluateAfter) -> None:
    """Everything the evaluation needs is there: said before hours of training, not behind them.

    Raises:
        MamoeError: an unknown score, a split or a network that is missing.
    """
    scores = _scores(after)
    check_scores(scores)
    taxonomy = layout_settings(config).taxonomy
    dataset(config, TRAIN, taxonomy)  # the training looks into its files
    check_data(config, [dataset(config, after.split, taxonomy)], progress)
    extractors_of(after.extractors, scores, str(device_of(config)))


def evaluate_after(config: Train, after: EvaluateAfter, run: Path, progress: Progress | None) -> tuple[Table, Path]:
    """Draw and score the split in this process alone; returns the table and the folder it is in.

    Interrupted, it goes on when the run is resumed.

    Raises:
        MamoeError: what the user can mend; the run itself is whole.
    """
    asked = Asked(
        split=after.split,
        checkpoint=after.checkpoint,
        modes=tuple(after.modes),
        scores=_scores(after),
        extractors=tuple(after.extractors),
        segmenters=tuple(after.segmenters),
        clip=after.clip,
        images=after.images,
        device=str(device_of(config)),
    )
    drawing = Drawing(steps=after.steps, guidance_scale=after.guidance_scale, batch_size=after.batch_size)
    table, folder = evaluate_run(run, asked, drawing, progress, alone=True)
    assert table is not None, "one process alone is the first"
    if not after.keep_pictures:
        for pictures in (*after.modes, AUTOENCODER_FLOOR):
            shutil.rmtree(folder / pictures, ignore_errors=True)  # without a score of features there is no floor
    return table, folder


def _scores(after: EvaluateAfter) -> tuple[str, ...]:
    return (*SCORES, LAYOUT) if after.scores is None else tuple(after.scores)
