"""What a synthetic set is made of, put together: a model's geometry, a data set's pictures, and maps to draw."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from mamoe.assemble.data import TRAIN, dataset, layout_settings
from mamoe.assemble.layout_scores import domain_segmenter
from mamoe.assemble.record import config_of
from mamoe.assemble.run_data import STORE, with_data
from mamoe.config.compose import compose, setting
from mamoe.config.train import Train, recorded
from mamoe.console import Bar
from mamoe.data.dataset import LayoutDataset
from mamoe.data.folder.description import data_folder
from mamoe.data.folder.split import list_splits
from mamoe.errors import ConfigError, DatasetError
from mamoe.evaluation.layout.asked import Classes
from mamoe.evaluation.layout.domain import Domain
from mamoe.prepare.record import groups_of
from mamoe.synthesis.run import Material
from mamoe.vocabulary.layout import LayoutSettings
from mamoe.vocabulary.taxonomy import Taxonomy

_SEED = 0  # of the segmenter: that of `mamoe evaluate`, whatever the seed of the set, so that one serves for all


def settings_of_run(checkpoint: Path, size: tuple[int, int] | None) -> Train:
    """What a run was told, with another ``size`` of the pictures if one is given."""
    _, config = config_of(checkpoint)
    return config if size is None else _sized(config, size)


def settings_of_pipeline(layout: LayoutSettings | None, maps: Path, size: tuple[int, int] | None) -> Train:
    """What a training that ended in this pipeline might have been told: its classes, and the size of the maps.

    Args:
        layout: of the pipeline.
        maps: folder of the data set that is drawn, whose data.yaml may name a size.
        size: (H, W) of the pictures; None: as data.yaml says.

    Raises:
        ConfigError: the pipeline knows no layout, or nobody says a size.
        DatasetError: ``data.yaml`` is wrong.
    """
    if layout is None:
        raise ConfigError("This pipeline knows no layout: what it draws shows no map. Take one that learned layouts.")
    found = data_folder(maps, layout.taxonomy).size
    if size is None and found is None:
        raise ConfigError(
            f"A saved pipeline does not say at which size it was trained, and no data.yaml in {maps} does: give "
            "--size HEIGHT WIDTH."
        )
    composed = compose(["data=folder", setting("data.root", maps), "data.crop=center"], say=lambda _: None)
    config = recorded({**composed, "taxonomy": layout.taxonomy.to_dict()})
    return config if size is None else _sized(config, size)


def _sized(config: Train, size: tuple[int, int]) -> Train:
    return config.model_copy(update={"data": config.data.model_copy(update={"size": list(size), "buckets": False})})


def material_of(config: Train, data: Path, layouts: Path | None, *, split: str, bar: Bar) -> Material:
    """The pictures of ``data`` and the maps of ``layouts``, at the size that ``config`` says.

    Args:
        config: from :func:`settings_of_run` or :func:`settings_of_pipeline`.
        data: folder of the real data set; its split ``train`` teaches the segmenter.
        layouts: folder of the data set whose maps are drawn; None: ``data``.
        split: of ``layouts``.
        bar: shows how far the segmenter's training has got.

    Raises:
        ConfigError: a data set has other classes than the model.
        DatasetError: a data set lacks files, or the split.
    """
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
