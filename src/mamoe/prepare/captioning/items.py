"""What of a data set may be captioned: its pictures, or the objects in them."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mamoe.data.check.split import in_order
from mamoe.data.folder.description import DATA_YAML, USUAL, DataFolder
from mamoe.data.folder.listing import listed, some
from mamoe.data.folder.prompts import raise_problems
from mamoe.data.folder.split import RECURSIVE, SampleFiles, index_split, list_splits, namesakes
from mamoe.data.reading.pictures import SUFFIXES
from mamoe.errors import ConfigError, DatasetError, nearest
from mamoe.machine.shares import Share
from mamoe.prepare.captioning.choices import Kind
from mamoe.prepare.captioning.files import CaptionsFile, InstancePromptsFile, TextFile
from mamoe.storage.yaml_file import read_yaml
from mamoe.vocabulary.panoptic import read_panoptic
from mamoe.vocabulary.taxonomy import Taxonomy

_MOST_THREADS = 32
Progress = Callable[[int, int, str], None]  # (done, in all, a word)


@dataclass(frozen=True, kw_only=True, slots=True)
class Item:
    """A picture, or one object in it."""

    id: str  # "train/x.png", "train/x.png#300": how it is called in journal and report
    file: Path  # the text file it belongs into
    name: str  # of the picture, relative to the folder of its split
    picture: Path
    text: str  # what the text file says of it; empty where it says nothing of its own
    segment: int | None = None  # None: the whole picture
    panoptic: Path | None = None
    subject: str = ""  # what the object's class is called


@dataclass(frozen=True, kw_only=True, slots=True)
class Found:
    """The items of a data set, or of this process's share of it."""

    items: tuple[Item, ...]
    names: dict[Path, tuple[str, ...]]  # text file -> all pictures of its split
    notes: tuple[str, ...] = ()

    def file(self, path: Path) -> TextFile:
        """The text file as it is now; see :mod:`mamoe.prepare.captioning.files`."""
        known = self.names[path]
        return InstancePromptsFile(path, known) if path.suffix.lower() == ".json" else CaptionsFile(path, known)


@dataclass(frozen=True, kw_only=True, slots=True)
class Wanted:
    """Which objects are asked for."""

    classes: frozenset[int]  # ids
    least_pixels: int  # an object with fewer is left out


def wanted_objects(taxonomy: Taxonomy, names: Sequence[str] | None, least_pixels: int) -> Wanted:
    """The objects of some classes by name; None: of all things.

    Raises:
        ConfigError: there is no such class, or the classes have no things.
    """
    if names is None:
        ids = frozenset(row.id for row in taxonomy.classes if row.is_thing)
        if not ids:
            raise ConfigError(f"The taxonomy {taxonomy.name} has no things: name classes with --classes.")
        return Wanted(classes=ids, least_pixels=least_pixels)
    known = {row.name: row.id for row in taxonomy.classes}
    if odd := [name for name in names if name not in known]:
        near = nearest(odd[0], [*known])
        raise ConfigError(
            f"There is no class {odd[0]!r}"
            + (f"; did you mean {near!r}?" if near else f"; the taxonomy {taxonomy.name} has {some(known, 30)}.")
        )
    return Wanted(classes=frozenset(known[name] for name in names), least_pixels=least_pixels)


def list_pictures(root: Path, folder: DataFolder, splits: Sequence[str] | None, share: Share) -> Found:
    """Every picture of the splits, with what the prompts CSV says of it; maps need not be there.

    Raises:
        DatasetError: folders or text files cannot be read; all problems of all splits in one error.
        ConfigError: there is no such split, or no place for the captions.
    """
    items: list[Item] = []
    names: dict[Path, tuple[str, ...]] = {}
    problems: list[str] = []
    notes: list[str] = []
    for split, path in _files(root, folder, splits, Kind.PICTURES).items():
        place = folder.images / split
        found = listed(place, SUFFIXES, recursive=folder.recursive)
        if not found.names and found.inner:
            problems.append(f"{place} holds no pictures but folders ({some(found.inner)}): set {RECURSIVE}")
        problems += namesakes(found.names, place, "pictures")
        names[path] = found.names
        texts = CaptionsFile(path, found.names)
        for name in share.of(found.names):
            text = texts.get(name, None)
            items.append(Item(id=f"{split}/{name}", file=path, name=name, picture=place / name, text=text))
    raise_problems(problems, f"The data set {root}")
    return Found(items=tuple(items), names=names, notes=tuple(notes))


