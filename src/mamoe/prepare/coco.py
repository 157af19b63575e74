"""Importing the COCO panoptic format: a 3-channel PNG of segment ids and a JSON that names their categories."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeGuard

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from mamoe.data.panoptic import UNREADABLE
from mamoe.data.prompts import raise_problems
from mamoe.prepare.writer import ImportSummary, Progress, SourcePicture, write_dataset
from mamoe.taxonomy import Taxonomy
from mamoe.types import MAX_SEGMENT_ID, DatasetError, PanopticMap

VOID = 0  # both the segment id and the class id of unlabelled pixels


def import_coco(source: Path, out: Path, progress: Progress | None = None) -> ImportSummary:
    """Import every ``panoptic_NAME.json`` that has a folder ``panoptic_NAME`` beside it.

    They lie in ``source`` or ``source/annotations``, their pictures in ``source/NAME`` or ``source/input_images``.
    The splits are called train and val for ``train2017`` and ``val2017``, otherwise NAME.

    Raises:
        DatasetError: no such files, entries or categories that do not fit, or ``out`` is in use.
    """
    tables = sorted([*source.glob("panoptic_*.json"), *source.glob("annotations/panoptic_*.json")])
    tables = [path for path in tables if path.with_suffix("").is_dir()]
    if not tables:
        raise DatasetError(f"{source} holds no COCO panoptic data: wanted panoptic_NAME.json beside panoptic_NAME/.")
    taxonomy = Taxonomy.load("coco_panoptic")
    problems: list[str] = []
    splits = {}
    for path in tables:
        name = path.stem.removeprefix("panoptic_")
        split = next((usual for usual in ("train", "val") if name.startswith(usual)), name)
        if split in splits:
            problems.append(f"{path}: the split {split!r} is already taken by another file; keep one of them")
        splits[split] = _source_pictures(source, path, name, taxonomy, problems)
    raise_problems(problems, f"The COCO folder {source}")
    return write_dataset(out, splits, taxonomy=taxonomy, place="a photo", size=(256, 256), progress=progress)


def panoptic_from_coco(rgb: UInt8[np.ndarray, "H W 3"], category_of: Mapping[int, int]) -> PanopticMap:
    """Decode a COCO panoptic PNG (segment id = R + 256*G + 65536*B) and number its segments 1, 2, ... in their order.

    Args:
        rgb: the PNG's pixels.
        category_of: category id of every segment id, in the order of ``segments_info``.

    Raises:
        ValueError: a pixel's segment is not in ``category_of``.
    """
    ids = rgb.astype(np.int32) @ np.array([1, 256, 65536], dtype=np.int32)
    known = np.array([VOID, *category_of], dtype=np.int32)
    order = np.argsort(known)
    position = order[np.searchsorted(known, ids, sorter=order).clip(max=len(known) - 1)]
    if (known[position] != ids).any():
        strangers = np.unique(ids[known[position] != ids])[:8].tolist()
        raise ValueError(f"segments {strangers} of the picture are not listed in segments_info")
    class_of = np.array([VOID, *category_of.values()], dtype=np.uint8)
    return PanopticMap(segment_id=position.astype(np.int32), class_id=class_of[position])


def _source_pictures(
    source: Path, table: Path, name: str, taxonomy: Taxonomy, problems: list[str]
) -> list[SourcePicture]:
    plain = _read_json(table)
    folder = source / name if (source / name).is_dir() else source / "input_images"
    file_of = {str(image.get("id")): image.get("file_name") for image in _list(plain, "images", table)}
    categories = [row.id for row in taxonomy.classes]
    found = []
    for annotation in _list(plain, "annotations", table):
        where = f"{table}, image_id {annotation.get('image_id')!r}"
        picture, ids = file_of.get(str(annotation.get("image_id"))), annotation.get("file_name")
        if not _is_plain_name(picture) or not _is_plain_name(ids):
            problems.append(f"{where}: file names must be plain names, got {picture!r} and {ids!r}")
            continue
        segments = _list(annotation, "segments_info", table)
        pairs = [(segment.get("id"), segment.get("category_id")) for segment in segments]
        wrong = [pair for pair in pairs if pair[0] not in range(1, 1 << 24) or pair[1] not in categories]
        if wrong or len(pairs) > MAX_SEGMENT_ID:
            problems.append(f"{where}: (id, category_id) must be known categories and 24-bit ids, got {wrong[:8]}")
            continue
        category_of: dict[Any, Any] = dict(pairs)
        for path in (folder / picture, table.with_suffix("") / ids):
            if not path.is_file():
                problems.append(f"{where}: there is no file {path}")
        load = partial(_load, table.with_suffix("") / ids, category_of)
        found.append(SourcePicture(name=picture, picture=folder / picture, load=load))
    return found


def _load(path: Path, category_of: Mapping[int, int]) -> PanopticMap:
    try:
        with Image.open(path) as picture:
            rgb = np.asarray(picture.convert("RGB"))
        return panoptic_from_coco(rgb, category_of)
    except UNREADABLE as error:
        raise DatasetError(f"Cannot import the annotation {path}: {error}") from None


def _read_json(path: Path) -> Mapping[str, Any]:
    try:
        plain = json.loads(path.read_text(encoding="utf-8"))
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


def _is_plain_name(name: Any) -> TypeGuard[str]:
    return isinstance(name, str) and name not in ("", ".", "..") and "\\" not in name and Path(name).name == name
