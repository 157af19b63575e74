"""A copy of a data set in which is mended what can be mended without asking anybody."""

from __future__ import annotations

import csv
import io
import json
import shutil
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import yaml
from PIL import Image

from mamoe.data.folder.description import DATA_YAML, USUAL, DataFolder, data_folder
from mamoe.data.folder.matching import keyed
from mamoe.data.folder.prompts import HEADER, scan_instance_prompts, scan_prompts_csv
from mamoe.data.folder.split import SampleFiles, for_split
from mamoe.data.reading.looks import look_at_map
from mamoe.data.reading.pictures import is_transparent, picture_header, read_picture
from mamoe.errors import DatasetError
from mamoe.prepare.doctor.examine import Diagnosis
from mamoe.prepare.doctor.twins import Twins
from mamoe.prepare.record import DATASET_JSON, Written, contents_of, dataset_json, groups_of
from mamoe.storage.hashing import short_file_hash
from mamoe.storage.staging import staged_folder
from mamoe.vocabulary.exif import orientation_of
from mamoe.vocabulary.panoptic import UNREADABLE
from mamoe.vocabulary.taxonomy import Taxonomy, shipped_taxonomies

Progress = Callable[[int, int, str], None]


def mend(diagnosis: Diagnosis, out: Path, taxonomy: Taxonomy | None = None, progress: Progress | None = None) -> str:
    """Write the data set anew; returns what was done, in lines.

    Pictures that EXIF turns are stored upright, transparent ones on black, both as PNG; maps of class indices (palette
    or grey) and maps with an opaque alpha channel become panoptic PNGs, where all their classes are known; of a
    picture in two splits the one to train on goes, of one file twice in a split the second. Rows for pictures that are
    not there go. Everything else is copied as it is, faults included: a text file of which something cannot be read or
    understood is not written anew, because what it says there would be gone. ``dataset.json`` tells what is in
    the copy, and which segments are groups, as that of the folder does.

    Args:
        diagnosis: of the folder as it is.
        out: new or empty.
        taxonomy: as for the diagnosis.

    Raises:
        ConfigError: ``out`` is in use. DatasetError: ``dataset.json`` cannot be read. DiskFullError: nothing of the
            copy is kept.
    """
    found = data_folder(diagnosis.folder, taxonomy)
    groups = groups_of(diagnosis.folder)
    gone = _superfluous(diagnosis.twins)
    done: Counter[str] = Counter()
    written: list[Written] = []
    with staged_folder(out) as stage:
        for split, samples in diagnosis.samples.items():
            kept = [sample for sample in samples if sample.image not in gone]
            done["pictures left out that were there twice"] += len(samples) - len(kept)
            names: dict[str, SampleFiles] = {}
            for number, sample in enumerate(kept, start=1):
                name = _copied(sample, split, stage, found.taxonomy, done)
                names[name] = sample
                of_several = groups.get(f"{split}/{sample.key}", frozenset())
                written.append(_contents(stage, split, name, sample, of_several, found.taxonomy))
                if progress is not None:
                    progress(number, len(kept), split)
            _write_texts(stage, split, names, found, done)
        _write_description(stage, found)
        contents = contents_of(list(diagnosis.samples), written, found.taxonomy)
        (stage / DATASET_JSON).write_text(dataset_json(contents), encoding="utf-8")
    lines = [f"{count} {what}" for what, count in done.items() if count]
    return "\n".join([f"{out}: a mended copy; {diagnosis.folder} is as it was.", *(f"- {line}" for line in lines)])


def _superfluous(twins: tuple[Twins, ...]) -> set[Path]:
    """Of two the one in ``train`` where the other is not; else the second."""
    gone: set[Path] = set()
    for pair in twins:
        first_goes = pair.split == "train" and pair.other_split != "train"
        if not {pair.image, pair.other} & gone:
            gone.add(pair.image if first_goes else pair.other)
    return gone


def _copied(sample: SampleFiles, split: str, stage: Path, taxonomy: Taxonomy, done: Counter[str]) -> str:
    """Write one picture and its map; returns the picture's new key."""
    name, why = sample.key, _why_redrawn(sample.image)
    if why is not None:
        name = str(PurePosixPath(name).with_suffix(".png"))
        Image.fromarray(read_picture(sample.image)).save(_place(stage, "images", split, name))
        done[why] += 1
    else:
        shutil.copyfile(sample.image, _place(stage, "images", split, name))
    if sample.panoptic is not None:
        target = _place(stage, "panoptic", split, str(PurePosixPath(name).with_suffix(".png")))
        converted = _panoptic_of(sample.panoptic, taxonomy)
        if converted is None:
            shutil.copyfile(sample.panoptic, target)
        else:
            done["maps became panoptic PNGs"] += 1
            Image.fromarray(converted).save(target)
    return name


