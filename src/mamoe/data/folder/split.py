"""Which files of a split belong together: picture, panoptic map, prompt and instance prompts, by name."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TypeVar

from mamoe.data.folder.listing import Listing, is_litter, listed, some
from mamoe.data.folder.matching import Keyed, Names, keyed, same_name, twins
from mamoe.data.folder.prompts import scan_instance_prompts, scan_prompts_csv
from mamoe.data.reading.pictures import SUFFIXES, why_unread
from mamoe.errors import DatasetError
from mamoe.vocabulary.map_kinds import why_no_suffix
from mamoe.vocabulary.prompts import RegionPrompts
from mamoe.vocabulary.splits import split_name

T = TypeVar("T")
MAP_SUFFIXES = (".png",)
RECURSIVE = "data.recursive=true (`recursive: true` in data.yaml)"


@dataclass(frozen=True, kw_only=True, slots=True)
class SampleFiles:
    """One picture with what belongs to it."""

    key: str  # name of the picture, relative to the folder of its split, / between folders
    image: Path
    panoptic: Path | None  # None: there is no map of that name
    prompts: RegionPrompts
    condition: Path | None = None  # its condition picture; None: the data set has none in files


@dataclass(frozen=True, kw_only=True, slots=True)
class SplitFiles:
    """A split in its order, and everything wrong with it that shows without opening a picture."""

    samples: tuple[SampleFiles, ...]
    instance_prompts: Path | None  # the JSON the samples' instance prompts come from
    problems: tuple[str, ...]
    notes: tuple[str, ...] = ()  # what is not used, and what is not there and need not be


def index_split(
    *,
    images: Path,
    panoptic_maps: Path,
    split: str,
    prompts: Path | None,
    instance_prompts: Path | None,
    conditions: Path | None = None,
    recursive: bool = False,
) -> SplitFiles:
    """List ``<images>/<split>`` and find each picture's map, prompts and condition picture.

    Maps and condition pictures have the picture's name, or one that differs in its ending; with ``recursive`` they lie
    in folders of the same names. How the text files name pictures: :mod:`mamoe.data.folder.matching`. ``{split}`` in
    their paths stands for the split. Samples are ordered by the numbers in their names (see
    :func:`mamoe.data.folder.listing.order_of`).

    What is missing or wrong in the files raises nothing: it is listed in ``problems``, what is left aside in ``notes``.

    Raises:
        ConfigError: ``split`` is no name; see :func:`mamoe.vocabulary.splits.split_name`.
    """
    problems: list[str] = []
    notes: list[str] = []
    folder = images / split_name(split)
    pictures = _list(folder, SUFFIXES, "pictures", recursive, problems)
    names = pictures.names
    if folder.is_dir() and not names and not problems:
        problems.append(_no_pictures(folder, pictures))
    elif pictures.inner:
        notes.append(
            f"{folder}: folders are not looked into ({some(pictures.inner)}); {RECURSIVE} reads the pictures in them"
        )
    problems += namesakes(names, folder, "pictures")
    notes += [f"{folder}: {text}" for text in _unread(pictures.others)]

    maps = _maps_of(names, folder, panoptic_maps / split, recursive, problems, notes)
    shown = {} if conditions is None else _conditions_of(names, conditions / split, recursive, problems)

    prompt_file, segment_file = (
        None if path is None else for_split(path, split) for path in (prompts, instance_prompts)
    )
    rows = _read_optional(prompt_file, scan_prompts_csv, problems)
    texts = {}
    if rows is not None:
        meant = keyed(rows, names)
        texts = {name: rows[key].prompt for name, key in meant.key_of.items()}
        problems += [
            f"{folder / name} has no prompt in {prompt_file}"
            for name in names
            if name not in texts and name not in meant.explained
        ]
        problems += _key_problems(meant, lambda key: f"{prompt_file}, line {rows[key].line},", folder, len(names))
        empty = [name for name in names if name in texts and not texts[name].strip()]
        if empty:
            notes.append(f"{prompt_file}: {len(empty)} pictures have an empty prompt: {some(empty)}")
    elif prompts is None and names:
        notes.append(f"{folder}: there is no prompts CSV, so that all {len(names)} global prompts are empty")
    segments = {}
    entries = _read_optional(segment_file, scan_instance_prompts, problems)
    if entries is not None:
        meant = keyed(entries, names)
        segments = {name: entries[key] for name, key in meant.key_of.items()}
        problems += _key_problems(meant, lambda _: f"{segment_file}, key", folder, len(names))

    samples = tuple(
        SampleFiles(
            key=name,
            image=folder / name,
            panoptic=maps.get(name),
            prompts=RegionPrompts(global_prompt=texts.get(name, ""), by_segment=segments.get(name, {})),
            condition=shown.get(name),
        )
        for name in names
    )
    return SplitFiles(samples=samples, instance_prompts=segment_file, problems=tuple(problems), notes=tuple(notes))


def list_splits(images: Path) -> list[str]:
    """The splits of a data set: the folders inside ``images``, train, val and test first.

    Raises:
        DatasetError: there is no such folder, it holds no folders, or it cannot be listed.
    """
    try:
        found = [entry.name for entry in os.scandir(images) if entry.is_dir()] if os.path.isdir(images) else []
    except OSError as error:
        raise DatasetError(f"Cannot list {images}: {error.strerror}.") from None
    splits = [name for name in found if not is_litter(name)]
    if not splits:
        raise DatasetError(f"{images} must be a folder with one folder of pictures per split, such as {images}/train.")
    usual = {"train": 0, "val": 1, "test": 2}
    return sorted(splits, key=lambda name: (usual.get(name, 3), name))


def _list(folder: Path, suffixes: Collection[str], what: str, recursive: bool, problems: list[str]) -> Listing:
    try:
        return listed(folder, suffixes, recursive=recursive)
    except DatasetError as error:
        problems.append(str(error))
    except OSError as error:
        near = os.listdir(folder.parent) if os.access(folder.parent, os.R_OK) and folder.parent.is_dir() else []
        alike = [name for name in near if name.casefold() == folder.name.casefold() and name != folder.name]
        hint = f"; there is {alike[0]!r}, which differs in capitals" if alike else _where(error, folder)
        problems.append(f"cannot list the folder of {what} {folder}: {error.strerror}{hint}")
    return Listing(names=())


def _where(error: OSError, folder: Path) -> str:
    """What the system's message is about, where that is not the folder itself: something in it, or one above."""
    missing = [place for place in folder.parents if not os.path.exists(place)]
    if isinstance(error, FileNotFoundError) and missing:
        return f": there is no {missing[-1]}"
    return "" if error.filename in (None, str(folder)) else f" ({error.filename})"


