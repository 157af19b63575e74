"""Which files of a split belong together: picture, panoptic map, prompt and instance prompts, by file name."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from mamoe.data.pictures import SUFFIXES
from mamoe.data.prompts import PromptLine, scan_instance_prompts, scan_prompts_csv
from mamoe.types import DatasetError, RegionPrompts

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True, slots=True)
class SampleFiles:
    """One picture with what belongs to it."""

    key: str  # file name of the picture
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
) -> SplitFiles:
    """List ``<images>/<split>`` and find each picture's map, prompts and condition picture.

    Maps and condition pictures have the picture's file name, or its stem and ``.png``. ``{split}`` in the two text
    files' paths stands for the split. Samples are ordered by the numbers in their names (see :func:`order_of`).

    Nothing raises: what is missing or wrong is listed in ``problems``.
    """
    problems: list[str] = []
    folder, map_folder = images / split, panoptic_maps / split
    names = sorted(_list_names(folder, SUFFIXES, "pictures", problems), key=order_of)
    maps = _list_names(map_folder, (".png",), "panoptic maps", problems)
    prompt_file, segment_file = _for_split(prompts, split), _for_split(instance_prompts, split)
    by_file = _read_optional(prompt_file, scan_prompts_csv, problems)
    by_segment = _read_optional(segment_file, scan_instance_prompts, problems)

    if folder.is_dir() and not names:
        problems.append(f"{folder} holds no pictures ({', '.join(SUFFIXES)})")
    stems = Counter(Path(name).stem for name in names)
    problems += [f"{folder}: {n} pictures are called {stem!r}; rename them" for stem, n in stems.items() if n > 1]
    found = {name: _map_name(name, maps) for name in names}
    if map_folder.is_dir():
        problems += [f"{folder / name} has no panoptic map in {map_folder}" for name in names if found[name] is None]
    shown = _find_conditions(names, conditions, split, problems)
    problems += _prompt_problems(names, folder, prompt_file, by_file)
    if by_segment is not None:
        strangers = by_segment.keys() - set(names)
        problems += [
            f"{segment_file}, key {name!r}: there is no such picture in {folder}" for name in sorted(strangers)
        ]

    samples = tuple(
        SampleFiles(
            key=name,
            image=folder / name,
            panoptic=None if (map_name := found[name]) is None else map_folder / map_name,
            prompts=RegionPrompts(
                global_prompt=by_file[name].prompt if by_file and name in by_file else "",
                by_segment=(by_segment or {}).get(name, {}),
            ),
            condition=shown.get(name),
        )
        for name in names
    )
    return SplitFiles(samples=samples, instance_prompts=segment_file, problems=tuple(problems))


def list_splits(images: Path) -> list[str]:
    """The splits of a data set: the folders inside ``images``, train, val and test first.

    Raises:
        DatasetError: there is no such folder, or it holds no folders.
    """
    found = [entry.name for entry in images.iterdir() if entry.is_dir()] if images.is_dir() else []
    splits = [name for name in found if not name.startswith(".")]
    if not splits:
        raise DatasetError(f"{images} must be a folder with one folder of pictures per split, such as {images}/train.")
    usual = {"train": 0, "val": 1, "test": 2}
    return sorted(splits, key=lambda name: (usual.get(name, 3), name))


def order_of(name: str) -> tuple[bool, tuple[int, ...], str]:
    """Sort key of a file name: its numbers from left to right, then the name; names without a number come last."""
    numbers = tuple(int(digits) for digits in re.findall(r"[0-9]+", Path(name).stem))
    return not numbers, numbers, name


def _list_names(folder: Path, suffixes: Iterable[str], what: str, problems: list[str]) -> set[str]:
    try:
        entries = list(folder.iterdir())
    except OSError as error:
        problems.append(f"cannot list the folder of {what} {folder}: {error.strerror}")
        return set()
    return {e.name for e in entries if e.suffix.lower() in suffixes and not e.name.startswith(".")}


def _find_conditions(names: list[str], root: Path | None, split: str, problems: list[str]) -> dict[str, Path]:
    if root is None:
        return {}
    folder = root / split
    there = _list_names(folder, SUFFIXES, "condition pictures", problems)
    found = {name: folder / match for name in names if (match := _map_name(name, there)) is not None}
    if folder.is_dir():
        problems += [f"{name} has no condition picture in {folder}" for name in names if name not in found]
    return found


def _map_name(image_name: str, maps: set[str]) -> str | None:
    candidates = (image_name, Path(image_name).with_suffix(".png").name)
    return next((name for name in candidates if name in maps), None)


def _for_split(path: Path | None, split: str) -> Path | None:
    return None if path is None else Path(str(path).replace("{split}", split))


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


def _prompt_problems(
    names: list[str], folder: Path, path: Path | None, by_file: Mapping[str, PromptLine] | None
) -> list[str]:
    if by_file is None:
        return []
    known = set(names)
    missing = [f"{folder / name} has no prompt in {path}" for name in names if name not in by_file]
    strangers = [
        f"{path}, line {row.line}: there is no picture {name!r} in {folder}"
        for name, row in by_file.items()
        if name not in known
    ]
    return missing + strangers