def _contents(
    stage: Path, split: str, name: str, sample: SampleFiles, groups: frozenset[int], taxonomy: Taxonomy
) -> Written:
    """What ``dataset.json`` says of a picture in the copy; of a map that cannot be read no pixels."""
    image, panoptic = stage / "images" / split / name, (stage / "panoptic" / split / name).with_suffix(".png")
    pixels, things = {}, 0
    with suppress(DatasetError):
        look = look_at_map(panoptic)
        pixels = {str(i): int(count) for i, count in enumerate(look.class_pixels) if count}
        countable = {row.id for row in taxonomy.classes if row.is_thing}
        things = sum(classes[0] in countable for classes in look.segments.values())
    return Written(
        split=split,
        name=name,
        caption=sample.prompts.global_prompt,
        prompts={str(segment): text for segment, text in sample.prompts.by_segment.items()},
        instances=max(0, things - len(groups)),
        groups=sorted(groups),
        pixels=pixels,
        remarks=(),
        picture_hash=short_file_hash(image),
        map_hash=short_file_hash(panoptic) if panoptic.is_file() else "",
    )


def _place(stage: Path, kind: str, split: str, name: str) -> Path:
    path = stage / kind / split / name
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def _why_redrawn(image: Path) -> str | None:
    try:
        header = picture_header(image)
        if header.orientation != 1:
            return "pictures stored upright"
        return "transparent pictures put on black" if header.alpha and is_transparent(image) else None
    except DatasetError:
        return None


def _panoptic_of(path: Path, taxonomy: Taxonomy) -> np.ndarray | None:
    """The pixels of a panoptic PNG where a map is none and can be turned into one for sure; else None."""
    known = [row.id for row in taxonomy.classes] + [taxonomy.void_id]
    try:
        with Image.open(path) as picture:
            if picture.format != "PNG" or orientation_of(picture) != 1:
                return None
            if picture.mode in ("P", "L"):
                classes = np.array(picture)
                if not np.isin(classes, known).all():
                    return None
                return np.stack([np.zeros_like(classes), np.zeros_like(classes), classes], axis=-1)
            if picture.mode == "RGBA":
                pixels = np.array(picture)
                opaque = bool((pixels[..., 3] == 255).all()) and bool(np.isin(pixels[..., 2], known).all())
                return np.ascontiguousarray(pixels[..., :3]) if opaque else None
            return None
    except UNREADABLE:
        return None


def _write_texts(
    stage: Path, split: str, names: Mapping[str, SampleFiles], found: DataFolder, done: Counter[str]
) -> None:
    keys = [sample.key for sample in names.values()]
    if found.prompts is not None:
        source, target = for_split(found.prompts, split), stage / USUAL["prompts"].format(split=split)
        told = _told_of(source, scan_prompts_csv, keys)
        if told is None:
            _copied_text(source, target, done)
        else:
            text = io.StringIO()
            rows = csv.writer(text, lineterminator="\n")
            rows.writerow(HEADER)
            rows.writerows((name, one.prompts.global_prompt) for name, one in names.items() if one.key in told)
            target.write_text(text.getvalue(), encoding="utf-8")
    if found.instance_prompts is not None:
        source = for_split(found.instance_prompts, split)
        target = stage / USUAL["instance_prompts"].format(split=split)
        told = _told_of(source, scan_instance_prompts, keys)
        if told is None:
            _copied_text(source, target, done)
        else:
            entries = {
                name: {str(segment): prompt for segment, prompt in sample.prompts.by_segment.items()}
                for name, sample in names.items()
                if sample.key in told
            }
            target.write_text(json.dumps(entries, ensure_ascii=False, indent=1), encoding="utf-8")


def _told_of(
    path: Path, scan: Callable[[Path], tuple[Mapping[str, Any], list[str]]], keys: list[str]
) -> set[str] | None:
    """Which of the pictures a text file speaks of; None where something in it cannot be read or understood."""
    try:
        entries, problems = scan(path)
    except DatasetError:
        return None
    meant = keyed(entries, keys)
    return None if problems or meant.wrong else set(meant.key_of)


def _copied_text(source: Path, target: Path, done: Counter[str]) -> None:
    if source.is_file():
        shutil.copyfile(source, target)
        done["text files copied with their faults"] += 1


def _write_description(stage: Path, found: DataFolder) -> None:
    taxonomy = found.taxonomy
    name = taxonomy.name
    if name not in shipped_taxonomies() or Taxonomy.load(name).to_dict() != taxonomy.to_dict():
        name = "taxonomy.yaml"
        (stage / name).write_text(yaml.safe_dump(taxonomy.to_dict(), sort_keys=False), encoding="utf-8")
    entries: dict[str, object] = {"images": USUAL["images"], "panoptic_maps": USUAL["panoptic_maps"]}
    entries |= {key: USUAL[key] for key in ("prompts", "instance_prompts") if getattr(found, key) is not None}
    entries["taxonomy"] = name
    if found.size is not None:
        entries["size"] = list(found.size) if isinstance(found.size, tuple) else found.size
    if found.recursive:
        entries["recursive"] = True
    (stage / DATA_YAML).write_text(yaml.safe_dump(entries, sort_keys=False), encoding="utf-8")
