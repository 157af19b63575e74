"""Importing Cityscapes from its official folders ``leftImg8bit`` and ``gtFine``."""

from __future__ import annotations

from collections import defaultdict
from functools import partial
from pathlib import Path

import numpy as np

from mamoe.data.folder.listing import some
from mamoe.data.folder.prompts import raise_problems
from mamoe.data.reading.pictures import SUFFIXES
from mamoe.errors import DatasetError
from mamoe.prepare.annotations import counted, is_eight_bit, read_index_picture
from mamoe.prepare.categories import both_lists, match_categories
from mamoe.prepare.instance_ids import label_of, panoptic_from_instance_ids
from mamoe.prepare.labelled import MANNER, Labelled, Manner, SourcePicture
from mamoe.prepare.pairing import left_out
from mamoe.prepare.panoptic_json import read_table, table_pictures
from mamoe.prepare.sources import advice, files_of, folders_of, litter_note
from mamoe.prepare.writer import STREETS, ImportSummary, Progress, write_import
from mamoe.vocabulary.taxonomy import Taxonomy

SPLITS = ("train", "val")  # the test split's labels are not public
# Official label id -> train id; every other label is void.
TRAIN_IDS = {
    **{7: 0, 8: 1, 11: 2, 12: 3, 13: 4, 17: 5, 19: 6, 20: 7, 21: 8, 22: 9},
    **{23: 10, 24: 11, 25: 12, 26: 13, 27: 14, 28: 15, 31: 16, 32: 17, 33: 18},
}
_LAST_LABEL = 33
_THINGS = range(24, 34)  # labels with instances
_PICTURE, _INSTANCES = "_leftImg8bit", "_gtFine_instanceIds"
_OTHER_LABELS = ("_labelIds.png", "_labelTrainIds.png", "_color.png", "_instanceTrainIds.png", "_polygons.json")


def import_cityscapes(
    source: Path, out: Path, progress: Progress | None = None, manner: Manner = MANNER
) -> ImportSummary:
    """Import the train and val pictures with fine annotations.

    A split without any ``*_gtFine_instanceIds.png`` is read from ``gtFine/cityscapes_panoptic_SPLIT.json`` and the
    folder of that name, which cityscapesScripts makes.

    Raises:
        DatasetError: ``source`` lacks the official folders, annotations are missing or wrong, or ``out`` is in use.
    """
    taxonomy = Taxonomy.load("cityscapes")
    splits, problems, notes = {}, [], []
    for split in SPLITS:
        pictures = _pictures(source, split, notes)
        if pictures:
            splits[split] = _annotated(source, split, pictures, taxonomy, problems, notes)
    if not splits:
        raise DatasetError(
            f"{source} holds no Cityscapes pictures: wanted leftImg8bit/train/CITY/*{_PICTURE}.png."
            f"{advice(source, 'cityscapes')}"
        )
    left_out = [place.name for place in folders_of(source / "leftImg8bit") if place.name not in SPLITS]
    if left_out:
        notes.append(f"leftImg8bit/{some(left_out)}: left out; train and val have public fine labels.")
    raise_problems(problems, f"The Cityscapes folder {source}")
    return write_import(source, out, splits, taxonomy, STREETS, notes, progress, manner)


def _pictures(source: Path, split: str, notes: list[str]) -> list[Path]:
    cities = folders_of(source / "leftImg8bit" / split)
    places = [place / split / city.name for city in cities for place in (source / "leftImg8bit", source / "gtFine")]
    notes += litter_note(source, [source / "leftImg8bit" / split, source / "gtFine" / split, *places])
    found = [path for city in cities for path in files_of(city, SUFFIXES, notes)]
    others = [path.name for path in found if not path.stem.endswith(_PICTURE)]
    notes += left_out(f"leftImg8bit/{split}", others, f"file(s) not named *{_PICTURE}")
    return [path for path in found if path.stem.endswith(_PICTURE)]


