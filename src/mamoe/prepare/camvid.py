"""Importing CamVid's widely used split of 480x360 pictures with 8-bit class indices."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
from jaxtyping import Int32

from mamoe.data.prompts import raise_problems
from mamoe.prepare.annotations import connected_components, read_index_picture
from mamoe.prepare.writer import ImportSummary, Progress, SourcePicture, write_dataset
from mamoe.taxonomy import Taxonomy
from mamoe.types import DatasetError, PanopticMap

SPLITS = ("train", "val", "test")
LEAST_PIXELS = 32  # smaller pieces of a thing keep their class but are no instance


def import_camvid(source: Path, out: Path, progress: Progress | None = None) -> ImportSummary:
    """Import the splits found: pictures in ``train``, class indices in ``trainannot``, and so on.

    Raises:
        DatasetError: ``source`` lacks such folders, annotations are missing or wrong, or ``out`` is in use.
    """
    taxonomy = Taxonomy.load("camvid")
    splits, problems = {}, []
    for split in SPLITS:
        pictures = sorted((source / split).glob("*.png"))
        annotations = {path: source / f"{split}annot" / path.name for path in pictures}
        problems += [f"{path} has no annotation {a}" for path, a in annotations.items() if not a.is_file()]
        if pictures:
            splits[split] = [
                SourcePicture(name=path.name, picture=path, load=partial(_load, annotation, taxonomy))
                for path, annotation in annotations.items()
            ]
    if not splits:
        raise DatasetError(f"{source} holds no CamVid pictures: wanted train/*.png with trainannot/*.png.")
    raise_problems(problems, f"The CamVid folder {source}")
    return write_dataset(out, splits, taxonomy=taxonomy, place="a street", size=(128, 256), progress=progress)


def panoptic_from_class_index(class_index: Int32[np.ndarray, "H W"], taxonomy: Taxonomy) -> PanopticMap:
    """Connected areas of a thing class become instances, every stuff class one segment; void has segment 0."""
    class_id = class_index.astype(np.uint8)
    things = [row.id for row in taxonomy.classes if row.is_thing]
    area = connected_components(class_id, things)
    large = np.bincount(area.ravel()) >= LEAST_PIXELS
    large[0] = False
    number = np.where(large, np.cumsum(large), 0).astype(np.int32)
    segment_id = number[area]
    stuff = [row.id for row in taxonomy.classes if not row.is_thing and (class_id == row.id).any()]
    for segment, stuff_id in enumerate(stuff, start=int(large.sum()) + 1):
        segment_id[class_id == stuff_id] = segment
    return PanopticMap(segment_id=segment_id, class_id=class_id)


def _load(annotation: Path, taxonomy: Taxonomy) -> PanopticMap:
    class_index = read_index_picture(annotation)
    least, most = int(class_index.min()), int(class_index.max())
    if least < 0 or most > taxonomy.void_id:
        raise DatasetError(f"{annotation} must hold class indices 0 to {taxonomy.void_id}, got {least} to {most}.")
    return panoptic_from_class_index(class_index, taxonomy)
