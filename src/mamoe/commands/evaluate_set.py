"""A data set of generated pictures evaluated: of what use it is beside the real one."""

from __future__ import annotations

from pathlib import Path

from mamoe.assemble.data import TRAIN
from mamoe.commands.evaluate import split_of
from mamoe.console import note
from mamoe.data.dataset import LayoutDataset
from mamoe.data.folder.description import DATA_YAML, Size, data_folder
from mamoe.data.geometry.joint import Crop, Geometry
from mamoe.errors import ConfigError, DatasetError
from mamoe.evaluation.layout.asked import Classes
from mamoe.evaluation.layout.domain import MOST_PICTURES, data_hash
from mamoe.evaluation.layout.use_of_sets import Examples, compare_sets
from mamoe.evaluation.request import Asked, Progress
from mamoe.evaluation.run import USE, write_table
from mamoe.evaluation.table import Table
from mamoe.vocabulary.selection import spread
from mamoe.vocabulary.taxonomy import Taxonomy


def is_data_set(folder: Path) -> bool:
    """Whether a folder is a data set with maps of its own, and not just pictures."""
    return (folder / DATA_YAML).is_file()


def evaluate_set(folder: Path, asked: Asked, seeds: int, progress: Progress | None = None) -> tuple[Table, Path]:
    """Compare segmenters trained on real pictures, on those of ``folder``, and on both.

    Args:
        folder: the data set; its split ``train`` is looked at.
        asked: the real data set, the split to test on, size, number of pictures, place and first seed.
        seeds: how many networks of each kind.
        progress: called with (networks trained, networks in all).

    Returns:
        The table, and the folder it is written to.

    Raises:
        ConfigError: something else than ``use`` is asked for, or the classes differ.
        DatasetError: a split is empty, or pictures are of several sizes.
    """
    if asked.scores != (USE,):
        raise ConfigError(f"{folder} is a data set: what can be measured of it is its use, --scores {USE}.")
    if asked.data is None:
        raise ConfigError(f"{folder} is a data set: name the real one it is held against with --data.")
    given = None if asked.taxonomy is None else Taxonomy.load(asked.taxonomy)
    parts = data_folder(asked.data, given)
    made = data_folder(folder, parts.taxonomy)
    geometry = _geometry(asked.size or made.size or parts.size)
    classes = Classes.of(parts.taxonomy)
    examples = []
    for place, described, split in (
        (asked.data, parts, TRAIN),
        (folder, made, TRAIN),
        (asked.data, parts, asked.split),
    ):
        source = split_of(place, described, asked.seed, split, geometry).unaugmented()
        if not len(source):
            raise DatasetError(f"{place} has no pictures in the split {split!r}.")
        examples.append(_examples(source, classes, asked.images or MOST_PICTURES))
    real, synthetic, tests = examples
    note(f"{len(real.images)} real and {len(synthetic.images)} synthetic pictures, {len(tests.images)} to test on.")
    out = asked.out or Path("eval") / folder.resolve().name
    chosen = range(asked.seed, asked.seed + seeds)
    table = compare_sets(real, synthetic, tests, classes, seeds=chosen, store=out / "networks", progress=progress)
    write_table(table, out)
    return table, out


def _geometry(size: Size | None) -> Geometry:
    if size is None:
        raise ConfigError(f"No {DATA_YAML} says at which size to compare: give --size HEIGHT WIDTH.")
    return Geometry(size=size, crop=Crop.CENTER)


def _examples(source: LayoutDataset, classes: Classes, most: int) -> Examples:
    chosen = spread(range(len(source)), most)
    files = [source.files.samples[i] for i in chosen]
    samples = (source[i] for i in chosen)
    images, numbers = zip(*((sample.picture, classes.numbers(sample.panoptic)) for sample in samples), strict=True)
    paths = [path for file in files for path in (file.image, file.panoptic) if path is not None]
    return Examples(
        images=images,
        numbers=numbers,
        names=[file.key for file in files],
        hashed=data_hash(paths, str(source.geometry)),
    )