def _annotated(
    source: Path, split: str, pictures: list[Path], taxonomy: Taxonomy, problems: list[str], notes: list[str]
) -> list[SourcePicture]:
    folder = source / "gtFine" / split
    files = folder.glob(f"*/[!.]*{_INSTANCES}.*")
    instances = {path.with_suffix(path.suffix.lower()).relative_to(folder).as_posix(): path for path in files}
    tables = [place / f"cityscapes_panoptic_{split}.json" for place in (source / "gtFine", source)]
    tables += [path.with_name(f"{path.stem}_trainId.json") for path in tables]
    table = next((path for path in tables if path.is_file() and path.with_suffix("").is_dir()), None)
    if not instances and table is not None:
        return _from_table(table, pictures, taxonomy, problems, notes)
    if not instances:
        problems += _what_is_there(folder)
    found = []
    for picture in pictures:
        wanted = folder / picture.parent.name / f"{_stem(picture)}{_INSTANCES}.png"
        annotation = instances.pop(wanted.relative_to(folder).as_posix(), None)
        if annotation is None:
            problems.append(f"{picture} has no annotation {wanted}")
        found.append(
            SourcePicture(name=_name(picture), picture=picture, load=partial(_load, annotation or wanted, taxonomy))
        )
    notes += left_out(folder, list(instances), "annotation(s) without a picture")
    return found


def _from_table(
    path: Path, pictures: list[Path], taxonomy: Taxonomy, problems: list[str], notes: list[str]
) -> list[SourcePicture]:
    table = read_table(path, problems)
    by_stem = defaultdict(list)
    for picture in pictures:
        by_stem[_stem(picture)].append(picture)

    def picture_of(key: str, name: str) -> tuple[str, Path] | None:
        stem = Path(name).stem.removesuffix(_PICTURE).removesuffix("_gtFine")
        found = by_stem.pop(stem, [])
        if len(found) != 1:
            listed = some([str(picture) for picture in found]) or "none"
            problems.append(f"{path}, image_id {key!r}: wanted one picture */{stem}{_PICTURE}.png, got {listed}")
            return None
        return _name(found[0]), found[0]

    class_of, differences = match_categories(table.categories or (), table.used, taxonomy)
    if differences or not table.categories:
        problems.append(
            f"{path}: {both_lists(table.categories or (), taxonomy, differences)} This import is for Cityscapes' own "
            "classes; for others name the files as COCO's and use mamoe prepare coco."
        )
        return []
    found = table_pictures(table, class_of, taxonomy, picture_of, problems)
    problems += [f"{picture} has no annotation in {path}" for same in by_stem.values() for picture in same]
    notes.append(f"{path.parent} has no *{_INSTANCES}.png for these pictures; read {path.name} instead.")
    return found


def _name(picture: Path) -> str:
    return f"{picture.parent.name}/{_stem(picture)}{picture.suffix}"


def _stem(picture: Path) -> str:
    return picture.stem.removesuffix(_PICTURE)


def _what_is_there(folder: Path) -> list[str]:
    kinds = [kind for kind in _OTHER_LABELS if next(folder.glob(f"*/[!.]*{kind}"), None)]
    if not kinds:
        return []
    return [
        f"{folder} holds *{', *'.join(kinds)}, but single things are told apart in *{_INSTANCES}.png alone: it is in "
        "gtFine_trainvaltest.zip, and cityscapesScripts makes it from the polygons"
    ]


def _load(annotation: Path, taxonomy: Taxonomy) -> Labelled:
    instance_id = read_index_picture(annotation)
    present = np.unique(instance_id).tolist()
    strangers = [i for i in present if not 0 <= i <= 0xFFFF or not 0 <= label_of(i) <= _LAST_LABEL]
    if strangers:
        hint = "; 255 is void in *_labelTrainIds.png, which does not serve" if 255 in strangers else ""
        raise DatasetError(
            f"{annotation} must hold 16-bit instance ids: labels 0 to {_LAST_LABEL}, or label * 1000 + number; got "
            f"{counted(instance_id, strangers)}{hint}."
        )
    things = [i for i in present if i in _THINGS]
    if things and is_eight_bit(annotation):
        raise DatasetError(
            f"{annotation} has 8 bits, which cannot hold the instances of labels {things}: official files have 16. "
            f"Is it a *_labelIds.png? Wanted is *{_INSTANCES}.png."
        )
    return panoptic_from_instance_ids(instance_id, TRAIN_IDS, taxonomy)