def _no_pictures(folder: Path, pictures: Listing) -> str:
    if pictures.inner:
        return f"{folder} holds no pictures but folders ({some(pictures.inner)}): set {RECURSIVE} if they hold pictures"
    return f"{folder} holds no pictures ({', '.join(SUFFIXES)})"


def _unread(others: Sequence[str]) -> list[str]:
    """What lies beside the files that are read, kind by kind."""
    kinds = defaultdict(list)
    for name in others:
        kinds[PurePosixPath(name).suffix.lower()].append(name)
    return [f"{len(names)} files are not read: {some(names)}{why_unread(kind)}" for kind, names in kinds.items()]


def _maps_of(
    names: Sequence[str], folder: Path, map_folder: Path, recursive: bool, problems: list[str], notes: list[str]
) -> dict[str, Path]:
    maps = _list(map_folder, MAP_SUFFIXES, "panoptic maps", recursive, problems)
    known, others = Names(maps.names), Names(maps.others)
    found: dict[str, str] = {}
    explained: set[str] = set()
    for name in names if os.path.isdir(map_folder) else ():
        candidates = known.beside(name)
        if len(candidates) == 1:
            found[name] = candidates[0]
            continue
        problem = f"{folder / name} has no panoptic map in {map_folder}"
        if candidates:
            problem = f"{folder / name} has {len(candidates)} panoptic maps in {map_folder}: {some(candidates)}"
            explained.update(candidates)
        elif other := others.beside(name):
            explained.update(other)
            problem += f"; {other[0]} there is no 8-bit RGB PNG, {why_no_suffix(PurePosixPath(other[0]).suffix)}"
        elif near := known.near(name):
            explained.add(near[0])
            problem += f"; there is {near[0]!r}, {near[1]}: use one name for both"
        elif maps.inner and not maps.names:
            problem += f", which holds folders ({some(maps.inner)}); {RECURSIVE} looks into them"
        problems.append(problem)
    used = explained.union(found.values())
    unused = [name for name in maps.names if name not in used]
    if unused:
        notes.append(f"{map_folder}: {len(unused)} maps belong to no picture in {folder}: {some(unused)}")
    notes += [f"{map_folder}: {text}" for text in _unread([n for n in maps.others if n not in explained])]
    return {name: map_folder / match for name, match in found.items()}


def _conditions_of(names: Sequence[str], folder: Path, recursive: bool, problems: list[str]) -> dict[str, Path]:
    there = Names(_list(folder, SUFFIXES, "condition pictures", recursive, problems).names)
    found = {name: match for name in names if (match := condition_of(name, there)) is not None}
    if folder.is_dir():
        problems += [f"{name} has no condition picture in {folder}" for name in names if name not in found]
    return {name: folder / match for name, match in found.items()}


def namesakes(names: Sequence[str], folder: Path, what: str) -> list[str]:
    """Files of one name but for their endings, whose maps and outputs could not be told apart."""
    groups = defaultdict(list)
    for name in names:
        groups[same_name(name)].append(name)
    return [
        f"{folder}: {len(group)} {what} are called {name!r} ({some(group)}){twins(group)}; rename them"
        for name, group in groups.items()
        if len(group) > 1
    ]


def condition_of(name: str, there: Names) -> str | None:
    """The condition picture of a picture or map: of the same name, else the PNG of that stem, else the only one."""
    candidates = there.beside(name)
    plain = [c for c in candidates if PurePosixPath(c).suffix.lower() == ".png"]
    for group in (candidates, plain):
        if len(group) == 1:
            return group[0]
    return None


def for_split(path: Path, split: str) -> Path:
    """The text file of a split: ``{split}`` in its path stands for the split's name."""
    return Path(str(path).replace("{split}", split))


def _read_optional(path: Path | None, scan: Callable[[Path], tuple[T, list[str]]], problems: list[str]) -> T | None:
    if path is None:
        return None
    try:
        found, wrong = scan(path)
    except DatasetError as error:
        problems.append(str(error))
        return None
    problems += wrong
    return found


def _key_problems(meant: Keyed, where: Callable[[str], str], folder: Path, pictures: int) -> list[str]:
    if not pictures:  # that there are none is said once
        return []
    strange = {key: f"there is no such picture in {folder}{hint}" for key, hint in meant.strange.items()}
    return [f"{where(key)} {key!r}: {reason}" for key, reason in sorted({**meant.wrong, **strange}.items())]
