"""Importing Cityscapes from its official folders ``leftImg8bit`` and ``gtFine``."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
from jaxtyping import Int32

from mamoe.data.prompts import raise_problems
from mamoe.prepare.annotations import read_index_picture
from mamoe.prepare.writer import ImportSummary, Progress, SourcePicture, write_dataset
from mamoe.taxonomy import Taxonomy
from mamoe.types import DatasetError, PanopticMap

SPLITS = ("train", "val")  # the test split's labels are not public
# Official label id -> train id; every other label is void.
TRAIN_IDS = {
    **{7: 0, 8: 1, 11: 2, 12: 3, 13: 4, 17: 5, 19: 6, 20: 7, 21: 8, 22: 9},
    **{23: 10, 24: 11, 25: 12, 26: 13, 27: 14, 28: 15, 31: 16, 32: 17, 33: 18},
}
VOID = 19
_PICTURE, _INSTANCES = "_leftImg8bit.png", "_gtFine_instanceIds.png"


def import_cityscapes(source: Path, out: Path, progress: Progress | None = None) -> ImportSummary:
    """Import the train and val pictures with fine annotations.

    Raises:
        DatasetError: ``source`` lacks the official folders, annotations are missing or wrong, or ``out`` is in use.
    """
    splits, problems = {}, []
    for split in SPLITS:
        pictures = sorted((source / "leftImg8bit" / split).glob(f"*/*{_PICTURE}"))
        if pictures:
            splits[split] = [_source_picture(source, split, path, problems) for path in pictures]
    if not splits:
        raise DatasetError(f"{source} holds no Cityscapes pictures: wanted leftImg8bit/train/CITY/*{_PICTURE}.")
    raise_problems(problems, f"The Cityscapes folder {source}")
    taxonomy = Taxonomy.load("cityscapes")
    return write_dataset(out, splits, taxonomy=taxonomy, place="a street", size=(128, 256), progress=progress)


def panoptic_from_instance_ids(instance_id: Int32[np.ndarray, "H W"]) -> PanopticMap:
    """The map of a ``gtFine_instanceIds`` picture: label*1000 + number for single things, else the label itself.

    Every single thing becomes a segment, and so does all of a stuff class and every unseparated group of a thing
    class. Void has segment 0.
    """
    present = np.flatnonzero(np.bincount(instance_id.ravel(), minlength=1))
    class_of = np.full(present[-1] + 1, VOID, dtype=np.uint8)
    segment_of = np.zeros(present[-1] + 1, dtype=np.int32)
    known = [i for i in present.tolist() if _label(i) in TRAIN_IDS]
    class_of[known] = [TRAIN_IDS[_label(i)] for i in known]
    segment_of[known] = np.arange(1, len(known) + 1)
    return PanopticMap(segment_id=segment_of[instance_id], class_id=class_of[instance_id])


def _label(instance_id: int) -> int:
    return instance_id if instance_id < 1000 else instance_id // 1000


def _source_picture(source: Path, split: str, picture: Path, problems: list[str]) -> SourcePicture:
    stem = picture.name.removesuffix(_PICTURE)
    annotation = source / "gtFine" / split / picture.parent.name / f"{stem}{_INSTANCES}"
    if not annotation.is_file():
        problems.append(f"{picture} has no annotation {annotation}")
    return SourcePicture(name=f"{stem}.png", picture=picture, load=partial(_load, annotation))


def _load(annotation: Path) -> PanopticMap:
    instance_id = read_index_picture(annotation)
    if instance_id.min() < 0 or instance_id.max() > 0xFFFF:
        raise DatasetError(f"{annotation} must hold 16-bit instance ids, got up to {instance_id.max()}.")
    return panoptic_from_instance_ids(instance_id)
