"""Label pictures of any kind, read by a class table: palettes, indices, colours, 16-bit ids."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from mamoe.errors import DatasetError
from mamoe.prepare.annotations import read_colour_ids, read_index_picture
from mamoe.prepare.areas import panoptic_from_class_index
from mamoe.prepare.classes import ClassTable
from mamoe.prepare.instance_ids import label_of, panoptic_from_instance_ids
from mamoe.prepare.labelled import Labelled
from mamoe.storage.contents import found_instead
from mamoe.vocabulary.panoptic import UNREADABLE
from mamoe.vocabulary.runs import numbers_in

AREAS = "has classes alone; connected areas of a thing class were taken for single things"


def read_classes(path: Path, table: ClassTable) -> UInt8[np.ndarray, "H W"]:
    """The class of every pixel of a label picture; single things are not told apart.

    Raises:
        DatasetError: the file is no PNG of labels, or has values that the table does not know.
    """
    if has_colours(path, table):
        return table.of_colours(read_colour_ids(path), path)
    values = read_index_picture(path)
    if int(values.max()) >= table.divisor:
        values = np.where(values >= table.divisor, values // table.divisor, values)
    return table.of_numbers(values, path)


def read_label_map(path: Path, table: ClassTable) -> Labelled:
    """The map of a label picture: 16-bit ids tell single things apart, else connected areas do.

    Raises:
        DatasetError: as :func:`read_classes`.
    """
    if not has_colours(path, table):
        values = read_index_picture(path)
        if int(values.max()) >= table.divisor:
            labels = {label_of(value, table.divisor) for value in numbers_in(values)}
            table.of_numbers(np.array([sorted(labels)], dtype=np.int32), path)
            return panoptic_from_instance_ids(values, table.numbers, table.taxonomy, divisor=table.divisor)
    panoptic = panoptic_from_class_index(read_classes(path, table), table.taxonomy)
    things = any(table.taxonomy.is_thing(class_id) for class_id in panoptic.classes.values())
    return Labelled(panoptic=panoptic, remarks=(AREAS,) if things else ())


def has_colours(path: Path, table: ClassTable) -> bool:
    """Whether a label picture's colours are its classes: it has three channels, or a palette whose indices the table
    does not speak of.

    Raises:
        DatasetError: it cannot be opened.
    """
    try:
        with Image.open(path) as picture:
            return picture.mode == "RGB" or (picture.mode == "P" and not table.numbers)
    except UNREADABLE as error:
        raise DatasetError(f"Cannot read the annotation {path}: {found_instead(path) or error}") from None
