"""The configured data sets."""

from __future__ import annotations

from typing import Any

from mamoe.conditioning.settings import LayoutSettings
from mamoe.config import Train
from mamoe.data.dataset import LayoutDataset
from mamoe.data.prompts import raise_problems
from mamoe.data.transforms import Geometry
from mamoe.targets import instantiate
from mamoe.taxonomy import Taxonomy
from mamoe.tensors import Sample
from mamoe.types import RegionPrompts

TRAIN, VAL = "train", "val"


def layout_settings(config: Train) -> LayoutSettings:
    """How the map steers the model, with the data's taxonomy."""
    named = config.data.taxonomy
    taxonomy = Taxonomy.from_dict(config.taxonomy) if named is None else Taxonomy.load(named)
    options = config.layout.model_dump(exclude={"moe_levels"})
    return LayoutSettings(taxonomy=taxonomy, strength=config.regions.strength, **options)


def dataset(config: Train, split: str, taxonomy: Taxonomy) -> LayoutDataset:
    """One split of the configured data.

    Raises:
        DatasetError: files are missing or do not belong together; every one is listed.
    """
    data = config.data
    geometry = Geometry(
        size=data.size,
        crop=data.crop,
        flip=data.flip,
        extra=[instantiate(spec, "data.transforms") for spec in data.transforms],
    )
    source = LayoutDataset(
        images=data.images,
        panoptic_maps=data.panoptic_maps,
        split=split,
        prompts=data.prompts,
        instance_prompts=data.instance_prompts,
        taxonomy=taxonomy,
        geometry=geometry,
        seed=config.seed,
    )
    raise_problems(list(source.files.problems), f"The split {split!r}")
    return source


class FirstOf:
    """The first ``count`` samples of a data set."""

    def __init__(self, source: LayoutDataset, count: int) -> None:
        self.source, self.count = source, min(count, len(source))

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, key: tuple[int, int]) -> Sample:
        return self.source[key]

    @property
    def prompts(self) -> tuple[RegionPrompts, ...]:
        return self.source.prompts[: self.count]


def limited(source: LayoutDataset, count: int | None) -> LayoutDataset | FirstOf:
    return source if count is None else FirstOf(source, count)


def unaugmented(config: Train, trains: Any, settings: LayoutSettings) -> Any:
    """The training pictures as validation would see them."""
    source = dataset(config, TRAIN, settings.taxonomy)
    source.geometry = source.geometry.for_evaluation()
    return limited(source, len(trains))
