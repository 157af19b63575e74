"""Reading COCO's panoptic format: a JSON that names the categories of the segments, whose ids are PNGs' colours."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any, TypeGuard

import numpy as np
from jaxtyping import UInt8

from mamoe.data.folder.listing import some
from mamoe.errors import DatasetError
from mamoe.prepare.annotations import read_colour_ids
from mamoe.prepare.categories import Category, parse_categories
from mamoe.prepare.labelled import Labelled, SourcePicture
from mamoe.storage.text_file import read_json
from mamoe.vocabulary.panoptic import MAX_SEGMENT_ID, PanopticMap
from mamoe.vocabulary.taxonomy import Taxonomy

VOID = 0  # the segment id of unlabelled pixels
NUMBER = "mamoe_segment"  # key of segments_info in our exports: the segment's number before; 0: pixels without one
_ABSENT = "has segments in segments_info that no pixel of the PNG belongs to; they were dropped"


@dataclass(frozen=True, kw_only=True, slots=True)
class PanopticTable:
    """A panoptic JSON, as far as it could be read."""

    path: Path
    images: Mapping[str, Any]  # file name by image id
    annotations: Sequence[Mapping[str, Any]]
    categories: tuple[Category, ...] | None  # None: the file has none
    used: frozenset[int]  # category ids of segments

    @property
    def folder(self) -> Path:
        """Where its PNGs are: in the folder of its name, or beside it."""
        named = self.path.with_suffix("")
        return named if named.is_dir() else self.path.parent


@dataclass(frozen=True, kw_only=True, slots=True)
class _Segment:
    id: int
    class_id: int
    is_group: bool
    number: int | None  # what it was before an export of ours; None: the file does not say


def read_table(path: Path, problems: list[str]) -> PanopticTable:
    """Read a panoptic JSON; what is wrong with its categories and images is added to ``problems``.

    Raises:
        DatasetError: it cannot be read, or has no lists of images and annotations.
    """
    plain = _read_json(path)
    images, annotations = _list(plain, "images", path), _list(plain, "annotations", path)
    for what, rows, key in (("images", images, "id"), ("annotations", annotations, "image_id")):
        twice = [value for value, n in Counter(str(row.get(key)) for row in rows).items() if n > 1]
        if twice:
            problems.append(f"{path}: {key} stands several times in {what}: {some(twice)}")
    if not annotations:
        problems.append(f"{path} has no annotations")
    categories = None
    if "categories" in plain:
        categories = parse_categories(_list(plain, "categories", path), str(path), problems)
    used = (segment.get("category_id") for row in annotations for segment in _segments(row))
    return PanopticTable(
        path=path,
        images={str(row.get("id")): _plain(row.get("file_name")) for row in images},
        annotations=annotations,
        categories=categories,
        used=frozenset(i for i in used if _is_whole(i)),
    )


def table_pictures(
    table: PanopticTable,
    class_of: Mapping[int, int],
    taxonomy: Taxonomy,
    picture_of: Callable[[str, str], tuple[str, Path] | None],
    problems: list[str],
) -> list[SourcePicture]:
    """The annotated pictures of a table; what is wrong is added to ``problems``.

    Args:
        table: the table.
        class_of: class id by category id.
        taxonomy: of the class ids; segments of things with ``iscrowd`` are groups.
        picture_of: relative name to write and picture of (image id, file name in ``images``); None if there is none,
            which the function says.
        problems: filled.
    """
    found = []
    for annotation in table.annotations:
        where = f"{table.path}, image_id {annotation.get('image_id')!r}"
        key = str(annotation.get("image_id"))
        name, ids = table.images.get(key), _plain(annotation.get("file_name"))
        if name is None and key not in table.images:
            problems.append(f"{where}: there is no such id in images")
            continue
        if not is_inside(name) or not is_inside(ids):
            problems.append(
                f"{where}: file names must be plain names, or paths with / that stay inside, got {name!r} and {ids!r}"
            )
            continue
        segments = _read_segments(annotation, class_of, taxonomy, where, problems)
        png = table.folder / ids
        if not png.is_file() and (table.path.parent / ids).is_file():  # the name has the folder in it
            png = table.path.parent / ids
        if not png.is_file():
            problems.append(f"{where}: there is no file {png}")
        picture = picture_of(key, name)
        if segments is not None and picture is not None:
            written, path = picture
            load = partial(_load, png, segments, taxonomy.void_id)
            found.append(SourcePicture(name=written, picture=path, load=load))
    return found


def unlabelled_images(table: PanopticTable) -> list[str]:
    """File names in ``images`` that no annotation is about."""
    about = {str(row.get("image_id")) for row in table.annotations}
    return [str(name) for key, name in table.images.items() if key not in about]


def is_inside(name: Any) -> TypeGuard[str]:
    """Is that a relative path, with ``/`` between folders, that leads to nothing outside?"""
    if not isinstance(name, str) or name in ("", ".") or "\\" in name or "\0" in name:
        return False
    return not PurePosixPath(name).is_absolute() and ".." not in PurePosixPath(name).parts and ":" not in name[:2]


def _plain(name: Any) -> Any:
    """A file name without the ``./`` and ``//`` that change nothing."""
    return str(PurePosixPath(name)) if isinstance(name, str) and name else name


