"""The categories a COCO panoptic file has of its own: found in a taxonomy by name, or made into a new one."""

from __future__ import annotations

import colorsys
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mamoe.data.folder.listing import some
from mamoe.prepare.captions import words_of
from mamoe.vocabulary.taxonomy import ClassInfo, Taxonomy

MOST_CLASSES = 255  # ids of eight bits, and one of them is void
_LISTED = 12
_GOLDEN = 0.618034  # steps of the golden ratio keep neighbouring hues apart however many there are


@dataclass(frozen=True, kw_only=True, slots=True)
class Category:
    """One row of ``categories``."""

    id: int
    name: str
    is_thing: bool | None  # None: the file does not say
    colour: tuple[int, int, int] | None

    def __str__(self) -> str:
        return _shown(self.id, self.name, self.is_thing)


def parse_categories(rows: Sequence[Mapping[str, Any]], where: str, problems: list[str]) -> tuple[Category, ...]:
    """The rows of ``categories``; what is wrong with them is added to ``problems``."""
    parsed = []
    for number, row in enumerate(rows, start=1):
        key, name, thing, colour = row.get("id"), row.get("name"), row.get("isthing"), row.get("color")
        this = f"{where}, category no. {number} ({name!r})"
        if isinstance(key, bool) or not isinstance(key, int):
            problems.append(f"{this}: id must be a whole number, got {key!r}")
        elif not isinstance(name, str) or not name.strip():
            problems.append(f"{this}: name must be text, got {name!r}")
        elif thing not in (None, 0, 1):
            problems.append(f"{this}: isthing must be 0 or 1, got {thing!r}")
        elif colour is not None and not _is_colour(colour):
            problems.append(f"{this}: color must be three whole numbers in 0..255, got {colour!r}")
        else:
            is_thing = None if thing is None else bool(thing)
            rgb = None if colour is None else (colour[0], colour[1], colour[2])
            parsed.append(Category(id=key, name=name.strip(), is_thing=is_thing, colour=rgb))
    for what, values in (("id", [row.id for row in parsed]), ("name", [row.name for row in parsed])):
        twice = [value for value, n in Counter(values).items() if n > 1]
        problems += [f"{where}: the {what} {value!r} stands in several categories" for value in twice]
    return tuple(parsed)


def match_categories(
    categories: Sequence[Category], used: Collection[int], taxonomy: Taxonomy
) -> tuple[dict[int, int], list[str]]:
    """Class id of every category the taxonomy knows, and where the used ones and the taxonomy differ.

    Names count, not ids: exactly, else without regard to capitals, ``-``, ``_`` and spaces, else without COCO's endings
    ``-other``, ``-merged``, ``-stuff``, if just one class is then meant. Things are things in both.
    """
    class_of: dict[int, int] = {}
    differences = []
    for category in categories:
        row = _class_called(category.name, taxonomy)
        if row is None:
            if category.id in used:
                differences.append(f"the taxonomy has no class {category.name!r}")
        elif category.is_thing not in (None, row.is_thing):
            if category.id in used:
                differences.append(f"{category} is {_shown(row.id, row.name, row.is_thing)} in the taxonomy")
        else:
            class_of[category.id] = row.id
    meaning = defaultdict(list)
    for category in categories:
        if category.id in class_of and category.id in used:
            meaning[class_of[category.id]].append(category.name)
    differences += [f"{' and '.join(names)} are the same class" for names in meaning.values() if len(names) > 1]
    return class_of, differences


def both_lists(categories: Sequence[Category], taxonomy: Taxonomy, differences: Sequence[str]) -> str:
    """What the file has, what the taxonomy has, and the first differences, in one sentence each."""
    there = [_shown(row.id, row.name, row.is_thing) for row in taxonomy.classes]
    return (
        f"its categories are not those of taxonomy {taxonomy.name!r}. The file has {len(categories)}: "
        f"{some([str(row) for row in categories], _LISTED)}. The taxonomy has {len(there)}: {some(there, _LISTED)}. "
        f"Differences: {some(differences, _LISTED)}."
    )


def derive_taxonomy(name: str, tables: Mapping[str, Sequence[Category]], problems: list[str]) -> Taxonomy | None:
    """A taxonomy of all categories of all files, under their own ids where a byte holds them, else 0, 1, 2, ...

    Void is 0 if no class has that id, else 255. Where things are, the grouping ``things`` makes them expert 1. Colours
    that are missing are spread over the hues.

    Args:
        name: of the taxonomy.
        tables: categories by file.
        problems: files that contradict each other, categories without ``isthing`` and too many of them are added here.

    Returns:
        None if there are problems.
    """
    merged: dict[str, Category] = {}
    found: list[str] = []
    same_ids = True
    for where, categories in tables.items():
        for row in categories:
            before = merged.setdefault(row.name, row)
            same_ids &= before.id == row.id
            if row.is_thing is None:
                found.append(f"{where}: category {row.name!r} does not say isthing (1: countable, 0: not)")
            elif before.is_thing not in (None, row.is_thing):
                found.append(f"{where}: {row} is a {_kind(before.is_thing)} in another file")
    rows = list(merged.values())
    if len(rows) > MOST_CLASSES:
        found.append(f"{len(rows)} categories are too many: class ids have 8 bits, so {MOST_CLASSES} are the most")
    problems += found
    if found or not rows:
        return None
    ids = [row.id for row in rows]
    fits = same_ids and len(set(ids)) == len(ids) and all(0 <= i <= 255 for i in ids) and not {0, 255} <= set(ids)
    ids = ids if fits else list(range(len(rows)))
    classes = tuple(
        ClassInfo(
            id=i,
            name=row.name,
            is_thing=bool(row.is_thing),
            prompt=words_of(row.name),
            colour=row.colour or _spread_colour(number),
        )
        for number, (i, row) in enumerate(zip(ids, rows, strict=True))
    )
    things = tuple(row.name for row in classes if row.is_thing)
    groupings = {"things": {"things": things}} if things else {}
    return Taxonomy(name=name, classes=classes, groupings=groupings, void_id=255 if 0 in ids else 0)


def _class_called(name: str, taxonomy: Taxonomy) -> ClassInfo | None:
    forms: tuple[Callable[[str], str], ...] = (str, plain_name, _bare)
    for form in forms:
        found = [row for row in taxonomy.classes if form(row.name) == form(name)]
        if found:
            return found[0] if len(found) == 1 else None
    return None


def plain_name(name: str) -> str:
    """A class name without what people write differently: capitals, ``-``, ``_``, spaces."""
    return re.sub(r"[-_\s]+", " ", name).strip().casefold()


def _bare(name: str) -> str:
    return re.sub(r"( other| merged| stuff)+$", "", plain_name(name))


def _shown(key: int, name: str, is_thing: bool | None) -> str:
    return f"{key} {name}" if is_thing is None else f"{key} {name} ({_kind(is_thing)})"


def _kind(is_thing: bool | None) -> str:
    return "thing" if is_thing else "stuff"


def _is_colour(value: Any) -> bool:
    return (
        isinstance(value, Sequence)
        and len(value) == 3
        and all(isinstance(v, int) and not isinstance(v, bool) and 0 <= v <= 255 for v in value)
    )


def _spread_colour(number: int) -> tuple[int, int, int]:
    red, green, blue = colorsys.hsv_to_rgb(number * _GOLDEN % 1.0, 0.65, 0.9)
    return round(255 * red), round(255 * green), round(255 * blue)
