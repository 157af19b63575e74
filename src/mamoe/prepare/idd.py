"""Importing IDD's segmentation data: polygons a picture, brought to the 26 classes of level 3."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from mamoe.data.folder.listing import some
from mamoe.data.folder.prompts import raise_problems
from mamoe.data.reading.pictures import SUFFIXES, picture_size
from mamoe.errors import DatasetError
from mamoe.prepare.instance_ids import panoptic_from_instance_ids
from mamoe.prepare.job import Progress
from mamoe.prepare.labelled import MANNER, Labelled, Manner, SourcePicture
from mamoe.prepare.sources import advice, files_of, folders_of, litter_note
from mamoe.prepare.writer import STREETS, ImportSummary, write_import
from mamoe.storage.text_file import read_json
from mamoe.vocabulary.taxonomy import Taxonomy

SPLITS = ("train", "val")  # the test split's labels are not public
VOID = 255
# Level-3 id of every label; what shares an id is one class.
LEVEL3 = {
    **{"road": 0, "parking": 1, "drivable fallback": 1, "sidewalk": 2, "rail track": 3, "non-drivable fallback": 3},
    **{"person": 4, "animal": 4, "rider": 5, "motorcycle": 6, "bicycle": 7, "autorickshaw": 8, "car": 9, "truck": 10},
    **{"bus": 11, "caravan": 12, "trailer": 12, "train": 12, "vehicle fallback": 12, "curb": 13, "wall": 14},
    **{"fence": 15, "guard rail": 16, "billboard": 17, "traffic sign": 18, "traffic light": 19, "pole": 20},
    **{"polegroup": 20, "obs-str-bar-fallback": 21, "building": 22, "bridge": 23, "tunnel": 23, "vegetation": 24},
    **{"sky": 25, "fallback background": 25},
    **dict.fromkeys(("unlabeled", "ego vehicle", "rectification border", "out of roi", "license plate"), VOID),
}
_PICTURE, _POLYGONS = "_leftImg8bit", "_gtFine_polygons.json"
_MOST = 1000  # objects of one class in a picture, and so the factor of ids
_FAR = 1e5  # no polygon has a corner beyond
_SKIPPED = "has polygons of fewer than two corners; they were left out"


def import_idd(source: Path, out: Path, progress: Progress | None = None, manner: Manner = MANNER) -> ImportSummary:
    """Import ``leftImg8bit/SPLIT/DRIVE/*_leftImg8bit.*`` with ``gtFine/SPLIT/DRIVE/*_gtFine_polygons.json``.

    Polygons are drawn in their order, as the official tools do; labels that end in "group" are groups; what no polygon
    covers is void.

    Raises:
        DatasetError: ``source`` lacks such folders, annotations are missing or wrong, or ``out`` is in use.
    """
    taxonomy = Taxonomy.load("idd")
    splits: dict[str, list[SourcePicture]] = {}
    problems: list[str] = []
    notes: list[str] = []
    for split in SPLITS:
        drives = folders_of(source / "leftImg8bit" / split)
        notes += litter_note(source, drives)
        found = []
        for picture in (path for drive in drives for path in files_of(drive, SUFFIXES, notes)):
            stem = picture.stem.removesuffix(_PICTURE)
            polygons = source / "gtFine" / split / picture.parent.name / f"{stem}{_POLYGONS}"
            if not polygons.is_file():
                problems.append(f"{picture} has no annotation {polygons}")
                continue
            name = f"{picture.parent.name}/{stem}{picture.suffix}"
            found.append(SourcePicture(name=name, picture=picture, load=partial(_load, polygons, picture, taxonomy)))
        if found:
            splits[split] = found
    raise_problems(problems, f"The IDD folder {source}")
    if not splits:
        raise DatasetError(
            f"{source} holds no IDD pictures: wanted leftImg8bit/train/DRIVE/*{_PICTURE}.png or .jpg and "
            f"gtFine/train/DRIVE/*{_POLYGONS}.{advice(source, 'idd')}"
        )
    left_out = [place.name for place in folders_of(source / "leftImg8bit") if place.name not in SPLITS]
    if left_out:
        notes.append(f"leftImg8bit/{some(left_out)}: left out; train and val have public labels.")
    return write_import(source, out, splits, taxonomy, STREETS, notes, progress, manner)


def panoptic_from_polygons(objects: Sequence[Mapping[str, Any]], size: tuple[int, int], taxonomy: Taxonomy) -> Labelled:
    """Draw the objects in their order.

    Args:
        objects: each a label, a polygon of (x, y), and perhaps that it is deleted.
        size: (H, W) of the picture.
        taxonomy: IDD's.

    Raises:
        ValueError: a label is not known, or a polygon is none.
    """
    canvas = Image.new("I", (size[1], size[0]), VOID)
    pen = ImageDraw.Draw(canvas)
    numbers = dict.fromkeys(LEVEL3.values(), 0)
    skipped = False
    for number, one in enumerate(objects, start=1):
        label, polygon = one.get("label"), one.get("polygon")
        if one.get("deleted"):
            continue
        if not isinstance(label, str):
            raise ValueError(f"object no. {number}: label must be text, got {label!r:.40}")
        group = label not in LEVEL3 and label.endswith("group")
        level = LEVEL3.get(label.removesuffix("group") if group else label)
        if level is None:
            raise ValueError(f"object no. {number}: there is no label {label!r}")
        try:
            corners = [(float(x), float(y)) for x, y in polygon]  # pyright: ignore[reportOptionalIterable]
            if not (np.abs(corners) < _FAR).all():
                raise ValueError
        except (TypeError, ValueError, OverflowError):
            raise ValueError(f"object no. {number} ({label}): polygon must be a list of [x, y]") from None
        if len(corners) < 2:
            skipped = True
            continue
        fill = level
        if level != VOID and taxonomy.is_thing(level) and not group:
            if numbers[level] == _MOST:
                raise ValueError(f"there are more than {_MOST} objects of the label {label}")
            fill = level * _MOST + numbers[level]
            numbers[level] += 1
        pen.polygon(corners, fill=fill)
    ids = np.asarray(canvas, dtype=np.int32)
    labelled = panoptic_from_instance_ids(ids, {row.id: row.id for row in taxonomy.classes}, taxonomy, divisor=_MOST)
    return Labelled(panoptic=labelled.panoptic, groups=labelled.groups, remarks=(_SKIPPED,) if skipped else ())


def _load(path: Path, picture: Path, taxonomy: Taxonomy) -> Labelled:
    try:
        plain = read_json(path)
    except (OSError, ValueError) as error:
        raise DatasetError(f"Cannot read {path} as JSON: {error}") from None
    if not isinstance(plain, Mapping) or not isinstance(plain.get("objects"), list):
        raise DatasetError(f"{path} needs imgHeight, imgWidth and a list of objects; is it IDD's or Cityscapes' JSON?")
    size = plain.get("imgHeight"), plain.get("imgWidth")
    shown = picture_size(picture)
    if size != shown:
        raise DatasetError(f"{picture} has (height, width) {shown}, but {path} says {size}.")
    objects = [one for one in plain["objects"] if isinstance(one, Mapping)]
    if len(objects) < len(plain["objects"]):
        raise DatasetError(f"{path}: objects must be a list of objects with label and polygon.")
    try:
        return panoptic_from_polygons(objects, shown, taxonomy)
    except ValueError as error:
        raise DatasetError(f"{path}, {error}.") from None
