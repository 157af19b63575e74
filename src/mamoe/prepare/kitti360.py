"""Importing KITTI-360's pictures with their 2D instance maps, as Cityscapes' 19 classes."""

from __future__ import annotations

from functools import partial
from pathlib import Path, PurePosixPath

import numpy as np

from mamoe.data.folder.prompts import raise_problems
from mamoe.errors import DatasetError
from mamoe.prepare.annotations import counted, is_eight_bit, read_index_picture
from mamoe.prepare.cityscapes import TRAIN_IDS
from mamoe.prepare.instance_ids import label_of, panoptic_from_instance_ids
from mamoe.prepare.job import Progress
from mamoe.prepare.labelled import MANNER, Labelled, Manner, SourcePicture
from mamoe.prepare.panoptic_json import is_inside
from mamoe.prepare.sources import advice, files_of, folders_of
from mamoe.prepare.writer import STREETS, ImportSummary, write_import
from mamoe.storage.text_file import read_text
from mamoe.vocabulary.taxonomy import Taxonomy

# Cityscapes' labels and, of those KITTI-360 adds, garage as building, gate as fence, smallpole as pole; the others are
# void.
CLASS_OF = {**TRAIN_IDS, 34: 2, 35: 4, 37: 5}
_LAST_LABEL = 44
_LISTS = {split: f"2013_05_28_drive_{split}_frames.txt" for split in ("train", "val")}


def import_kitti360(
    source: Path, out: Path, progress: Progress | None = None, manner: Manner = MANNER
) -> ImportSummary:
    """Import the frames that ``data_2d_semantics/train/2013_05_28_drive_{train,val}_frames.txt`` list, or, without
    these lists, all with an instance map as ``train``.

    An id of the 16-bit ``instance`` maps is label * 1000 + number; number 0 is "not told apart": a group, of things.

    Raises:
        DatasetError: ``source`` lacks such files, annotations are missing or wrong, or ``out`` is in use.
    """
    folder = source / "data_2d_semantics" / "train"
    taxonomy = Taxonomy.load("cityscapes")
    problems: list[str] = []
    notes: list[str] = []
    splits = {}
    for split, name in _LISTS.items():
        if (folder / name).is_file():
            before = len(problems)
            splits[split] = _listed_pictures(source, folder / name, taxonomy, problems)
            if not splits[split] and len(problems) == before:
                notes.append(f"{folder / name} lists no frames: there is no split {split}.")
    if not splits:
        splits = {"train": _all_pictures(source, folder, taxonomy, problems)}
        notes.append(f"{folder} holds no {_LISTS['train']}: all frames are train; --val makes a split of whole drives.")
    raise_problems(problems, f"The KITTI-360 folder {source}")
    splits = {split: pictures for split, pictures in splits.items() if pictures}
    if not splits:
        raise DatasetError(
            f"{source} holds no KITTI-360 pictures: wanted data_2d_raw/DRIVE/image_00/data_rect/*.png and "
            f"data_2d_semantics/train/DRIVE/image_00/instance/*.png.{advice(source, 'kitti360')}"
        )
    return write_import(source, out, splits, taxonomy, STREETS, notes, progress, manner)


def _listed_pictures(source: Path, path: Path, taxonomy: Taxonomy, problems: list[str]) -> list[SourcePicture]:
    try:
        lines = read_text(path).split("\n")
    except (OSError, ValueError) as error:
        raise DatasetError(f"Cannot read {path}: {error}") from None
    found = []
    for number, line in enumerate(lines, start=1):
        words = line.split()
        if not words:
            continue
        parts = PurePosixPath(words[0]).parts
        if not all(map(is_inside, words)) or len(parts) < 5 or "data_2d_raw" not in parts:
            problems.append(f"{path}, line {number}: wanted data_2d_raw/DRIVE/CAMERA/data_rect/FRAME.png, got {line!r}")
            continue
        drive, camera, _, frame = parts[-4:]
        found += _picture(source, (drive, camera, frame), taxonomy, problems)
    return found


def _all_pictures(source: Path, folder: Path, taxonomy: Taxonomy, problems: list[str]) -> list[SourcePicture]:
    return [
        picture
        for drive in folders_of(folder)
        for camera in folders_of(drive)
        for path in files_of(camera / "instance", (".png",), [])
        for picture in _picture(source, (drive.name, camera.name, path.name), taxonomy, problems)
    ]


def _picture(source: Path, place: tuple[str, str, str], taxonomy: Taxonomy, problems: list[str]) -> list[SourcePicture]:
    drive, camera, frame = place
    picture = source / "data_2d_raw" / drive / camera / "data_rect" / frame
    annotation = source / "data_2d_semantics" / "train" / drive / camera / "instance" / frame
    missing = [path for path in (picture, annotation) if not path.is_file()]
    problems += [f"there is no file {path}" for path in missing]
    if missing:
        return []
    name = f"{drive}/{drive}_{'' if camera == 'image_00' else f'{camera}_'}{frame}"
    return [SourcePicture(name=name, picture=picture, load=partial(_load, annotation, taxonomy))]


def _load(annotation: Path, taxonomy: Taxonomy) -> Labelled:
    ids = read_index_picture(annotation)
    strangers = [i for i in np.unique(ids).tolist() if not 0 <= label_of(i) <= _LAST_LABEL or i > 0xFFFF]
    if strangers:
        raise DatasetError(
            f"{annotation} must hold 16-bit ids, labels 0 to {_LAST_LABEL} * 1000 + number; got "
            f"{counted(ids, strangers)}."
        )
    if is_eight_bit(annotation):
        raise DatasetError(f"{annotation} has 8 bits: wanted are the 16-bit maps in instance/, not those in semantic/.")
    return panoptic_from_instance_ids(ids, CLASS_OF, taxonomy, unnumbered=(0,))
