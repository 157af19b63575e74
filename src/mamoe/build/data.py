"""The configured data sets."""

from __future__ import annotations

from collections import Counter

from mamoe.conditioning.settings import LayoutSettings
from mamoe.config import Train
from mamoe.data.dataset import LayoutDataset
from mamoe.data.prompts import raise_problems
from mamoe.data.transforms import Geometry
from mamoe.errors import ConfigError
from mamoe.targets import instantiate
from mamoe.taxonomy import Taxonomy

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
        buckets=data.buckets,
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
        condition=data.condition,
        recursive=data.recursive,
    )
    raise_problems(list(source.files.problems), f"The split {split!r}")
    return source


def limited(source: LayoutDataset, count: int | None) -> LayoutDataset:
    return source if count is None else source.first(count)


def splits(config: Train, taxonomy: Taxonomy) -> tuple[LayoutDataset, LayoutDataset]:
    """What to train on and what to validate on."""
    trainer = config.trainer
    trains = dataset(config, TRAIN, taxonomy)
    if trainer.overfit_images is not None:
        trains = limited(trains, trainer.overfit_images)
        return trains, trains
    validates = limited(dataset(config, VAL, taxonomy), trainer.limit_val_images)
    return limited(trains, trainer.limit_train_images), validates


def check_batches(config: Train, trains: LayoutDataset) -> None:
    """Refuse training pictures of sizes that cannot stand in one batch; headers alone are read.

    Raises:
        ConfigError: lists the sizes.
        DatasetError: pictures cannot be read.
    """
    data = config.data
    if data.batch_size == 1 or data.buckets or data.crop is not None or not isinstance(data.size, int):
        return
    sizes = Counter(trains.sizes())
    if len(sizes) > 1:
        listed = ", ".join(f"{height}x{width} ({n} pictures)" for (height, width), n in sizes.most_common(4))
        more = f" and {len(sizes) - 4} more" if len(sizes) > 4 else ""
        raise ConfigError(
            f"With data.size={data.size} (the short side) and data.crop=null the training pictures become {listed}"
            f"{more}, which cannot stand in one batch. Set data.buckets=true to squeeze every picture a little to the "
            "nearest of a few sizes, data.crop=random to cut a square out of each, data.size=[HEIGHT,WIDTH] for one "
            "size, or data.batch_size=1."
        )


def buckets_of(config: Train, source: LayoutDataset) -> list[int] | None:
    """The bucket of every picture, if there are any: pictures of one size have one number."""
    if not config.data.buckets:
        return None
    sizes = source.sizes()
    number = {size: n for n, size in enumerate(sorted(set(sizes)))}
    return [number[size] for size in sizes]
