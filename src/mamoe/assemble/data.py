"""The configured data sets."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from mamoe.config.targets import instantiate
from mamoe.config.train import Train
from mamoe.console import note
from mamoe.data.dataset import LayoutDataset
from mamoe.data.folder.holdout import SHARE, held_out, holds_files
from mamoe.data.folder.prompts import raise_problems
from mamoe.data.geometry.joint import Geometry
from mamoe.errors import ConfigError
from mamoe.vocabulary.layout import LayoutSettings
from mamoe.vocabulary.taxonomy import Taxonomy

TRAIN, VAL = "train", "val"


def layout_settings(config: Train) -> LayoutSettings:
    """How the map steers the model, with the data's taxonomy."""
    named = config.data.taxonomy
    taxonomy = Taxonomy.from_dict(config.taxonomy) if named is None else Taxonomy.load(named)
    options = config.layout.model_dump(exclude={"moe_levels", "blocks"})
    return LayoutSettings(taxonomy=taxonomy, strength=config.regions.strength, **options)


def dataset(config: Train, split: str, taxonomy: Taxonomy) -> LayoutDataset:
    """One split of the configured data. Where there is no split ``val``, it is held out of ``train``.

    Raises:
        DatasetError: files are missing or do not belong together; every one is listed.
        ConfigError: ``data.val_share`` is given, and there is a split ``val``.
    """
    if split not in (TRAIN, VAL) or not _is_val_held_out(config):
        return _whole(config, split, taxonomy)
    source = _whole(config, TRAIN, taxonomy)
    validates = held_out(source.keys, config.data.val_share or SHARE)
    if split == VAL:
        return source.only(validates).unaugmented(VAL)
    return source.only(sorted({*range(len(source))} - {*validates}))


def _is_val_held_out(config: Train) -> bool:
    folder, share = Path(config.data.images) / VAL, config.data.val_share
    there = holds_files(folder)
    if there and share is not None:
        raise ConfigError(
            f"data.val_share={share} holds pictures of 'train' out for validation, but {folder} has pictures for that: "
            "leave data.val_share out, or move that folder away."
        )
    return not there and holds_files(folder.parent / TRAIN)


def _whole(config: Train, split: str, taxonomy: Taxonomy) -> LayoutDataset:
    data = config.data
    geometry = Geometry(
        size=data.size,
        crop=data.crop,
        buckets=data.buckets,
        multiple=data.multiple,
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
    there = Path(data.images).is_dir()
    moved = "" if there else f" (nothing is in {data.images}; if the data set has moved: data.root=FOLDER)"
    raise_problems(list(source.files.problems), f"The split {split!r}{moved}")
    return source


def limited(source: LayoutDataset, count: int | None) -> LayoutDataset:
    return source if count is None else source.first(count)


def splits(config: Train, taxonomy: Taxonomy) -> tuple[LayoutDataset, LayoutDataset]:
    """What to train on and what to validate on."""
    trainer = config.trainer
    if trainer.overfit_images is not None:
        trains = limited(_whole(config, TRAIN, taxonomy), trainer.overfit_images)
        return trains, trains
    trains = dataset(config, TRAIN, taxonomy)
    validates = dataset(config, VAL, taxonomy)
    if _is_val_held_out(config):
        note(
            f"There is no split 'val': {len(validates)} of {len(trains) + len(validates)} pictures of 'train' are held "
            f"out for validation ({', '.join(dict.fromkeys((validates.keys[0], validates.keys[-1])))}, …); see "
            "data.val_share."
        )
    return limited(trains, trainer.limit_train_images), limited(validates, trainer.limit_val_images)


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
