"""A folder of photographs becomes a data set with panoptic maps, or maps of classes and masks for `fuse`."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache, partial
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from PIL import Image
from pycocotools import mask as coco_mask

from mamoe.console import visible
from mamoe.data.folder.prompts import raise_problems
from mamoe.data.reading.pictures import read_picture
from mamoe.errors import DatasetError
from mamoe.prepare.areas import panoptic_from_class_index
from mamoe.prepare.fuse.masks import Mask
from mamoe.prepare.fuse.rules import Fused, FuseRules, Thing, fuse
from mamoe.prepare.job import Progress, Records, file_stamp, how_far, made_folder, spelled
from mamoe.prepare.labelled import MANNER, Labelled, Manner, SourcePicture
from mamoe.prepare.pairing import pictures_by_split, require_apart, split_of
from mamoe.prepare.record import DATASET_JSON, Written, dataset_json, json_of
from mamoe.prepare.segment.labels import Meaning
from mamoe.prepare.segment.networks import Network, load_network
from mamoe.prepare.segment.reading import Reader, Seen
from mamoe.prepare.sources import links_outside
from mamoe.prepare.writer import ImportSummary, write_dataset
from mamoe.storage.hashing import short_file_hash

SCORES = "scores"  # folder of them in a data set
_AREAS = "has no single things of the network's own; connected areas of things were taken for them"


@dataclass(frozen=True, kw_only=True, slots=True)
class Segmenting:
    """How pictures are segmented; goes to other processes."""

    model: str
    version: str  # of the model: other once its files are
    meaning: Meaning
    rules: FuseRules
    tile: int
    device: str
    batch: int = field(default=1, repr=False)  # changes nothing in the maps

    def read(self, pictures: Sequence[Path]) -> list[Seen | DatasetError]:
        """What the network sees; of a picture that cannot be read, why."""
        images: list[np.ndarray | DatasetError] = []
        for path in pictures:
            try:
                images.append(read_picture(path))
            except DatasetError as error:
                images.append(error)
        reader = Reader(
            network=_network(self.model, self.version, self.device),
            meaning=self.meaning,
            least=self.rules.score,
            tile=self.tile,
            batch=self.batch,
        )
        seen = iter(reader.read([image for image in images if isinstance(image, np.ndarray)]))
        return [image if isinstance(image, DatasetError) else next(seen) for image in images]


@dataclass(frozen=True, kw_only=True, slots=True)
class PartsSummary:
    """What was written for `fuse`, or would be."""

    folder: Path
    pictures: int
    things: int
    has_instances: bool
    done: bool = False  # this process put the folder in place
    left: int = 0  # pictures of other processes' parts that are not finished
    dry_run: bool = False  # nothing was to be written
    notes: tuple[str, ...] = ()

    def text(self) -> str:
        """One line, then every note."""
        head = f"{self.folder}: {self.pictures} maps of classes in semantic/"
        if self.done and self.has_instances:
            head += f", {self.things} masks in instances.json"
        head += how_far(done=self.done, left=self.left, dry_run=self.dry_run)
        return "\n".join([f"{head}.", *(f"- {visible(note)}" for note in self.notes)])


@lru_cache(maxsize=1)
def _network(model: str, version: str, device: str) -> Network:
    return load_network(model, device)


def segment_folder(
    images: Path, out: Path, how: Segmenting, progress: Progress | None = None, manner: Manner = MANNER
) -> ImportSummary:
    """A data set of the pictures with the maps a network makes of them; ``scores/SPLIT/NAME.json`` says how sure it was
    of every segment.

    Raises:
        DatasetError: there are no pictures, one cannot be read, or ``out`` is in use.
        ConfigError: the network cannot be loaded.
    """
    require_apart(out, [images])
    notes: list[str] = []
    splits = pictures_by_split(images, notes)
    return write_dataset(
        out,
        {
            split: [
                SourcePicture(
                    name=split_of(name)[1],
                    picture=images / name,
                    load=partial(_load, how, images / name),
                    load_all=partial(_load_all, how),
                )
                for name in names
            ]
            for split, names in splits.items()
        },
        taxonomy=how.meaning.taxonomy,
        notes=notes,
        progress=progress,
        manner=replace(manner, together=how.batch),
        roots=(images,),
        report=_write_scores,
    )


def panoptic_of(seen: Seen, rules: FuseRules, meaning: Meaning) -> Labelled:
    """The panoptic map of what was seen, with the scores of its segments in ``details``.

    Raises:
        ValueError: there are more segments than a map can hold.
    """
    taxonomy = meaning.taxonomy
    if seen.things is None:
        labelled = Labelled(panoptic=panoptic_from_class_index(seen.class_id, taxonomy), remarks=(_AREAS,))
        kept: list[Thing] = []
    else:
        named = [replace(thing, where=str(i)) for i, thing in enumerate(seen.things)]
        fused = fuse(seen.class_id, named, taxonomy, rules)
        labelled, kept = fused.labelled, _kept(named, fused)
    panoptic = labelled.panoptic
    area = np.bincount(panoptic.segment_id.ravel())
    sure = np.bincount(panoptic.segment_id.ravel(), weights=seen.confidence.ravel())
    singles = [
        segment
        for segment, class_id in panoptic.classes.items()
        if taxonomy.is_thing(class_id) and segment not in labelled.groups
    ]
    scores = dict(zip(singles, (thing.score for thing in kept), strict=True)) if kept else {}
    names = {row.id: row.name for row in taxonomy.classes}
    told = {
        str(segment): {
            "class": names.get(class_id, "void"),
            "score": round(scores.get(segment, float(sure[segment] / area[segment])), 4),
        }
        for segment, class_id in panoptic.classes.items()
    }
    return replace(labelled, details={"scores": told, "confidence": round(float(seen.confidence.mean()), 4)})


def _kept(things: Sequence[Thing], fused: Fused) -> list[Thing]:
    """The things that are in the map, in the order of their segments."""
    dropped = {one.where for one in fused.dropped}
    return [thing for thing in things if thing.where not in dropped]


def _load_all(how: Segmenting, pictures: Sequence[Path]) -> list[Labelled | DatasetError]:
    found: list[Labelled | DatasetError] = []
    for path, seen in zip(pictures, how.read(pictures), strict=True):
        try:
            found.append(seen if isinstance(seen, DatasetError) else panoptic_of(seen, how.rules, how.meaning))
        except ValueError as error:
            found.append(DatasetError(f"{path}: {error}."))
    return found


def _load(how: Segmenting, picture: Path) -> Labelled:
    (found,) = _load_all(how, [picture])
    if isinstance(found, DatasetError):
        raise found
    return found


def _write_scores(stage: Path, written: Sequence[Written]) -> Sequence[str]:
    for one in written:
        path = stage / SCORES / one.split / f"{PurePosixPath(one.name).stem}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        told = {"picture": one.name, "confidence": one.details["confidence"], "segments": one.details["scores"]}
        path.write_text(json.dumps(told, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return ()


@dataclass(frozen=True, kw_only=True, slots=True)
class _Part:
    """One picture whose parts are written."""

    key: str  # its relative name
    picture: Path


def segment_parts(
    images: Path, out: Path, how: Segmenting, progress: Progress | None = None, manner: Manner = MANNER
) -> PartsSummary:
    """What `fuse` takes: ``semantic/NAME.png`` with class ids, and ``instances.json`` of masks with scores where the
    network tells things apart.

    Raises:
        DatasetError: there are no pictures, one cannot be read, or ``out`` is in use.
        ConfigError: the network cannot be loaded.
    """
    require_apart(out, [images])
    notes: list[str] = []
    names = [name for found in pictures_by_split(images, notes).values() for name in found]
    tasks = [_Part(key=name, picture=images / name) for name in names]
    if not manner.follow_links:
        raise_problems(links_outside([task.picture for task in tasks], [images]), f"The segmenting of {images}")
    raise_problems(_clashes(names), f"The segmenting of {images}")
    summary = partial(PartsSummary, folder=out, pictures=len(tasks), notes=tuple(notes))
    if manner.dry_run:
        return summary(things=0, has_instances=False, dry_run=True)
    counts: list[int] = []  # of masks, where the network tells things apart
    written: list[Path] = []  # the folder, once this process has finished it

    def finish(stage: Path, records: Records) -> None:
        rows = [row for task in tasks for row in records[task.key]["things"] or ()]
        if any(records[task.key]["things"] is not None for task in tasks):
            lines = ",\n".join(json.dumps(row, ensure_ascii=False) for row in rows)
            (stage / "instances.json").write_text(f"[\n{lines}\n]\n", encoding="utf-8")
            counts.append(len(rows))
        scores = {task.key: {"confidence": records[task.key]["confidence"]} for task in tasks}
        (stage / "scores.json").write_text(json_of(scores) + "\n", encoding="utf-8")
        contents = {
            "version": 1,
            "taxonomy": how.meaning.taxonomy.name,
            "pictures": len(tasks),
            "masks": len(rows),
            "files": {task.key: {"map": records[task.key]["map"]} for task in tasks},
        }
        (stage / DATASET_JSON).write_text(dataset_json(contents), encoding="utf-8")
        written.append(out)

    identity = [spelled(("parts", how)), *(f"{task.key} {file_stamp(task.picture)}" for task in tasks)]
    run = partial(_write_parts, how)
    manner = replace(manner, together=how.batch)
    left = made_folder(out, identity, tasks, run, finish, manner=manner, progress=progress, reads=(images,))
    return summary(things=sum(counts), has_instances=bool(counts), done=bool(written), left=left)


def _clashes(names: Sequence[str]) -> list[str]:
    """A problem for every two pictures whose maps would share a name."""
    first: dict[str, str] = {}
    problems = []
    for name in names:
        before = first.setdefault(str(PurePosixPath(name).with_suffix("")).casefold(), name)
        if before != name:
            problems.append(f"{before} and {name} would have one map: rename one of them")
    return problems


def _write_parts(how: Segmenting, stage: Path, tasks: Sequence[_Part]) -> list[Mapping[str, Any] | str]:
    found: list[Mapping[str, Any] | str] = []
    for task, seen in zip(tasks, how.read([task.picture for task in tasks]), strict=True):
        if isinstance(seen, DatasetError):
            found.append(str(seen))
            continue
        path = (stage / "semantic" / task.key).with_suffix(".png")
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(seen.class_id).save(path)
        things = None
        if seen.things is not None:
            things = [_row(task.key, thing, seen.class_id.shape) for thing in seen.things]
        sure = round(float(seen.confidence.mean()), 4)
        found.append({"map": short_file_hash(path), "things": things, "confidence": sure})
    return found


def _row(name: str, thing: Thing, size: tuple[int, ...]) -> dict[str, Any]:
    """A thing as a row of COCO's detections."""
    return {
        "image_id": name,
        "category_id": thing.class_id,
        "score": round(thing.score, 6),
        "segmentation": _counts(thing.mask, size),
    }


def _counts(mask: Mask, size: tuple[int, ...]) -> dict[str, Any]:
    whole = np.zeros(size, dtype=np.uint8, order="F")
    whole[mask.box] = mask.inside
    packed: Any = coco_mask.encode(whole)["counts"]  # bytes, whatever its stub says
    return {"size": list(size), "counts": packed.decode("ascii")}
