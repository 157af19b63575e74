"""What every importer shares: pictures, maps and prompts go out in the package's own layout, or nothing does."""

from __future__ import annotations

import csv
import shutil
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import partial
from itertools import repeat
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from mamoe.console import visible
from mamoe.data.folder.description import DATA_YAML, Size, data_yaml
from mamoe.data.folder.prompts import HEADER, raise_problems
from mamoe.data.reading.pictures import picture_header
from mamoe.errors import DatasetError
from mamoe.prepare.captions import describe, of_a_group
from mamoe.prepare.job import Progress, Records, file_stamp, how_far, made_folder, spelled
from mamoe.prepare.labelled import MANNER, Labelled, Manner, SourcePicture
from mamoe.prepare.names import flat_names
from mamoe.prepare.record import DATASET_JSON, Written, contents_of, dataset_json, json_of
from mamoe.prepare.sources import links_outside
from mamoe.prepare.splits import with_validation
from mamoe.storage.hashing import short_file_hash, short_hash
from mamoe.vocabulary.panoptic import class_pixels, write_panoptic
from mamoe.vocabulary.splits import split_name
from mamoe.vocabulary.taxonomy import Taxonomy, shipped_taxonomies

Report = Callable[[Path, Sequence[Written]], Sequence[str]]  # (folder, what is in it) -> notes
TAXONOMY_FILE = "taxonomy.yaml"  # of a taxonomy that is not shipped
_TURNED = "has an EXIF orientation; the annotation was taken to fit the picture as it is shown"


@dataclass(frozen=True, slots=True)
class Scenery:
    """What a data set shows."""

    place: str  # how captions begin
    size: Size  # that ``data.yaml`` proposes for training: (H, W) or the short side


STREETS, PHOTOGRAPHS = Scenery("a street", (128, 256)), Scenery("a photo", (256, 256))


@dataclass(frozen=True, kw_only=True, slots=True)
class ImportSummary:
    """What an import wrote, or would write."""

    folder: Path
    taxonomy: Taxonomy
    is_shipped: bool  # the taxonomy is one of the package's; otherwise a file of ``folder``
    pictures: Mapping[str, int]  # by split
    instances: Mapping[str, int]  # segments of single things, by split
    groups: Mapping[str, int]  # segments of several things, by split
    notes: tuple[str, ...] = ()  # what was ignored, left out or converted
    done: bool = True  # this process put the folder in place
    left: int = 0  # pictures of other processes' parts that are not finished
    dry_run: bool = False  # nothing was to be written

    def text(self) -> str:
        """The counts by split, then every note, as plain lines."""
        return "\n".join([f"{self.folder}: {self._counts()}.", *(f"- {visible(note)}" for note in self.notes)])

    def _counts(self) -> str:
        counts = "; ".join(
            f"{split} {n} pictures"
            + (f" with {self.instances[split]} instances and {self.groups[split]} groups" if self.done else "")
            for split, n in self.pictures.items()
        )
        return counts + how_far(done=self.done, left=self.left, dry_run=self.dry_run)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Task:
    """One picture to write."""

    split: str
    name: str  # as it is written
    source: SourcePicture

    @property
    def key(self) -> str:
        return f"{self.split}/{self.name}"


