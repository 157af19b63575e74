"""Importing ADE20K's scene parsing benchmark: 150 classes, with the instances of the 100 that are countable."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
from jaxtyping import Int32, UInt8

from mamoe.data.folder.prompts import raise_problems
from mamoe.data.reading.pictures import SUFFIXES
from mamoe.errors import DatasetError
from mamoe.prepare.annotations import counted, read_colour_ids, read_index_picture
from mamoe.prepare.job import Progress
from mamoe.prepare.labelled import MANNER, Labelled, Manner, SourcePicture
from mamoe.prepare.pairing import left_out
from mamoe.prepare.sources import advice, files_of, litter_note
from mamoe.prepare.writer import PHOTOGRAPHS, ImportSummary, write_import
from mamoe.vocabulary.panoptic import PanopticMap
from mamoe.vocabulary.taxonomy import Taxonomy

SPLITS = {"training": "train", "validation": "val"}
_LEFT_VOID = "has pixels of things that no instance covers; they are void, as in the official panoptic maps"


def import_ade20k(source: Path, out: Path, progress: Progress | None = None, manner: Manner = MANNER) -> ImportSummary:
    """Import ``images/``, ``annotations/`` (0: void, 1 to 150) and ``annotations_instance/`` (R: the class among the
    100 things, G: number of the instance, 0: none), each with ``training`` and ``validation``.

    Stuff is taken from the first, things from the second, which lie on top. Thing pixels without an instance are void.

    Raises:
        DatasetError: ``source`` lacks such folders, annotations are missing or wrong, or ``out`` is in use.
    """
    taxonomy = Taxonomy.load("ade20k")
    source = source if (source / "images").is_dir() else source / "ADEChallengeData2016"
    splits: dict[str, list[SourcePicture]] = {}
    problems: list[str] = []
    notes: list[str] = []
    for folder, split in SPLITS.items():
        pictures = files_of(source / "images" / folder, SUFFIXES, notes)
        kinds = [source / kind / folder for kind in ("annotations", "annotations_instance")]
        notes += litter_note(source, [source / "images" / folder, *kinds])
        if not pictures:
            continue
        if not kinds[1].is_dir():
            problems.append(
                f"there is no {kinds[1]}: it comes with the benchmark's instances (annotations_instance.tar). "
                f"Without it `mamoe prepare import folder {pictures[0].parent} OUT --maps {kinds[0]} --classes ade20k` "
                "takes connected areas for things"
            )
            continue
        found = []
        annotations = [{path.stem: path for path in files_of(kind, (".png",), notes)} for kind in kinds]
        for picture in pictures:
            pair = [
                named.get(picture.stem, kind / f"{picture.stem}.png")
                for kind, named in zip(kinds, annotations, strict=True)
            ]
            problems += [
                f"{picture} has no annotation {path}"
                for path, named in zip(pair, annotations, strict=True)
                if picture.stem not in named
            ]
            found.append(SourcePicture(name=picture.name, picture=picture, load=partial(_load, *pair, taxonomy)))
        for kind, named in zip(kinds, annotations, strict=True):
            alone = sorted(named.keys() - {picture.stem for picture in pictures})
            notes += left_out(kind, alone, "annotation(s) without a picture")
        splits[split] = found
    raise_problems(problems, f"The ADE20K folder {source}")
    if not splits:
        raise DatasetError(
            f"{source} holds no ADE20K pictures: wanted images/training/*.jpg of ADEChallengeData2016. The full data "
            f"set (ADE20K_2021) has thousands of classes and is not read.{advice(source, 'ade20k')}"
        )
    return write_import(source, out, splits, taxonomy, PHOTOGRAPHS, notes, progress, manner)


def panoptic_from_parts(
    semantic: Int32[np.ndarray, "H W"], instances: UInt8[np.ndarray, "H W 3"], taxonomy: Taxonomy
) -> Labelled:
    """Stuff, a segment a class, with the instances on top.

    Args:
        semantic: 0 void, 1 to 150 the class.
        instances: R the class among the things in their order, G the number of the instance, from 1.
        taxonomy: ADE20K's.

    Raises:
        ValueError: an instance has several classes, or one that is not there.
    """
    things = np.array([row.id for row in taxonomy.classes if row.is_thing], dtype=np.uint8)
    stuff = [row.id for row in taxonomy.classes if not row.is_thing and (semantic == row.id).any()]
    class_id = np.where(np.isin(semantic, stuff), semantic, taxonomy.void_id).astype(np.uint8)
    number = np.zeros(256, dtype=np.int32)
    number[stuff] = np.arange(1, len(stuff) + 1)
    segment_id = number[class_id]
    one = instances[..., 1]
    for segment, instance in enumerate(np.unique(one[one > 0]).tolist(), start=len(stuff) + 1):
        mask = one == instance
        kinds = np.unique(instances[..., 0][mask]).tolist()
        if len(kinds) != 1 or not 1 <= kinds[0] <= len(things):
            raise ValueError(f"instance {instance} has the classes {kinds}; wanted one of 1 to {len(things)}")
        segment_id[mask], class_id[mask] = segment, things[kinds[0] - 1]
    left = np.isin(semantic, things) & (one == 0)
    return Labelled(
        panoptic=PanopticMap(segment_id=segment_id, class_id=class_id), remarks=(_LEFT_VOID,) if left.any() else ()
    )


def _load(semantic: Path, instances: Path, taxonomy: Taxonomy) -> Labelled:
    classes, colours = read_index_picture(semantic), read_colour_ids(instances)
    strangers = [i for i in np.unique(classes).tolist() if not 0 <= i <= len(taxonomy.classes)]
    if strangers:
        raise DatasetError(f"{semantic} must hold classes 0 to 150, got {counted(classes, strangers)}.")
    if classes.shape != colours.shape[:2]:
        raise DatasetError(f"{instances} has (height, width) {colours.shape[:2]}, but {semantic} has {classes.shape}.")
    try:
        return panoptic_from_parts(classes, colours, taxonomy)
    except ValueError as error:
        raise DatasetError(f"{instances}: {error}.") from None