def panoptic_from_coco(
    rgb: UInt8[np.ndarray, "H W 3"],
    category_of: Mapping[int, int],
    void: int = 0,
    segments: Sequence[int] | None = None,
) -> PanopticMap:
    """Decode a COCO panoptic PNG (segment id = R + 256*G + 65536*B) and number its segments 1, 2, ... in their order.

    Args:
        rgb: the PNG's pixels.
        category_of: category id of every segment id, in the order of ``segments_info``.
        void: class id of the pixels of segment 0.
        segments: numbers to give them instead, in the same order; 0: none.

    Raises:
        ValueError: a pixel's segment is not in ``category_of``.
    """
    ids = rgb.astype(np.int32) @ np.array([1, 256, 65536], dtype=np.int32)
    known = np.array([VOID, *category_of], dtype=np.int32)
    order = np.argsort(known)
    position = order[np.searchsorted(known, ids, sorter=order).clip(max=len(known) - 1)]
    if (known[position] != ids).any():
        strangers = np.unique(ids[known[position] != ids])[:8].tolist()
        raise ValueError(
            f"segments {strangers} of the picture are not listed in segments_info; is it the PNG of segment ids "
            "(id = R + 256*G + 65536*B) that belongs to this JSON?"
        )
    class_of = np.array([void, *category_of.values()], dtype=np.uint8)
    numbers = np.arange(len(class_of), dtype=np.int32) if segments is None else np.array([0, *segments], dtype=np.int32)
    numbers[class_of == void] = 0
    return PanopticMap(segment_id=numbers[position], class_id=class_of[position])


def _read_segments(
    annotation: Mapping[str, Any], class_of: Mapping[int, int], taxonomy: Taxonomy, where: str, problems: list[str]
) -> tuple[_Segment, ...] | None:
    rows = annotation.get("segments_info")
    if not isinstance(rows, list) or not all(isinstance(row, Mapping) for row in rows):
        problems.append(f"{where}: segments_info must be a list of objects; is it a COCO panoptic file?")
        return None
    before = len(problems)
    pairs = [(row.get("id"), row.get("category_id")) for row in rows]
    wrong = [(i, c) for i, c in pairs if not (_is_whole(i) and 1 <= i < 1 << 24 and _is_whole(c) and c in class_of)]
    if wrong:
        problems.append(f"{where}: (id, category_id) must be known categories and 24-bit ids, got {wrong[:8]}")
    twice = [i for i, n in Counter(str(i) for i, _ in pairs).items() if n > 1]
    if twice:
        problems.append(f"{where}: segments_info lists segments {some(twice)} several times")
    odd = [row.get("iscrowd") for row in rows if row.get("iscrowd", 0) not in (0, 1)]
    if odd:
        problems.append(f"{where}: iscrowd must be 0 or 1, got {odd[:8]}")
    numbers = [row.get(NUMBER) for row in rows if row.get(NUMBER) is not None]
    if numbers and (
        len(numbers) < len(rows)
        or not all(_is_whole(n) and 0 <= n <= MAX_SEGMENT_ID for n in numbers)
        or len({n for n in numbers if n}) < sum(n != 0 for n in numbers)
    ):
        problems.append(f"{where}: {NUMBER} must be a number of its own for each segment, or 0, got {numbers[:8]}")
    if len(rows) > MAX_SEGMENT_ID:
        problems.append(f"{where}: {len(rows)} segments are more than the {MAX_SEGMENT_ID} a map can hold")
    if len(problems) > before:
        return None
    return tuple(
        _Segment(
            id=row["id"],
            class_id=class_of[row["category_id"]],
            is_group=bool(row.get("iscrowd", 0)) and taxonomy.is_thing(class_of[row["category_id"]]),
            number=row.get(NUMBER),
        )
        for row in rows
    )


def _load(path: Path, segments: Sequence[_Segment], void: int) -> Labelled:
    try:
        numbers = [s.number for s in segments if s.number is not None]
        given = numbers if segments and len(numbers) == len(segments) else None
        panoptic = panoptic_from_coco(read_colour_ids(path), {s.id: s.class_id for s in segments}, void, given)
    except DatasetError:
        raise
    except ValueError as error:
        raise DatasetError(f"Cannot import the annotation {path}: {error}") from None
    present = panoptic.classes
    meant = {(i if s.number is None else s.number): s for i, s in enumerate(segments, start=1) if s.class_id != void}
    return Labelled(
        panoptic=panoptic,
        groups=frozenset(i for i, s in meant.items() if s.is_group and i in present),
        remarks=(_ABSENT,) if meant.keys() - present.keys() - {0} else (),
    )


def _segments(annotation: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    rows = annotation.get("segments_info")
    return (row for row in rows if isinstance(row, Mapping)) if isinstance(rows, list) else iter(())


def _read_json(path: Path) -> Mapping[str, Any]:
    try:
        plain = read_json(path)
    except (OSError, ValueError) as error:
        raise DatasetError(f"Cannot read {path} as JSON: {error}") from None
    if not isinstance(plain, Mapping):
        raise DatasetError(f"{path} must hold an object with images and annotations.")
    return plain


def _list(plain: Mapping[str, Any], key: str, path: Path) -> Sequence[Mapping[str, Any]]:
    rows = plain.get(key)
    if not isinstance(rows, list) or not all(isinstance(row, Mapping) for row in rows):
        raise DatasetError(f"{path} needs a list of objects under {key!r}; is it a COCO panoptic file?")
    return rows


def _is_whole(value: Any) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool)