def write_dataset(
    out: Path,
    splits: Mapping[str, Sequence[SourcePicture]],
    *,
    taxonomy: Taxonomy,
    scenery: Scenery = PHOTOGRAPHS,
    notes: Sequence[str] = (),
    progress: Progress | None = None,
    manner: Manner = MANNER,
    roots: Sequence[Path] = (),
    report: Report | None = None,
) -> ImportSummary:
    """Write pictures, panoptic maps, prompts, ``data.yaml`` and ``dataset.json`` to ``out``.

    Files: ``images/{split}/NAME``, ``panoptic/{split}/STEM.png``, ``prompts_{split}.csv``,
    ``instance_prompts_{split}.json``, ``data.yaml``, ``dataset.json``, and ``taxonomy.yaml`` unless the taxonomy is a
    shipped one. Pictures are copied byte for byte. No file replaces another: see
    :func:`mamoe.prepare.names.flat_names`. Killed at any moment, ``out`` is as it was or as it should be, and the same
    call goes on with the pictures that are not written yet. Of several processes the last one makes ``out``.

    Args:
        out: must not exist, or be empty, unless ``manner`` says otherwise.
        splits: what to write.
        taxonomy: ``data.yaml`` names it.
        scenery: what is shown.
        notes: what the importer has to say about the whole; what shows in single pictures is added.
        progress: called after every picture.
        manner: links or copies, how many processes, and so on.
        roots: folders the user named; a file that is a link out of all of them is refused. None: nothing is.
        report: adds files of its own to the folder when all pictures are there.

    Raises:
        ConfigError: the name of a split is none.
        DatasetError: ``out`` is in use, names clash, or a source file is wrong; ``out`` is then left as it was.
    """
    splits = {split_name(name): pictures for name, pictures in with_validation(splits, manner.val).items()}
    problems: list[str] = []
    names, prefixed = flat_names({split: [p.name for p in pictures] for split, pictures in splits.items()}, problems)
    raise_problems(problems, f"The import to {out}")
    tasks = [
        _Task(split=split, name=name, source=source)
        for split, pictures in splits.items()
        for name, source in zip(names[split], pictures, strict=True)
    ]
    if not manner.follow_links:
        raise_problems(links_outside([p for task in tasks for p in _files(task)], roots), f"The import to {out}")
    shipped = taxonomy.name in shipped_taxonomies() and Taxonomy.load(taxonomy.name) == taxonomy
    shared = ["Pictures of several folders have one name: all names begin with their folder's."] if prefixed else []
    summary = partial(
        ImportSummary,
        folder=out,
        taxonomy=taxonomy,
        is_shipped=shipped,
        pictures={split: len(pictures) for split, pictures in splits.items()},
    )
    nothing = dict.fromkeys(splits, 0)
    if manner.dry_run:
        return summary(instances=nothing, groups=nothing, notes=(*notes, *shared), done=False, dry_run=True)
    written: list[Written] = []
    said: list[str] = []

    def finish(stage: Path, records: Records) -> None:
        written.extend(Written(**records[task.key]) for task in tasks)
        _write_texts(stage, list(splits), written, taxonomy, scenery.size, shipped=shipped)
        said.extend(report(stage, written) if report is not None else ())

    left = made_folder(
        out,
        _identity(tasks, taxonomy, scenery, manner),
        tasks,
        partial(_write_pictures, taxonomy, scenery.place, manner.link),
        finish,
        manner=manner,
        progress=progress,
        reads=roots,
    )
    if not written:
        return summary(instances=nothing, groups=nothing, notes=tuple(notes), done=False, left=left)
    return summary(
        instances={split: sum(w.instances for w in written if w.split == split) for split in splits},
        groups={split: sum(len(w.groups) for w in written if w.split == split) for split in splits},
        notes=(*notes, *shared, *_remarks(tasks, written), *said),
    )


def write_import(
    source: Path,
    out: Path,
    splits: Mapping[str, Sequence[SourcePicture]],
    taxonomy: Taxonomy,
    scenery: Scenery,
    notes: Sequence[str],
    progress: Progress | None,
    manner: Manner,
) -> ImportSummary:
    """As :func:`write_dataset`, of one folder."""
    return write_dataset(
        out,
        splits,
        taxonomy=taxonomy,
        scenery=scenery,
        notes=notes,
        progress=progress,
        manner=manner,
        roots=(source,),
    )


def _identity(tasks: Sequence[_Task], taxonomy: Taxonomy, scenery: Scenery, manner: Manner) -> list[str]:
    """The same files, unchanged, to be written the same way."""
    how = spelled((taxonomy.to_dict(), scenery.place, scenery.size, manner.link, manner.val))
    texts: dict[int, str] = {}  # what many pictures share, such as a class table, is spelled out once

    def hashed(word: Any) -> str:
        if id(word) not in texts:
            texts[id(word)] = short_hash(spelled(word), 8, errors="surrogateescape")
        return texts[id(word)]

    return [how, *(f"{t.key} {[*map(file_stamp, _files(t)), *map(hashed, _words(t))]}" for t in tasks)]


def _words(task: _Task) -> tuple[Any, ...]:
    """What a picture's loader was given."""
    load = task.source.load
    return (*load.args, *load.keywords.values()) if isinstance(load, partial) else ()


def _files(task: _Task) -> list[Path]:
    return [task.source.picture, *(word for word in _words(task) if isinstance(word, Path))]


def _write_pictures(
    taxonomy: Taxonomy, place: str, link: bool, stage: Path, tasks: Sequence[_Task]
) -> list[dict[str, Any] | str]:
    load_all = tasks[0].source.load_all  # what can load several is the same for all
    found = repeat(None) if load_all is None else load_all([task.source.picture for task in tasks])
    return [_write_picture(taxonomy, place, link, stage, task, one) for task, one in zip(tasks, found, strict=False)]


