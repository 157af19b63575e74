"""Importing BDD100K's panoptic bitmasks."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from mamoe.data.folder.prompts import raise_problems
from mamoe.data.reading.pictures import SUFFIXES
from mamoe.errors import DatasetError
from mamoe.prepare.annotations import opened_annotation
from mamoe.prepare.job import Progress
from mamoe.prepare.labelled import MANNER, Labelled, Manner, SourcePicture
from mamoe.prepare.pairing import left_out
from mamoe.prepare.sources import advice, files_of, litter_note
from mamoe.prepare.writer import STREETS, ImportSummary, write_import
from mamoe.vocabulary.panoptic import PanopticMap
from mamoe.vocabulary.taxonomy import Taxonomy

SPLITS = ("train", "val")  # the test split's labels are not public
_IGNORED, _CROWD = 1, 2  # bits of the second channel
_VOIDED = "has regions marked as ignored; they are void"


def import_bdd100k(source: Path, out: Path, progress: Progress | None = None, manner: Manner = MANNER) -> ImportSummary:
    """Import ``images/10k/SPLIT`` with ``labels/pan_seg/bitmasks/SPLIT``.

    A bitmask is RGBA: R the class (0: unlabelled, void), G flags, B * 256 + A the number of the instance. Regions
    flagged as ignored become void, crowds groups.

    Raises:
        DatasetError: ``source`` lacks such folders, annotations are missing or wrong, or ``out`` is in use.
    """
    taxonomy = Taxonomy.load("bdd100k")
    splits: dict[str, list[SourcePicture]] = {}
    problems: list[str] = []
    notes: list[str] = []
    for split in SPLITS:
        folder, masks = source / "images" / "10k" / split, source / "labels" / "pan_seg" / "bitmasks" / split
        notes += litter_note(source, [folder, masks])
        pictures = files_of(folder, SUFFIXES, notes)
        if not pictures:
            continue
        annotations = {path.stem: path for path in files_of(masks, (".png",), notes)}
        problems += [f"{p} has no annotation {masks / p.stem}.png" for p in pictures if p.stem not in annotations]
        alone = sorted(annotations.keys() - {picture.stem for picture in pictures})
        notes += left_out(masks, alone, "annotation(s) without a picture")
        splits[split] = [
            SourcePicture(name=p.name, picture=p, load=partial(_load, annotations[p.stem], taxonomy))
            for p in pictures
            if p.stem in annotations
        ]
    if not splits:
        raise DatasetError(
            f"{source} holds no BDD100K pictures: wanted images/10k/train/*.jpg and "
            f"labels/pan_seg/bitmasks/train/*.png.{advice(source, 'bdd100k')}"
        )
    raise_problems(problems, f"The BDD100K folder {source}")
    return write_import(source, out, splits, taxonomy, STREETS, notes, progress, manner)


def panoptic_from_bitmask(rgba: UInt8[np.ndarray, "H W 4"], taxonomy: Taxonomy) -> Labelled:
    """Every instance of a thing is a segment, and so are each stuff class and the crowds of each thing class.

    Raises:
        ValueError: the taxonomy does not know a class.
    """
    # One number a pixel: class, flags and instance; few of them are in a picture.
    packed = rgba.astype(np.uint32) @ np.array([1 << 24, 1 << 16, 1 << 8, 1], dtype=np.uint32)
    present, place = np.unique(packed, return_inverse=True)
    known = {row.id for row in taxonomy.classes} | {taxonomy.void_id}
    class_id = np.full(len(present), taxonomy.void_id, dtype=np.uint8)
    segment_id = np.zeros(len(present), dtype=np.int32)
    segments: dict[tuple[int, int | None], int] = {}
    ignored = False
    for i, value in enumerate(present.tolist()):
        klass, flags, instance = value >> 24, value >> 16 & 0xFF, value & 0xFFFF
        if klass not in known:
            raise ValueError(f"there is no class {klass}; the classes are 0 to {max(known)}")
        if klass == taxonomy.void_id or flags & _IGNORED:
            ignored |= klass != taxonomy.void_id
            continue
        single = taxonomy.is_thing(klass) and not flags & _CROWD
        class_id[i] = klass
        segment_id[i] = segments.setdefault((klass, instance if single else None), len(segments) + 1)
    place = place.reshape(packed.shape)
    return Labelled(
        panoptic=PanopticMap(segment_id=segment_id[place], class_id=class_id[place]),
        groups=frozenset(s for (klass, one), s in segments.items() if one is None and taxonomy.is_thing(klass)),
        remarks=(_VOIDED,) if ignored else (),
    )


def _load(path: Path, taxonomy: Taxonomy) -> Labelled:
    with opened_annotation(path) as picture:
        if picture.mode != "RGBA":
            raise DatasetError(
                f"{path} must be a PNG of four channels (class, flags, instance), got {picture.mode}; the bitmasks are "
                "in labels/pan_seg/bitmasks, not in colormaps."
            )
        return panoptic_from_bitmask(np.array(picture), taxonomy)
