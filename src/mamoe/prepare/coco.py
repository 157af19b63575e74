"""Importing the COCO panoptic format: a 3-channel PNG of segment ids and a JSON that names their categories."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from mamoe.data.folder.listing import listed, some
from mamoe.data.folder.prompts import raise_problems
from mamoe.data.reading.pictures import SUFFIXES
from mamoe.errors import DatasetError
from mamoe.prepare.categories import both_lists, derive_taxonomy, match_categories
from mamoe.prepare.labelled import MANNER, Manner, SourcePicture
from mamoe.prepare.pairing import left_out
from mamoe.prepare.panoptic_json import PanopticTable, is_inside, read_table, table_pictures, unlabelled_images
from mamoe.prepare.sources import advice, litter_note
from mamoe.prepare.writer import PHOTOGRAPHS, ImportSummary, Progress, write_import
from mamoe.vocabulary.taxonomy import Taxonomy, shipped_taxonomies

OFFICIAL = "coco_panoptic"


def import_coco(
    source: Path,
    out: Path,
    progress: Progress | None = None,
    manner: Manner = MANNER,
    *,
    taxonomy: str = OFFICIAL,
    derive: bool = False,
) -> ImportSummary:
    """Import every ``panoptic_NAME.json`` that has a folder ``panoptic_NAME`` beside it.

    They lie in ``source`` or ``source/annotations``, their pictures in ``source/NAME`` or ``source/input_images``.
    The splits are called train and val for ``train2017`` and ``val2017``, otherwise NAME.

    Args:
        source: the folder.
        out: folder to make.
        progress: called after every picture.
        manner: how it is written.
        taxonomy: name or YAML file of the classes that the JSON's categories are, by name.
        derive: make a taxonomy of the JSON's categories instead.

    Raises:
        ConfigError: there is no such taxonomy.
        DatasetError: no such files, entries or categories that do not fit, or ``out`` is in use.
    """
    paths, alone = _find_tables(source)
    if not paths:
        raise DatasetError(
            f"{source} holds no COCO panoptic data: wanted panoptic_NAME.json beside panoptic_NAME/, in it or in "
            f"{source / 'annotations'}.{_what_is_missing(source, alone)}"
        )
    notes = [f"{path}: left out, for there is no folder {path.with_suffix('')}." for path in alone]
    problems: list[str] = []
    tables: dict[str, PanopticTable] = {}
    for path in paths:
        name = path.stem.removeprefix("panoptic_")
        split = next((usual for usual in ("train", "val") if name.startswith(usual)), name)
        if split in tables:
            problems.append(f"{path}: the split {split!r} is already taken by {tables[split].path}; keep one of them")
        tables[split] = read_table(path, problems)
    raise_problems(problems, f"The COCO folder {source}")

    classes = _derived(source, out, list(tables.values())) if derive else Taxonomy.load(taxonomy)
    splits = {split: _pictures(source, table, classes, problems, notes) for split, table in tables.items()}
    raise_problems(problems, f"The COCO folder {source}")
    notes += litter_note(source, [source, source / "annotations", *(table.folder for table in tables.values())])
    if "train" not in splits:
        notes.append(
            f"Training needs a split called train, and there is {some(list(splits))}: name the JSON file and both "
            "folders accordingly (panoptic_train.json, panoptic_train/, train/) and import again."
        )
    return write_import(source, out, splits, classes, PHOTOGRAPHS, notes, progress, manner)


def _find_tables(source: Path) -> tuple[list[Path], list[Path]]:
    """The JSON files with a folder of PNGs beside them, and those without one."""
    found = sorted([*source.glob("panoptic_?*.json"), *source.glob("annotations/panoptic_?*.json")])
    return [p for p in found if p.with_suffix("").is_dir()], [p for p in found if not p.with_suffix("").is_dir()]


def _what_is_missing(source: Path, alone: Sequence[Path]) -> str:
    if alone:
        return f" {some([str(path) for path in alone])} has no folder of that name beside it; are its PNGs in a .zip?"
    if elsewhere := advice(source, "coco"):
        return elsewhere
    others = [path.name for folder in (source, source / "annotations") for path in sorted(folder.glob("[!.]*.json"))]
    return f" {some(others)} is there; is it of COCO's detection, caption or stuff format?" if others else ""


def _derived(source: Path, out: Path, tables: Sequence[PanopticTable]) -> Taxonomy:
    problems = [f"{t.path} has no categories to make a taxonomy of" for t in tables if not t.categories]
    categories = {str(table.path): table.categories or () for table in tables}
    classes = derive_taxonomy(out.resolve().name, categories, problems)
    raise_problems(problems, f"The COCO folder {source}")
    assert classes is not None  # otherwise there were problems
    return classes


def _pictures(
    source: Path, table: PanopticTable, taxonomy: Taxonomy, problems: list[str], notes: list[str]
) -> list[SourcePicture]:
    class_of = _class_of(table, taxonomy, problems, notes)
    name = table.path.stem.removeprefix("panoptic_")
    folders = [folder for folder in (source / name, source / "input_images") if folder.is_dir()]
    if not folders:
        problems.append(f"{table.path}: wanted its pictures in {source / name} or {source / 'input_images'}")
    if class_of is None or not folders:
        return []

    def located(file_name: str) -> Path:
        places = (*folders, source)  # relative to the last where the folder is part of the name
        return next((place / file_name for place in places if (place / file_name).is_file()), folders[0] / file_name)

    def picture_of(key: str, file_name: str) -> tuple[str, Path] | None:
        path = located(file_name)
        if not path.is_file():
            problems.append(f"{table.path}, image_id {key!r}: there is no file {path}")
        return file_name, path

    notes += left_out(table.path, unlabelled_images(table), "image(s) without annotation")
    if folders[0].name == name:
        notes += left_out(folders[0], _unlisted(folders[0], table, located), "picture(s) not in images")
    return table_pictures(table, class_of, taxonomy, picture_of, problems)


def _unlisted(folder: Path, table: PanopticTable, located: Callable[[str], Path]) -> list[str]:
    known = {located(name) for name in table.images.values() if is_inside(name)}
    return [name for name in listed(folder, SUFFIXES, recursive=True).names if folder / name not in known]


def _class_of(table: PanopticTable, taxonomy: Taxonomy, problems: list[str], notes: list[str]) -> dict[int, int] | None:
    if table.categories is None:
        notes.append(f"{table.path} has no categories: its ids were taken for those of taxonomy {taxonomy.name!r}.")
        return {row.id: row.id for row in taxonomy.classes}
    class_of, differences = match_categories(table.categories, table.used, taxonomy)
    if differences:
        fitting = [name for name in shipped_taxonomies() if _fits(table, Taxonomy.load(name))]
        known = f"It fits {' and '.join(f'--taxonomy {name}' for name in fitting)}. " if fitting else ""
        problems.append(
            f"{table.path}: {both_lists(table.categories, taxonomy, differences)} {known}--derive-taxonomy makes a "
            "taxonomy of the file's categories; --taxonomy NAME|PATH names another one."
        )
        return None
    unknown = [row.name for row in table.categories if row.id not in class_of]
    if unknown:
        notes.append(f"{table.path}: {len(unknown)} categories without a segment have no class: {some(unknown)}.")
    return class_of


def _fits(table: PanopticTable, taxonomy: Taxonomy) -> bool:
    return not match_categories(table.categories or (), table.used, taxonomy)[1]