def _write_picture(
    taxonomy: Taxonomy, place: str, link: bool, stage: Path, task: _Task, found: Labelled | DatasetError | None
) -> dict[str, Any] | str:
    """Write a picture and its map, and tell what is in it, or what is wrong with it."""
    try:
        if isinstance(found, DatasetError):
            raise found
        header = picture_header(task.source.picture)
        labelled = task.source.load() if found is None else found
        _require_size(task.source.picture, header.size, labelled.panoptic.size, turned=header.orientation != 1)
    except DatasetError as error:
        return str(error)
    image = stage / "images" / task.split / task.name
    panoptic = stage / "panoptic" / task.split / f"{Path(task.name).stem}.png"
    for path in (image, panoptic):
        path.parent.mkdir(parents=True, exist_ok=True)
    put_picture(task.source.picture, image, link=link)
    write_panoptic(labelled.panoptic, panoptic)
    pixels = class_pixels(labelled.panoptic.class_id)
    given, prompts, things = labelled.prompts, {}, 0
    for segment, class_id in labelled.panoptic.classes.items():
        if own := given.by_segment.get(segment) if given is not None else None:
            prompts[str(segment)] = own
        elif taxonomy.is_thing(class_id):
            prompt = taxonomy.prompt_of(class_id)
            prompts[str(segment)] = of_a_group(prompt) if segment in labelled.groups else prompt
        things += taxonomy.is_thing(class_id)
    written = Written(
        split=task.split,
        name=task.name,
        caption=describe(labelled.panoptic, taxonomy, place, labelled.groups, pixels)
        if given is None
        else given.global_prompt,
        prompts=prompts,
        instances=things - len(labelled.groups),
        groups=sorted(labelled.groups),
        pixels={str(i): int(pixels[i]) for i in np.flatnonzero(pixels)},
        remarks=[*labelled.remarks, *((_TURNED,) if header.orientation != 1 else ())],
        picture_hash=short_file_hash(image),
        map_hash=short_file_hash(panoptic),
        details=dict(labelled.details),
    )
    return {one.name: getattr(written, one.name) for one in fields(written)}


def put_picture(source: Path, target: Path, *, link: bool) -> None:
    """Copy a picture byte for byte, or link to it; what a killed session left at the place gives way."""
    target.unlink(missing_ok=True)
    if link:
        target.symlink_to(source.resolve())
    else:
        shutil.copyfile(source, target)


def _require_size(picture: Path, size: tuple[int, int], annotated: tuple[int, int], *, turned: bool) -> None:
    if annotated == size:
        return
    text = f"{picture} has (height, width) {size}, but its annotation has {annotated}."
    if turned:
        text += " The picture is shown turned, as its EXIF orientation says, and annotations must fit what is shown."
        if annotated == size[::-1]:
            text += (
                " This one fits the pixels as they are stored: take the orientation out of the picture"
                " (exiftool -Orientation= FILE), or turn the annotation."
            )
    raise DatasetError(text)


def _remarks(tasks: Sequence[_Task], written: Sequence[Written]) -> list[str]:
    counts: Counter[str] = Counter()
    first: dict[str, Path] = {}
    for task, one in zip(tasks, written, strict=True):
        for remark in one.remarks:
            counts[remark] += 1
            first.setdefault(remark, task.source.picture)
    return [f"{n} picture(s): {remark} (first: {first[remark]})." for remark, n in counts.items()]


def _write_texts(
    stage: Path,
    splits: Sequence[str],
    written: Sequence[Written],
    taxonomy: Taxonomy,
    size: Size,
    *,
    shipped: bool,
) -> None:
    for split in splits:
        part = [one for one in written if one.split == split]
        with (stage / f"prompts_{split}.csv").open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(HEADER)
            writer.writerows((one.name, one.caption) for one in part)
        text = json_of({one.name: one.prompts for one in part})
        (stage / f"instance_prompts_{split}.json").write_text(text, encoding="utf-8")
    if not shipped:
        text = yaml.safe_dump(taxonomy.to_dict(), sort_keys=False, allow_unicode=True, width=1000)
        (stage / TAXONOMY_FILE).write_text(text, encoding="utf-8")
    contents: dict[str, Any] = contents_of(splits, written, taxonomy)
    (stage / DATASET_JSON).write_text(dataset_json(contents), encoding="utf-8")
    text = data_yaml(taxonomy.name if shipped else TAXONOMY_FILE, size)
    (stage / DATA_YAML).write_text(text, encoding="utf-8")
