"""Importing CamVid's widely used split of 480x360 pictures with 8-bit class indices."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np

from mamoe.data.folder.prompts import raise_problems
from mamoe.data.reading.pictures import SUFFIXES
from mamoe.errors import DatasetError
from mamoe.prepare.annotations import counted, read_index_picture
from mamoe.prepare.areas import panoptic_from_class_index
from mamoe.prepare.labelled import MANNER, Labelled, Manner, SourcePicture
from mamoe.prepare.pairing import left_out
from mamoe.prepare.sources import advice, files_of, litter_note
from mamoe.prepare.writer import STREETS, ImportSummary, Progress, write_import
from mamoe.vocabulary.taxonomy import Taxonomy

SPLITS = ("train", "val", "test")


def import_camvid(source: Path, out: Path, progress: Progress | None = None, manner: Manner = MANNER) -> ImportSummary:
    """Import the splits found: pictures in ``train``, class indices in ``trainannot``, and so on.

    A ``test`` without ``testannot`` is left out.

    Raises:
        DatasetError: ``source`` lacks such folders, annotations are missing or wrong, or ``out`` is in use.
    """
    taxonomy = Taxonomy.load("camvid")
    splits: dict[str, list[SourcePicture]] = {}
    problems: list[str] = []
    notes: list[str] = []
    for split in SPLITS:
        folder, annotated = source / split, source / f"{split}annot"
        notes += litter_note(source, [folder, annotated])
        pictures = files_of(folder, SUFFIXES, notes)
        if split == "test" and pictures and not annotated.is_dir():
            notes.append(f"{folder}: {len(pictures)} picture(s) were left out, for there is no {annotated}.")
        elif pictures:
            splits[split] = _annotated(pictures, annotated, taxonomy, problems, notes)
    if not splits:
        raise DatasetError(
            f"{source} holds no CamVid pictures: wanted train/*.png with class indices in trainannot/*.png, the split "
            f"that came with SegNet, not the colour-coded original.{advice(source, 'camvid')}"
        )
    raise_problems(problems, f"The CamVid folder {source}")
    return write_import(source, out, splits, taxonomy, STREETS, notes, progress, manner)


def _annotated(
    pictures: list[Path], folder: Path, taxonomy: Taxonomy, problems: list[str], notes: list[str]
) -> list[SourcePicture]:
    annotations = {path.stem: path for path in files_of(folder, (".png",), notes)}
    found = []
    for picture in pictures:
        annotation = annotations.get(picture.stem)
        if annotation is None:
            problems.append(f"{picture} has no annotation {folder / picture.stem}.png")
        else:
            load = partial(_load, annotation, taxonomy)
            found.append(SourcePicture(name=picture.name, picture=picture, load=load))
    alone = sorted(annotations.keys() - {picture.stem for picture in pictures})
    notes += left_out(folder, alone, "annotation(s) without a picture")
    return found


def _load(annotation: Path, taxonomy: Taxonomy) -> Labelled:
    class_index = read_index_picture(annotation)
    present = np.unique(class_index).tolist()
    strangers = [i for i in present if not 0 <= i <= taxonomy.void_id]
    if strangers:
        raise DatasetError(
            f"{annotation} must hold class indices 0 to {taxonomy.void_id}, got {present[0]} to {present[-1]}: "
            f"{counted(class_index, strangers)}. Unlabelled pixels are {taxonomy.void_id}."
        )
    return Labelled(panoptic=panoptic_from_class_index(class_index, taxonomy))
