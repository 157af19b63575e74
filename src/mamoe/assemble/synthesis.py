"""What a synthetic set is made of, put together: a run's geometry, a data set's pictures, and maps to draw."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from mamoe.assemble.data import TRAIN, dataset, layout_settings
from mamoe.assemble.layout_scores import domain_segmenter
from mamoe.assemble.record import config_of
from mamoe.assemble.run_data import STORE, with_data
from mamoe.config.train import Train
from mamoe.console import Bar
from mamoe.data.dataset import LayoutDataset
from mamoe.data.folder.split import list_splits
from mamoe.errors import DatasetError
from mamoe.evaluation.layout.asked import Classes
from mamoe.evaluation.layout.domain import Domain
from mamoe.prepare.record import groups_of
from mamoe.synthesis.run import Material
from mamoe.vocabulary.taxonomy import Taxonomy

_SEED = 0  # of the segmenter: that of `mamoe evaluate`, whatever the seed of the set, so that one serves for all


def material_of(checkpoint: Path, data: Path, layouts: Path | None, *, split: str, bar: Bar) -> Material:
    """The pictures of ``data`` and the maps of ``layouts``, at the size the run was trained at.

    Args:
        checkpoint: of the run.
        data: folder of the real data set; its split ``train`` teaches the segmenter.
        layouts: folder of the data set whose maps are drawn; None: ``data``.
        split: of ``layouts``.
        bar: shows how far the segmenter's training has got.

    Raises:
        ConfigError: a data set has other classes than the run.
        DatasetError: a data set lacks files, or the split.
    """
    _, config = config_of(checkpoint)
    taxonomy = layout_settings(config).taxonomy
    real = _split_of(config, data, TRAIN, taxonomy)
    source = data if layouts is None else layouts
    maps = real if layouts is None and split == TRAIN else _split_of(config, source, split, taxonomy)
    groups = groups_of(source)
    return Material(real=real, layouts=maps, groups=groups, learn=partial(_learned, real, data / STORE, bar))


def _split_of(config: Train, folder: Path, split: str, taxonomy: Taxonomy) -> LayoutDataset:
    of_folder = with_data(config, folder, taxonomy)
    found = dataset(of_folder, split, taxonomy).unaugmented()
    if not len(found):
        there = ", ".join(list_splits(Path(of_folder.data.images))) or "none"
        raise DatasetError(f"{folder} has no pictures in the split {split!r}; its splits are {there}.")
    return found


def _learned(real: LayoutDataset, store: Path, bar: Bar) -> Domain:
    with bar("Training the segmenter") as update:
        return domain_segmenter(real, Classes.of(real.taxonomy), store, _SEED, update)
