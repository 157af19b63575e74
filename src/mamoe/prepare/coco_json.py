"""COCO's JSON of instances, as detectors write it and as CVAT, Label Studio and LabelMe's converters export it."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from mamoe.data.folder.listing import some
from mamoe.errors import DatasetError
from mamoe.prepare.categories import Category, parse_categories
from mamoe.prepare.classes import ClassTable
from mamoe.prepare.fuse.masks import Mask, from_counts, from_polygons
from mamoe.prepare.fuse.rules import Thing
from mamoe.prepare.panoptic_json import is_inside
from mamoe.storage.text_file import read_json

_UPLOADED = re.compile(r"^[0-9a-f]{8}-(?=.)")  # what Label Studio puts before the names of uploaded files


@dataclass(frozen=True, kw_only=True, slots=True)
class Annotation:
    """One object of the JSON; plain values, so that they go from process to process as they are."""

    where: str  # "annotation 12"
    class_id: int
    segmentation: Any  # polygons, or {size, counts}
    score: float
    is_crowd: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class CocoInstances:
    """A JSON, as far as it could be read."""

    path: Path
    names: Mapping[str, str]  # by image id: the file's relative name, or the id as text where the JSON lists no images
    sizes: Mapping[str, tuple[int, int]]  # by image id: (H, W) of the picture that was annotated, where that is said
    of_image: Mapping[str, tuple[Annotation, ...]]  # by image id
    notes: tuple[str, ...]


def read_coco(path: Path, table: ClassTable) -> CocoInstances:
    """Read a data set's JSON, or a list of detections.

    Category ids mean the classes of the categories' names; a list of detections has none, so that there the numbers of
    the class table count.

    Raises:
        DatasetError: it cannot be read, categories have no class, or entries are wrong; one error lists them.
    """
    try:
        plain = read_json(path)
    except (OSError, ValueError) as error:
        raise DatasetError(f"Cannot read {path} as JSON: {error}") from None
    if isinstance(plain, Mapping) and isinstance(plain.get("shapes"), list):
        raise DatasetError(
            f"{path} is LabelMe's own format, one file a picture: export it to COCO's (labelme2coco, or labelme's "
            "examples/instance_segmentation/labelme2coco.py) and give that file."
        )
    rows = plain.get("annotations") if isinstance(plain, Mapping) else plain
    if not isinstance(rows, list) or not all(isinstance(row, Mapping) for row in rows):
        raise DatasetError(f"{path} must be COCO's JSON with a list of annotations, or a list of detections.")
    problems: list[str] = []
    notes: list[str] = []
    class_of = _classes(plain, path, table, problems, notes)
    images = _images(plain, problems) if isinstance(plain, Mapping) else None
    names = _names(images, problems) if images is not None else None
    found: dict[str, list[Annotation]] = {}
    for number, row in enumerate(rows, start=1):
        image = str(row.get("image_id"))
        if names is not None and image not in names:
            problems.append(f"annotation no. {number} is of image_id {image}, which images do not list")
            continue
        one = _annotation(row, number, class_of, problems)
        if one is not None:
            found.setdefault(image, []).append(one)
    sizes = _sizes(images or (), problems)
    if problems:
        raise DatasetError(f"{path}: {some(problems, 20)}.")
    crowds = [one for annotations in found.values() for one in annotations if one.is_crowd]
    if crowds:
        notes.append(
            f"{path}: {len(crowds)} annotation(s) with iscrowd are groups. CVAT says iscrowd of every mask drawn "
            "with the brush; --crowd single takes them for single things."
        )
    return CocoInstances(
        path=path,
        names=names if names is not None else {image: image for image in found},
        sizes=sizes,
        of_image={image: tuple(annotations) for image, annotations in found.items()},
        notes=tuple(notes),
    )


def read_categories(path: Path) -> tuple[Category, ...]:
    """The categories of a COCO JSON; none where it has none.

    Raises:
        DatasetError: it cannot be read, or what they say is wrong.
    """
    try:
        plain = read_json(path)
    except (OSError, ValueError) as error:
        raise DatasetError(f"Cannot read {path} as JSON: {error}") from None
    rows = plain.get("categories", []) if isinstance(plain, Mapping) else []
    problems: list[str] = []
    rows = rows if isinstance(rows, list) else []
    found = parse_categories([row for row in rows if isinstance(row, Mapping)], str(path), problems)
    if problems:
        raise DatasetError(f"{some(problems, 20)}.")
    return found


def without_upload(name: str) -> str:
    """A file name without what Label Studio puts before those of uploaded files."""
    return _UPLOADED.sub("", PurePosixPath(name).name)


def things_of(
    annotations: Sequence[Annotation],
    size: tuple[int, int],
    where: Path,
    *,
    said: tuple[int, int] | None,
    crowds: bool,
) -> list[Thing]:
    """The masks of a picture's annotations.

    Args:
        annotations: of the picture.
        size: (H, W) of the picture.
        where: the JSON, for errors.
        said: (H, W) of the picture after the JSON; None: it does not say.
        crowds: iscrowd means a group.

    Raises:
        DatasetError: a segmentation is none, or of another size; or the picture has another size than was annotated.
    """
    if annotations and said is not None and said != size:
        raise DatasetError(
            f"{where}, {annotations[0].where}: the JSON says that the picture has (height, width) {said}, and it has "
            f"{size} as it is shown. Was it resized, or does EXIF turn it? Give the pictures that were annotated, or "
            "export the JSON for these."
        )
    return [
        Thing(
            mask=_mask(one, size, where),
            class_id=one.class_id,
            score=one.score,
            is_group=one.is_crowd and crowds,
            where=one.where,
        )
        for one in annotations
    ]


def _mask(one: Annotation, size: tuple[int, int], where: Path) -> Mask:
    kind = one.segmentation
    try:
        if isinstance(kind, Mapping):
            if list(kind.get("size", ())) != list(size):
                raise ValueError(f"the mask has (height, width) {kind.get('size')}, the picture {list(size)}")
            return from_counts(kind.get("counts", ""), size)
        return from_polygons(_in_pixels(kind, size), size)
    except (ValueError, TypeError, OverflowError) as error:
        raise DatasetError(f"{where}, {one.where}: {error}.") from None


def _in_pixels(polygons: Any, size: tuple[int, int]) -> Any:
    """Polygons as they are; refused where they seem to be shares of width and height, as YOLO has them."""
    if isinstance(polygons, list) and all(isinstance(one, list) and one for one in polygons):
        values = [value for one in polygons for value in one]
        if min(size) > 2 and any(type(v) is float for v in values) and all(0 <= v <= 1 for v in values):
            raise ValueError("all corners lie in the first pixel; COCO's polygons are in pixels, not shares of a side")
    return polygons


def _annotation(
    row: Mapping[str, Any], number: int, class_of: Mapping[int, int], problems: list[str]
) -> Annotation | None:
    where = f"annotation {row['id']}" if isinstance(row.get("id"), int) else f"annotation no. {number}"
    category, kind, score, crowd = (row.get(key) for key in ("category_id", "segmentation", "score", "iscrowd"))
    before = len(problems)
    if isinstance(category, bool) or not isinstance(category, int) or category not in class_of:
        problems.append(f"{where}: category_id {category!r:.40} is not known")
    if not isinstance(kind, list | Mapping) or not kind:
        problems.append(
            f"{where}: segmentation must be polygons or run lengths, got {type(kind).__name__}; a box alone is no mask"
        )
    if score is not None and not is_score(score):
        problems.append(f"{where}: score must be a number in 0 to 1, got {score!r:.40}")
    if crowd not in (None, 0, 1):
        problems.append(f"{where}: iscrowd must be 0 or 1, got {crowd!r}")
    if len(problems) > before:
        return None
    assert isinstance(category, int)
    return Annotation(
        where=where,
        class_id=class_of[category],
        segmentation=kind,
        score=1.0 if score is None else float(score),
        is_crowd=bool(crowd),
    )


def _classes(plain: Any, path: Path, table: ClassTable, problems: list[str], notes: list[str]) -> dict[int, int]:
    rows = plain.get("categories") if isinstance(plain, Mapping) else None
    if rows is None:
        notes.append(f"{path} has no categories: its ids are the values of the class table.")
        return dict(table.numbers)
    if not isinstance(rows, list) or not all(isinstance(row, Mapping) for row in rows):
        problems.append("categories must be a list of objects")
        return {}
    categories = parse_categories(rows, str(path), problems)
    class_of = {row.id: class_id for row in categories if (class_id := table.class_called(row.name)) is not None}
    used = {key for one in plain["annotations"] if isinstance(key := one.get("category_id"), int)}
    unknown = [row.name for row in categories if row.id not in class_of and row.id in used]
    if unknown:
        problems.append(f"the class table has no class for the categories {some(unknown, 12)}")
        class_of |= dict.fromkeys((row.id for row in categories if row.id not in class_of), table.taxonomy.void_id)
    return class_of


def is_score(value: Any) -> bool:
    """Whether that can be how sure a network is."""
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= 1.0001  # rounding


def _images(plain: Mapping[str, Any], problems: list[str]) -> Sequence[Mapping[str, Any]] | None:
    rows = plain.get("images")
    if rows is None:
        return None
    if not isinstance(rows, list) or not all(isinstance(row, Mapping) for row in rows):
        problems.append("images must be a list of objects")
        return None
    return rows


def _side(value: Any) -> int | None:
    """A side as a whole number of pixels, however it is written; None: it is none."""
    whole = isinstance(value, int) or (isinstance(value, float) and value.is_integer())
    return int(value) if whole and value >= 1 else None


def _sizes(images: Sequence[Mapping[str, Any]], problems: list[str]) -> dict[str, tuple[int, int]]:
    sizes = {}
    for row in images:
        sides = row.get("height"), row.get("width")
        if any(side in (None, 0) for side in sides):  # some tools write 0 where they do not know
            continue
        height, width = map(_side, sides)
        if height is None or width is None:
            problems.append(f"(height, width) of {row.get('file_name')!r:.60} must be whole numbers, got {sides!r:.60}")
            continue
        sizes[str(row.get("id"))] = height, width
    return sizes


def _names(rows: Sequence[Mapping[str, Any]], problems: list[str]) -> dict[str, str]:
    twice = [key for key, n in Counter(str(row.get("id")) for row in rows).items() if n > 1]
    if twice:
        problems.append(f"id stands several times in images: {some(twice)}")
    names = {}
    for row in rows:
        name = row.get("file_name")
        name = name.replace("\\", "/") if isinstance(name, str) else name  # Label Studio's, on any system
        if not is_inside(name):
            problems.append(f"file names must be plain names, or paths that stay inside, got {row.get('file_name')!r}")
            continue
        names[str(row.get("id"))] = str(PurePosixPath(name))
    if again := [name for name, n in Counter(names.values()).items() if n > 1]:
        problems.append(f"file_name stands several times in images: {some(again)}; which one's annotations are meant?")
    return names
