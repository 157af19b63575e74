"""Masks of single things, from whatever holds them: a COCO JSON, YOLO's text files, stacks of PNGs, 16-bit PNGs."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path, PurePosixPath

import numpy as np
from jaxtyping import Int32

from mamoe.data.folder.listing import bare_name, some
from mamoe.errors import DatasetError
from mamoe.prepare.annotations import read_index_picture
from mamoe.prepare.classes import ClassTable
from mamoe.prepare.coco_json import CocoInstances, is_score, read_coco, things_of, without_upload
from mamoe.prepare.fuse.masks import cut_out, from_polygons
from mamoe.prepare.fuse.rules import Thing
from mamoe.prepare.pairing import OTHER_KINDS, files_below, left_out, paired
from mamoe.storage.text_file import read_text

_OVER = 0.05  # by so much may YOLO's corners lie outside of the picture
Size = tuple[int, int]
Masks = Callable[[Size], list[Thing]]  # the masks of one picture of (H, W); raises DatasetError


@dataclass(frozen=True, kw_only=True, slots=True)
class FoundInstances:
    """Where the masks of every picture are."""

    kind: str  # for people
    of: dict[str, Masks]  # by picture; a picture without any has none
    notes: tuple[str, ...]


def find_instances(source: Path, pictures: Sequence[str], table: ClassTable, *, crowds: bool = True) -> FoundInstances:
    """The masks of the pictures.

    A ``.json`` file is COCO's. A folder of ``.txt`` files holds YOLO's polygons, or, where a line begins with the name
    of a PNG, a list of masks as Cityscapes' evaluation takes them. A folder of folders of PNGs holds a stack a picture.
    A folder of PNGs holds 16-bit ids, class * divisor + number.

    Args:
        source: file or folder.
        pictures: relative names.
        table: what classes mean.
        crowds: iscrowd means a group.

    Raises:
        DatasetError: there is nothing of these kinds, or nothing for any of the pictures.
    """
    if source.is_file() and source.suffix.lower() == ".json":
        return _of_json(read_coco(source, table), pictures, crowds=crowds)
    names, others = files_below(
        source, (".txt", ".png"), "masks: a COCO JSON, *.txt of YOLO, stacks of PNGs or 16-bit PNGs"
    )
    found = _of_texts(source, pictures, names, table) or _of_pngs(source, pictures, names, table)
    return replace(found, notes=(*left_out(source, others, OTHER_KINDS), *found.notes))


def _of_texts(source: Path, pictures: Sequence[str], names: Sequence[str], table: ClassTable) -> FoundInstances | None:
    texts = [name for name in names if name.lower().endswith(".txt")]
    if not texts:
        return None
    if any(_names_a_png(source / name) for name in texts[:20]):
        of, notes = _matched(source, pictures, texts, partial(_load_list, table=table, root=source))
        return FoundInstances(kind="lists of PNGs", of=of, notes=notes)
    of, notes = _matched(source, pictures, texts, partial(_load_yolo, table=table, root=source))
    pngs = [name for name in names if name.lower().endswith(".png")]
    return FoundInstances(kind="YOLO's polygons", of=of, notes=(*left_out(source, pngs, "PNG(s)"), *notes))


def _of_pngs(source: Path, pictures: Sequence[str], names: Sequence[str], table: ClassTable) -> FoundInstances:
    stacks: dict[str, list[str]] = {}
    for name in names:
        if "/" in name:
            stacks.setdefault(str(PurePosixPath(name).parent), []).append(name)
    by_stack = paired(pictures, [f"{folder}.png" for folder in stacks])
    if len(by_stack) <= len(paired(pictures, names)):
        of, notes = _matched(source, pictures, names, partial(_load_ids, table=table, root=source))
        return FoundInstances(kind="16-bit ids", of=of, notes=notes)
    served = {picture: bare_name(folder) for picture, folder in by_stack.items()}
    loose = [name for name in names if "/" not in name]
    return FoundInstances(
        kind="stacks of PNGs",
        of={
            picture: partial(_load_stack, tuple(source / name for name in stacks[folder]), table)
            for picture, folder in served.items()
        },
        notes=(
            *left_out(source, sorted(stacks.keys() - set(served.values())), "stack(s) without a picture"),
            *left_out(source, loose, "PNG(s) in no stack"),
        ),
    )


def _of_json(instances: CocoInstances, pictures: Sequence[str], *, crowds: bool) -> FoundInstances:
    by_name = {name: image for image, name in instances.names.items()}
    match = paired(pictures, list(by_name))
    notes = list(instances.notes)
    if len(match) < len(pictures):
        plain = _once({name: without_upload(name) for name in by_name}, instances.path, notes)
        match = {picture: plain[name] for picture, name in paired(pictures, list(plain)).items()} | match
    if len(match) < len(pictures):  # detections name their pictures by number
        numbers = _once({name: _number(name) for name in by_name if _is_number(name)}, instances.path, notes)
        stems = {picture: PurePosixPath(picture).stem for picture in pictures if picture not in match}
        match |= {p: numbers[_number(s)] for p, s in stems.items() if _is_number(s) and _number(s) in numbers}
    if by_name and not match:  # one that names none was written by a network that found nothing
        raise DatasetError(
            f"{instances.path} is about none of the pictures: it names {some(list(by_name), 3)}, they are called "
            f"{some(list(pictures), 3)}."
        )
    notes += left_out(instances.path, sorted(by_name.keys() - set(match.values())), "image(s) without a picture")
    return FoundInstances(
        kind="COCO's JSON",
        of={
            picture: partial(
                _load_json,
                annotations=instances.of_image.get(by_name[name], ()),
                path=instances.path,
                said=instances.sizes.get(by_name[name]),
                crowds=crowds,
            )
            for picture, name in match.items()
        },
        notes=tuple(notes),
    )


def _load_json(size: Size, *, annotations: Sequence, path: Path, said: Size | None, crowds: bool) -> list[Thing]:
    return things_of(annotations, size, path, said=said, crowds=crowds)


def _once(short: Mapping[str, str], path: Path, notes: list[str]) -> dict[str, str]:
    """The names by their short forms, without those that share one: nobody knows which of them is meant."""
    counts = Counter(short.values())
    if shared := sorted(name for name, one in short.items() if counts[one] > 1):
        notes.append(f"{path}: {some(shared)} share a name once it is shortened, so that none is taken by it.")
    return {one: name for name, one in short.items() if counts[one] == 1}


def _is_number(name: str) -> bool:
    return name.isascii() and name.isdigit()


def _number(name: str) -> str:
    """A number as text, without leading zeros."""
    return name.lstrip("0")


def _matched(
    source: Path, pictures: Sequence[str], names: Sequence[str], load: Callable[..., list[Thing]]
) -> tuple[dict[str, Masks], tuple[str, ...]]:
    """The masks of the pictures that have a file of their name, and a note on the files of no picture."""
    match = paired(pictures, names)
    if not match:
        raise DatasetError(
            f"{source} holds masks of none of the pictures: there are {some(list(names), 3)}, they are called "
            f"{some(list(pictures), 3)}."
        )
    alone = sorted(set(names) - set(match.values()))
    return (
        {picture: partial(load, source / name) for picture, name in match.items()},
        tuple(left_out(source, alone, "file(s) without a picture")),
    )


def _load_ids(path: Path, size: Size, *, table: ClassTable, root: Path) -> list[Thing]:
    values = read_index_picture(path)
    _require_size(values.shape, size, path)
    found = []
    for value, (rows, columns) in _pixels_of(values, table.divisor):
        class_id = table.numbers.get(value // table.divisor)
        if class_id is None:
            raise DatasetError(f"{path} has the id {value}, and the class table no value {value // table.divisor}.")
        if class_id == table.taxonomy.void_id:
            continue
        top, left = int(rows.min()), int(columns.min())
        inside = np.zeros((int(rows.max()) - top + 1, int(columns.max()) - left + 1), dtype=bool)
        inside[rows - top, columns - left] = True
        found.append(Thing(mask=cut_out(inside, top, left), class_id=class_id, where=f"id {value}"))
    return found


def _pixels_of(values: Int32[np.ndarray, "H W"], least: int) -> list[tuple[int, tuple[np.ndarray, np.ndarray]]]:
    """Every value from ``least`` on with the rows and columns of its pixels, in one sort of these pixels."""
    flat = values.ravel()
    places = np.flatnonzero(flat >= least)
    if not len(places):
        return []
    places = places[np.argsort(flat[places], kind="stable")]
    present, starts = np.unique(flat[places], return_index=True)
    parts = np.split(places, starts[1:])
    width = values.shape[1]
    return [(int(v), (part // width, part % width)) for v, part in zip(present, parts, strict=True)]


def _class_number(word: str) -> int:
    try:
        return int(word)
    except ValueError:
        raise ValueError(f"a class is a whole number, and spaces part the words, got {word!r:.20}") from None


def _load_yolo(path: Path, size: Size, *, table: ClassTable, root: Path) -> list[Thing]:
    """Lines of class x1 y1 x2 y2 ... with shares of width and height, and perhaps a score at the end."""
    height, width = size
    found = []
    for number, line in enumerate(_lines(path), start=1):
        where = f"line {number}"
        try:
            klass, *numbers = line.split()
            label, values = _class_number(klass), [float(word) for word in numbers]
            if not all(map(math.isfinite, values)):
                raise ValueError("not all of it are numbers")
            score = values.pop() if len(values) % 2 else 1.0
            if not is_score(score):
                raise ValueError(f"a score is a number in 0 to 1, got {score:g}")
            if len(values) == 4 and max(values) <= 1:
                raise ValueError("that is a box; a mask needs three corners or more")
            if odd := [v for v in values if not -_OVER <= v <= 1 + _OVER]:
                raise ValueError(f"shares of width and height lie in 0 to 1, got {odd[0]:g}; are those pixels?")
            polygon = [v * (height if i % 2 else width) for i, v in enumerate(values)]
            mask = from_polygons([polygon], size)
        except ValueError as error:
            raise DatasetError(f"{path}, {where}: {error}. Wanted: class x1 y1 x2 y2 x3 y3 ... [score].") from None
        class_id = table.numbers.get(label)
        if class_id is None:
            raise DatasetError(f"{path}, {where}: the class table has no value {label}.")
        if class_id != table.taxonomy.void_id:
            found.append(Thing(mask=mask, class_id=class_id, score=score, where=where))
    return found


def _load_list(path: Path, size: Size, *, table: ClassTable, root: Path) -> list[Thing]:
    """Lines of PNG, label and score."""
    found = []
    for number, line in enumerate(_lines(path), start=1):
        words = line.rsplit(maxsplit=2)
        try:
            name, label, score = words[0], _class_number(words[1]), float(words[2])
            if not is_score(score):
                raise ValueError
        except (ValueError, IndexError):
            raise DatasetError(
                f"{path}, line {number}: wanted a PNG, its label and its score in 0 to 1, got {line!r:.80}."
            ) from None
        png = path.parent / name
        if not _within(png, root):
            raise DatasetError(f"{path}, line {number}: {name!r} leads out of {root}.")
        class_id = table.numbers.get(label)
        if class_id is None:
            raise DatasetError(f"{path}, line {number}: the class table has no value {label}.")
        if class_id != table.taxonomy.void_id:
            found.append(_bitmap(png, size, class_id, score))
    return found


def _load_stack(paths: Sequence[Path], table: ClassTable, size: Size) -> list[Thing]:
    """PNGs called NUMBER_CLASS.png or NUMBER_CLASS_SCORE.png, the class by its name or value."""
    found = []
    for path in paths:
        _, *words = path.stem.split("_")
        score = 1.0
        if len(words) > 1 and _is_score(words[-1]):
            score = float(words.pop())
        name = "_".join(words)
        class_id = table.numbers.get(int(name)) if _is_number(name) else table.class_called(name)
        if class_id is None:
            raise DatasetError(
                f"{path}: the class table has no class {name!r}. Masks of a stack are called NUMBER_CLASS.png or "
                "NUMBER_CLASS_SCORE.png, such as 003_car_0.91.png."
            )
        if class_id != table.taxonomy.void_id:
            found.append(_bitmap(path, size, class_id, score))
    return found


def _bitmap(path: Path, size: Size, class_id: int, score: float) -> Thing:
    values = read_index_picture(path)
    _require_size(values.shape, size, path)
    return Thing(mask=cut_out(values > 0), class_id=class_id, score=score, where=path.name)


def _require_size(found: tuple[int, ...], size: Size, path: Path) -> None:
    if tuple(found) != tuple(size):
        raise DatasetError(f"{path} has (height, width) {tuple(found)}, but the map of classes has {size}.")


def _lines(path: Path) -> list[str]:
    try:
        return [line for line in read_text(path).splitlines() if line.strip()]
    except (OSError, ValueError) as error:
        raise DatasetError(f"Cannot read {path}: {error}") from None


def _names_a_png(path: Path) -> bool:
    lines = _lines(path)
    return bool(lines) and ".png" in lines[0].lower()


def _is_score(word: str) -> bool:
    try:
        return "." in word and 0 <= float(word) <= 1
    except ValueError:
        return False


def _within(path: Path, root: Path) -> bool:
    return "\0" not in str(path) and path.resolve().is_relative_to(root.resolve())