def list_objects(
    root: Path,
    folder: DataFolder,
    splits: Sequence[str] | None,
    share: Share,
    wanted: Wanted,
    progress: Progress | None = None,
) -> Found:
    """Every wanted object in the pictures of the splits, with what the instance prompts say of it.

    An object whose prompt is its class's has none of its own.

    Raises:
        DatasetError: folders, maps or text files cannot be read; all problems in one error.
        ConfigError: there is no such split, or no place for the prompts.
    """
    items: list[Item] = []
    names: dict[Path, tuple[str, ...]] = {}
    problems: list[str] = []
    small = 0
    for split, path in _files(root, folder, splits, Kind.OBJECTS).items():
        index = index_split(
            images=folder.images,
            panoptic_maps=folder.panoptic_maps,
            split=split,
            prompts=None,
            instance_prompts=path if path.exists() else None,
            recursive=folder.recursive,
        )
        problems += index.problems
        names[path] = tuple(sample.key for sample in index.samples)
        mine = [sample for sample in share.of(index.samples) if sample.panoptic is not None]
        for number, (sample, objects) in enumerate(zip(mine, _objects_of(mine, wanted), strict=True), 1):
            if isinstance(objects, DatasetError):
                problems.append(str(objects))
                continue
            small += sum(one.pixels < wanted.least_pixels for one in objects)
            items += [
                _item(split, sample, one, path, folder.taxonomy.prompt_of(one.class_id))
                for one in objects
                if one.pixels >= wanted.least_pixels
            ]
            if progress is not None:
                progress(number, len(mine), split)
    raise_problems(problems, f"The data set {root}")
    left = (
        [f"{small} objects have fewer than {wanted.least_pixels} pixels and keep the prompts they have."]
        if small
        else []
    )
    return Found(items=tuple(items), names=names, notes=tuple(left))


@dataclass(frozen=True, kw_only=True, slots=True)
class _Object:
    segment: int
    class_id: int
    pixels: int


def _objects_of(samples: Sequence[SampleFiles], wanted: Wanted) -> Iterator[list[_Object] | DatasetError]:
    """The objects of the wanted classes in every map, in order; read by a thread for each core."""

    def look(sample: SampleFiles) -> list[_Object] | DatasetError:
        assert sample.panoptic is not None
        try:
            panoptic = read_panoptic(sample.panoptic)
        except DatasetError as error:
            return error
        pixels = np.bincount(panoptic.segment_id.ravel())
        classes = panoptic.classes.items()
        return [_Object(segment=s, class_id=c, pixels=int(pixels[s])) for s, c in classes if c in wanted.classes]

    threads = min(_MOST_THREADS, os.cpu_count() or 1)
    with ThreadPoolExecutor(threads) as pool:
        yield from in_order(pool, look, samples, 2 * threads)


def _item(split: str, sample: SampleFiles, one: _Object, file: Path, plain: str) -> Item:
    said = sample.prompts.by_segment.get(one.segment, "").strip()
    return Item(
        id=f"{split}/{sample.key}#{one.segment}",
        file=file,
        name=sample.key,
        picture=sample.image,
        text="" if said == plain else said,
        segment=one.segment,
        panoptic=sample.panoptic,
        subject=plain,
    )


def _files(root: Path, folder: DataFolder, splits: Sequence[str] | None, kind: Kind) -> dict[str, Path]:
    """The text file of every split asked for."""
    there = list_splits(folder.images)
    if odd := [split for split in splits or () if split not in there]:
        raise ConfigError(f"There is no split {odd[0]!r} in {folder.images}; there are {', '.join(there)}.")
    described = root / DATA_YAML
    entries = read_yaml(described) if described.exists() else None
    if isinstance(entries, dict) and kind.key in entries and entries[kind.key] is None:
        raise ConfigError(
            f"{described} says `{kind.key}: null`, so that nobody would read them: write "
            f"`{kind.key}: {USUAL[kind.key]}` there."
        )
    said = folder.prompts if kind is Kind.PICTURES else folder.instance_prompts
    pattern = str(root / USUAL[kind.key] if said is None else said)
    chosen = list(splits or there)
    if "{split}" not in pattern and len(chosen) > 1:
        raise ConfigError(f"All splits share {pattern}, which then fits one of them alone: choose it with --split.")
    return {split: Path(pattern.replace("{split}", split)) for split in chosen}
