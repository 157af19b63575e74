"""Importing Mapillary Vistas' panoptic maps, of version 2.0 or 1.2, with the classes its JSON names."""

from __future__ import annotations

from pathlib import Path

from mamoe.data.folder.prompts import raise_problems
from mamoe.errors import DatasetError
from mamoe.prepare.categories import Category, derive_taxonomy, plain_name
from mamoe.prepare.job import Progress
from mamoe.prepare.labelled import MANNER, Manner, SourcePicture
from mamoe.prepare.pairing import left_out
from mamoe.prepare.panoptic_json import PanopticTable, read_table, table_pictures, unlabelled_images
from mamoe.prepare.sources import advice
from mamoe.prepare.writer import STREETS, ImportSummary, write_import

SPLITS = {"training": "train", "validation": "val"}
_TABLES = ("v2.0/panoptic/panoptic_2020.json", "v1.2/panoptic/panoptic_2018.json", "panoptic/panoptic_2018.json")
_VOID = "unlabeled"


def import_mapillary(
    source: Path, out: Path, progress: Progress | None = None, manner: Manner = MANNER
) -> ImportSummary:
    """Import ``training`` and ``validation``: ``images/`` with ``v2.0/panoptic/panoptic_2020.json`` and the PNGs beside
    it, else version 1.2.

    Segments with ``iscrowd`` are groups; pixels of no segment, and the category "Unlabeled", are void.

    Raises:
        DatasetError: ``source`` lacks such files, entries do not fit, or ``out`` is in use.
    """
    problems: list[str] = []
    notes: list[str] = []
    tables: dict[str, PanopticTable] = {}
    for folder, split in SPLITS.items():
        path = next((source / folder / name for name in _TABLES if (source / folder / name).is_file()), None)
        if path is not None:
            tables[split] = read_table(path, problems)
            notes.append(f"{split}: read {path}.")
    if not tables:
        raise DatasetError(
            f"{source} holds no Mapillary Vistas data: wanted training/{_TABLES[0]} and training/images/*.jpg."
            f"{advice(source, 'mapillary')}"
        )
    lists = {str(table.path): table.categories or () for table in tables.values()}
    problems += [f"{path} has no categories" for path, rows in lists.items() if not rows]
    meant = {path: [row for row in rows if not _is_void(row)] for path, rows in lists.items()}
    taxonomy = derive_taxonomy("mapillary_vistas", meant, problems)
    raise_problems(problems, f"The Mapillary Vistas folder {source}")
    assert taxonomy is not None  # otherwise there were problems
    ids = {row.name: row.id for row in taxonomy.classes}
    splits: dict[str, list[SourcePicture]] = {}
    for split, table in tables.items():
        class_of = {row.id: ids.get(row.name, taxonomy.void_id) for row in table.categories or ()}
        images = source / next(folder for folder, name in SPLITS.items() if name == split) / "images"

        def picture_of(key: str, name: str, images: Path = images, table: PanopticTable = table) -> tuple[str, Path]:
            if not (images / name).is_file():
                problems.append(f"{table.path}, image_id {key!r}: there is no file {images / name}")
            return name, images / name

        notes += left_out(table.path, unlabelled_images(table), "image(s) without annotation")
        splits[split] = table_pictures(table, class_of, taxonomy, picture_of, problems)
    raise_problems(problems, f"The Mapillary Vistas folder {source}")
    return write_import(source, out, splits, taxonomy, STREETS, notes, progress, manner)


def _is_void(category: Category) -> bool:
    return plain_name(category.name.split("--")[-1]) == _VOID
