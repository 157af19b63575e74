"""Exporting a data set in COCO's panoptic format, as panopticapi reads it; importing that again gives the same maps."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from PIL import Image

from mamoe.data.folder.description import data_folder
from mamoe.data.folder.listing import bare_name
from mamoe.data.folder.prompts import raise_problems
from mamoe.data.folder.split import index_split, list_splits
from mamoe.errors import DatasetError
from mamoe.prepare.job import Progress, Records, file_stamp, how_far, made_folder, spelled
from mamoe.prepare.labelled import MANNER, Manner
from mamoe.prepare.panoptic_json import NUMBER
from mamoe.prepare.record import DATASET_JSON, dataset_json, groups_of
from mamoe.prepare.writer import TAXONOMY_FILE, put_picture
from mamoe.storage.hashing import short_file_hash, short_hash
from mamoe.vocabulary.panoptic import PanopticMap, read_panoptic
from mamoe.vocabulary.taxonomy import Taxonomy

_FIRST_OF_CLASS = 1 << 16  # COCO ids of pixels that have a class and no segment: beyond all segments


@dataclass(frozen=True, kw_only=True, slots=True)
class ExportSummary:
    """What an export wrote, or would write."""

    folder: Path
    pictures: Mapping[str, int]  # by split
    segments: Mapping[str, int]
    done: bool = False  # this process put the folder in place
    left: int = 0  # pictures other processes have not done yet
    dry_run: bool = False  # nothing was to be written

    def text(self) -> str:
        """One line."""
        parts = [
            f"{split} {n} pictures{f' with {self.segments[split]} segments' if self.done else ''}"
            for split, n in self.pictures.items()
        ]
        return f"{self.folder}: {'; '.join(parts)}{how_far(done=self.done, left=self.left, dry_run=self.dry_run)}."


@dataclass(frozen=True, kw_only=True, slots=True)
class _Task:
    split: str
    name: str  # relative, / between folders
    picture: Path
    panoptic: Path
    groups: frozenset[int]

    @property
    def key(self) -> str:
        return f"{self.split}/{self.name}"


def export_coco_panoptic(
    data: Path,
    out: Path,
    progress: Progress | None = None,
    manner: Manner = MANNER,
    *,
    taxonomy: Taxonomy | None = None,
) -> ExportSummary:
    """Write ``annotations/panoptic_SPLIT.json`` with ``annotations/panoptic_SPLIT/*.png`` and the pictures in
    ``SPLIT/``, ``taxonomy.yaml`` and ``dataset.json``.

    A segment's id is its number. Pixels that have a class and no segment are one more segment a class, with an id from
    65536 on, for COCO knows no others; the key ``mamoe_segment`` tells our import what was what. Void is 0. Segments
    that ``dataset.json`` calls groups have ``iscrowd``.

    Args:
        data: a data set in the package's layout.
        out: folder to make.
        progress: called after every picture.
        manner: how it is written; ``val`` is not looked at.
        taxonomy: of the classes, where ``data.yaml`` does not say it.

    Raises:
        DatasetError: the data set has faults, or ``out`` is in use.
    """
    found = data_folder(data, taxonomy)
    for read in (found.images, found.panoptic_maps):
        if out.resolve().is_relative_to(read.resolve()):
            raise DatasetError(
                f"{out} lies in {read}, where it would become a part of the data set: name another folder."
            )
    groups = groups_of(data)
    tasks: list[_Task] = []
    problems: list[str] = []
    for split in list_splits(found.images):
        files = index_split(
            images=found.images,
            panoptic_maps=found.panoptic_maps,
            split=split,
            prompts=None,
            instance_prompts=None,
            recursive=found.recursive,
        )
        problems += files.problems
        tasks += [
            _Task(
                split=split,
                name=sample.key,
                picture=sample.image,
                panoptic=sample.panoptic,
                groups=groups.get(f"{split}/{sample.key}", frozenset()),
            )
            for sample in files.samples
            if sample.panoptic is not None
        ]
    raise_problems(problems, f"The data set {data}")
    if not tasks:
        raise DatasetError(f"{data} holds no pictures to export.")
    counts = {split: sum(task.split == split for task in tasks) for split in dict.fromkeys(t.split for t in tasks)}
    if manner.dry_run:
        return ExportSummary(folder=out, pictures=counts, segments=dict.fromkeys(counts, 0), dry_run=True)
    segments: dict[str, int] = {}

    def finish(stage: Path, records: Records) -> None:
        for split in counts:
            rows = [records[task.key] for task in tasks if task.split == split]
            segments[split] = sum(len(row["segments_info"]) for row in rows)
            _write_table(stage, split, rows, found.taxonomy)
        plain = yaml.safe_dump(found.taxonomy.to_dict(), sort_keys=False, allow_unicode=True, width=1000)
        (stage / TAXONOMY_FILE).write_text(plain, encoding="utf-8")
        (stage / DATASET_JSON).write_text(dataset_json(_contents(records, segments, found.taxonomy)), encoding="utf-8")

    identity = [spelled((found.taxonomy.to_dict(), manner.link))]
    identity += [f"{t.key} {file_stamp(t.picture)} {file_stamp(t.panoptic)} {sorted(t.groups)}" for t in tasks]
    run = partial(_export_all, found.taxonomy, manner.link)
    reads = (data, found.images, found.panoptic_maps)
    left = made_folder(out, identity, tasks, run, finish, manner=manner, progress=progress, reads=reads)
    return ExportSummary(folder=out, pictures=counts, segments=segments, done=bool(segments), left=left)


def coco_segments(
    panoptic: PanopticMap, taxonomy: Taxonomy, groups: frozenset[int]
) -> tuple[np.ndarray, list[dict[str, Any]]]:
    """The RGB pixels (id = R + 256*G + 65536*B, 0: void) and ``segments_info`` of a map."""
    void = panoptic.class_id == taxonomy.void_id
    ids = np.where(panoptic.segment_id > 0, panoptic.segment_id, _FIRST_OF_CLASS + panoptic.class_id.astype(np.int32))
    ids[void] = 0
    rgb = np.stack([ids & 0xFF, ids >> 8 & 0xFF, ids >> 16], axis=-1).astype(np.uint8)
    rows = []
    for segment, (area, box) in _areas(ids).items():
        class_id = segment - _FIRST_OF_CLASS if segment >= _FIRST_OF_CLASS else int(panoptic.class_of_segment[segment])
        rows.append(
            {
                "id": segment,
                "category_id": class_id,
                "iscrowd": int(segment in groups),
                "bbox": box,
                "area": area,
                NUMBER: 0 if segment >= _FIRST_OF_CLASS else segment,
            }
        )
    return rgb, rows


def _areas(ids: np.ndarray) -> dict[int, tuple[int, list[int]]]:
    """Area, and x, y, width and height of the box, of every id but 0."""
    present, place = np.unique(ids, return_inverse=True)
    place = place.reshape(ids.shape)
    areas = np.bincount(place.ravel(), minlength=len(present))
    found = {}
    rows = [np.flatnonzero(line) for line in _seen(place, len(present))]
    columns = [np.flatnonzero(line) for line in _seen(place.T, len(present))]
    for i, value in enumerate(present.tolist()):
        if value:
            (top, bottom), (left, right) = (rows[i][0], rows[i][-1]), (columns[i][0], columns[i][-1])
            box = [int(left), int(top), int(right - left + 1), int(bottom - top + 1)]
            found[value] = int(areas[i]), box
    return found


def _seen(place: np.ndarray, count: int) -> np.ndarray:
    """bool[count rows]: whether a number is in a row."""
    seen = np.zeros((count, place.shape[0]), dtype=bool)
    seen[place, np.arange(place.shape[0])[:, None]] = True
    return seen


def _export_all(taxonomy: Taxonomy, link: bool, stage: Path, tasks: Sequence[_Task]) -> list[Mapping[str, Any] | str]:
    return [_export(taxonomy, link, stage, task) for task in tasks]


def _export(taxonomy: Taxonomy, link: bool, stage: Path, task: _Task) -> dict[str, Any] | str:
    try:
        panoptic = read_panoptic(task.panoptic)
        known = {row.id for row in taxonomy.classes} | {taxonomy.void_id}
        strangers = sorted(set(np.unique(panoptic.class_id).tolist()) - known)
        if strangers:
            return f"{task.panoptic} has classes {strangers[:8]}, which the taxonomy {taxonomy.name!r} does not know"
        rgb, rows = coco_segments(panoptic, taxonomy, task.groups)
    except DatasetError as error:
        return str(error)
    picture = stage / task.split / task.name
    png = stage / "annotations" / f"panoptic_{task.split}" / f"{bare_name(task.name)}.png"
    for path in (picture, png):
        path.parent.mkdir(parents=True, exist_ok=True)
    put_picture(task.picture, picture, link=link)
    Image.fromarray(rgb).save(png)
    return {
        "file_name": task.name,
        "height": panoptic.size[0],
        "width": panoptic.size[1],
        "segments_info": rows,
        "picture": short_file_hash(picture),
        "map": short_file_hash(png),
    }


def _write_table(stage: Path, split: str, rows: Sequence[Mapping[str, Any]], taxonomy: Taxonomy) -> None:
    images = [
        {"id": i, "file_name": row["file_name"], "height": row["height"], "width": row["width"]}
        for i, row in enumerate(rows, start=1)
    ]
    annotations = [
        {"image_id": i, "file_name": f"{bare_name(row['file_name'])}.png", "segments_info": row["segments_info"]}
        for i, row in enumerate(rows, start=1)
    ]
    categories = [
        {"id": c.id, "name": c.name, "supercategory": c.name, "isthing": int(c.is_thing), "color": list(c.colour)}
        for c in taxonomy.classes
    ]
    table = {"images": images, "annotations": annotations, "categories": categories}
    text = json.dumps(table, ensure_ascii=False)
    (stage / "annotations" / f"panoptic_{split}.json").write_text(text, encoding="utf-8")


def _contents(records: Records, segments: Mapping[str, int], taxonomy: Taxonomy) -> dict[str, Any]:
    splits = {}
    for split, count in segments.items():
        part = {key: row for key, row in records.items() if key.startswith(f"{split}/")}
        hashes = sorted(f"{row['file_name']} {row['picture']} {row['map']}" for row in part.values())
        splits[split] = {"pictures": len(part), "segments": count, "hash": short_hash("\n".join(hashes), 16)}
    files = {key: {"picture": row["picture"], "map": row["map"]} for key, row in sorted(records.items())}
    return {"version": 1, "taxonomy": taxonomy.name, "splits": splits, "files": files}
