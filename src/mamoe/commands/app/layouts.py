"""The layouts of a data set, to begin with: those of the run's own data, or of a folder."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from mamoe.assemble.data import dataset
from mamoe.assemble.record import config_of
from mamoe.commands.app.template import MOST_MAPS, mean_layout
from mamoe.console import note
from mamoe.data.dataset import LayoutDataset
from mamoe.data.folder.description import data_folder
from mamoe.data.folder.prompts import raise_problems
from mamoe.data.folder.split import list_splits
from mamoe.data.geometry.joint import Geometry
from mamoe.errors import DatasetError, MamoeError, nearest
from mamoe.runs.lookup import find_checkpoint, is_run
from mamoe.vocabulary.panoptic import PanopticMap
from mamoe.vocabulary.prompts import RegionPrompts
from mamoe.vocabulary.selection import spread
from mamoe.vocabulary.taxonomy import Taxonomy

_MOST_TEMPLATES = 8  # kept; each is up to 20 MB


class Layouts:
    """Maps with their prompts, by split and name. What is not in its lists is not opened, whatever the name says."""

    def __init__(self, splits: Mapping[str, LayoutDataset]) -> None:
        self._splits = splits
        self._templates: dict[tuple[int, int], PanopticMap] = {}  # by size: a data set is read once

    @property
    def names(self) -> dict[str, tuple[str, ...]]:
        """Names of the pictures whose maps there are, by split."""
        return {split: source.keys for split, source in self._splits.items()}

    def opened(self, split: str, name: str) -> tuple[PanopticMap, RegionPrompts]:
        """A map of the data set at the size of training, and what was written about it.

        Raises:
            DatasetError: there is no such map, or it cannot be read.
        """
        source = self._splits.get(split)
        if source is None or name not in source.keys:
            known = () if source is None else source.keys
            near = nearest(name, known) if len(known) <= 10_000 else None
            raise DatasetError(
                f"The data set has no map {name!r:.80} in split {split!r:.40}"
                + (f"; did you mean {near!r}?" if near else f"; its splits are {', '.join(self._splits) or 'none'}.")
            )
        sample = source[source.keys.index(name)]
        return sample.panoptic, sample.prompts

    def template(self, size: tuple[int, int], taxonomy: Taxonomy) -> PanopticMap:
        """The data's mean layout at (H, W), of its first split.

        Raises:
            DatasetError: there are no maps, or one cannot be read.
        """
        source = next(iter(self._splits.values()), None)
        if source is None:
            raise DatasetError("There is no data set here to take the mean layout of: start with --data FOLDER.")
        if size not in self._templates:
            if len(self._templates) >= _MOST_TEMPLATES:
                self._templates.clear()
            chosen = spread(range(len(source)), MOST_MAPS)
            self._templates[size] = mean_layout((source[i].panoptic for i in chosen), size, taxonomy)
        return self._templates[size]

    @property
    def size(self) -> tuple[int, int] | None:
        """(H, W) of the first map; None: there is none."""
        source = next(iter(self._splits.values()), None)
        return None if source is None else source.first(1).sizes()[0]


def layouts_of(
    target: Path, checkpoint: str, data: Path | None, taxonomy: Taxonomy, default: tuple[int, int]
) -> Layouts:
    """The layouts of ``data``, or of the data that a run was trained on, where they can be found.

    Args:
        target: a run, one of its checkpoints, or a saved pipeline.
        checkpoint: of a run.
        data: a data set of the same classes; None: the run's own.
        taxonomy: of the model.
        default: (H, W) that maps are brought to where nothing says one.

    Raises:
        MamoeError: ``data`` cannot be used. Of a run's own data a note says so: the page works without.
    """
    if data is not None:
        return Layouts(_of_folder(data, taxonomy, default))
    if not is_run(target):
        note(f"{target} says nothing of its data: there are no maps to begin with, unless --data FOLDER names some.")
        return Layouts({})
    try:
        _, config = config_of(find_checkpoint(target, checkpoint))
        splits = {
            split: dataset(config, split, taxonomy).unaugmented() for split in list_splits(Path(config.data.images))
        }
    except MamoeError as error:
        for line in f"There are no maps to begin with, unless --data FOLDER names some. {error}".splitlines():
            note(line)
        return Layouts({})
    return Layouts({split: source for split, source in splits.items() if len(source)})


def _of_folder(folder: Path, taxonomy: Taxonomy, default: tuple[int, int]) -> dict[str, LayoutDataset]:
    parts = data_folder(folder, taxonomy)
    for text in parts.notes:
        note(text)
    splits = {}
    for split in list_splits(parts.images):
        source = LayoutDataset(
            images=parts.images,
            panoptic_maps=parts.panoptic_maps,
            split=split,
            prompts=parts.prompts,
            instance_prompts=parts.instance_prompts,
            taxonomy=taxonomy,
            geometry=Geometry(size=parts.size or default).for_evaluation(),
            seed=0,
            recursive=parts.recursive,
        ).unaugmented()
        raise_problems(list(source.files.problems), f"The split {split!r} of {folder}")
        splits[split] = source
    return splits
