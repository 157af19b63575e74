"""Importing any folder of pictures with any maps: label pictures read by a class table, or a COCO JSON of objects."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

from mamoe.data.folder.listing import some
from mamoe.data.folder.prompts import raise_problems
from mamoe.data.reading.pictures import picture_size
from mamoe.errors import ConfigError, DatasetError
from mamoe.prepare.categories import derive_taxonomy
from mamoe.prepare.classes import ClassTable, table_of
from mamoe.prepare.coco_json import read_categories
from mamoe.prepare.fuse.instances import Masks, find_instances
from mamoe.prepare.fuse.rules import AS_ANNOTATED, fuse
from mamoe.prepare.job import Progress
from mamoe.prepare.label_maps import read_label_map
from mamoe.prepare.labelled import MANNER, Labelled, Manner, SourcePicture
from mamoe.prepare.pairing import (
    OTHER_KINDS,
    files_below,
    lacking,
    left_out,
    paired,
    pictures_by_split,
    require_apart,
    split_of,
)
from mamoe.prepare.writer import ImportSummary, write_dataset

_UNTOUCHED = "has no annotation in the JSON; all of it is void"
_HIDDEN = "has objects in the JSON without a pixel of their own: outside of it, or behind others; they were left out"


def import_folder(
    images: Path,
    out: Path,
    progress: Progress | None = None,
    manner: Manner = MANNER,
    *,
    maps: Path,
    table: ClassTable | None = None,
    crowds: bool = True,
) -> ImportSummary:
    """Import a folder of pictures; folders called train, val or test in it are splits, otherwise all is ``train``.

    Args:
        images: the pictures.
        out: folder to make.
        progress: called after every picture.
        manner: how it is written.
        maps: folder of label pictures (see :mod:`mamoe.prepare.label_maps`) with the pictures' names, or a COCO JSON.
        table: what their values mean; None: a COCO JSON's categories are the classes.
        crowds: iscrowd in a COCO JSON means a group.

    Raises:
        ConfigError: there is no class table where one is needed.
        DatasetError: folders lack files, names do not match, a file is wrong, or ``out`` is in use.
    """
    require_apart(out, [images, maps])
    notes: list[str] = []
    splits = pictures_by_split(images, notes)
    pictures = [name for names in splits.values() for name in names]
    is_json = maps.is_file() and maps.suffix.lower() == ".json"
    if table is None and not is_json:
        raise ConfigError(
            f"What do the values in {maps} mean? Name a class table or a taxonomy: --classes classes.yaml."
        )
    table = table or _derived(maps, out, notes)
    load = (
        _objects(images, maps, pictures, table, notes, crowds=crowds)
        if is_json
        else _maps(images, maps, pictures, table, notes)
    )
    return write_dataset(
        out,
        {
            split: [SourcePicture(name=split_of(name)[1], picture=images / name, load=load[name]) for name in names]
            for split, names in splits.items()
        },
        taxonomy=table.taxonomy,
        notes=notes,
        progress=progress,
        manner=manner,
        roots=(images, maps),
    )


def _derived(path: Path, out: Path, notes: list[str]) -> ClassTable:
    categories = read_categories(path)
    silent = [row.name for row in categories if row.is_thing is None]
    if silent:
        notes.append(f"{path} does not say isthing: {some(silent)} are taken for things; --classes can say otherwise.")
    problems: list[str] = []
    rows = [replace(row, is_thing=row.is_thing is not False) for row in categories]
    taxonomy = derive_taxonomy(out.resolve().name, {str(path): rows}, problems)
    raise_problems(problems, f"The import of {path}")
    if taxonomy is None:
        raise DatasetError(f"{path} has no categories to make classes of; name a class table with --classes.")
    return table_of(taxonomy)


def _maps(
    images: Path, folder: Path, pictures: Sequence[str], table: ClassTable, notes: list[str]
) -> dict[str, partial[Labelled]]:
    names, others = files_below(folder, (".png",), "label pictures, or give a COCO JSON")
    match = paired(pictures, names)
    raise_problems(lacking(images, pictures, match, folder, names), f"The folder {images}")
    notes += left_out(folder, others, OTHER_KINDS)
    notes += left_out(folder, sorted(set(names) - set(match.values())), "map(s) without a picture")
    return {name: partial(read_label_map, folder / found, table) for name, found in match.items()}


def _objects(
    images: Path, path: Path, pictures: Sequence[str], table: ClassTable, notes: list[str], *, crowds: bool
) -> dict[str, partial[Labelled]]:
    found = find_instances(path, pictures, table, crowds=crowds)
    notes += found.notes
    return {name: partial(_drawn, images / name, found.of.get(name), table) for name in pictures}


def _drawn(picture: Path, masks: Masks | None, table: ClassTable) -> Labelled:
    """The map of a picture whose objects people drew one by one; what nobody drew is void."""
    size = picture_size(picture)
    things = [] if masks is None else masks(size)
    nothing = np.full(size, table.taxonomy.void_id, dtype=np.uint8)
    try:
        drawn = fuse(nothing, things, table.taxonomy, AS_ANNOTATED)
    except ValueError as error:
        raise DatasetError(f"{picture}: {error}.") from None
    remarks = (_HIDDEN,) if drawn.dropped else () if things else (_UNTOUCHED,)
    return replace(drawn.labelled, remarks=remarks)
