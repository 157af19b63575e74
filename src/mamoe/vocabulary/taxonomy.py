"""What the class ids of a data set mean: names, things and stuff, prompts, colours, and their experts."""

from __future__ import annotations

import reprlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any, cast

import numpy as np
from jaxtyping import Int64, UInt8

from mamoe.errors import ConfigError, nearest
from mamoe.storage.yaml_file import list_in, mapping_in, read_yaml
from mamoe.vocabulary.panoptic import PanopticMap
from mamoe.vocabulary.prompts import is_text

REST = "rest"  # name of expert 0's group: void and every class no other group names
PER_CLASS = "per_class"
THINGS = "things"
_SHIPPED = Path(str(resources.files("mamoe"))) / "config" / "groups" / "taxonomy"
_TAXONOMY_KEYS = ("name", "void_id", "classes", "groupings")
_CLASS_KEYS = ("id", "name", "thing", "prompt", "colour")


@dataclass(frozen=True, kw_only=True, slots=True)
class ClassInfo:
    """One row of the class table."""

    id: int  # in [0, 255], the B channel of a panoptic PNG
    name: str
    is_thing: bool  # countable (a car), not stuff (the sky)
    prompt: str  # what a segment without an instance prompt is called
    colour: tuple[int, int, int]  # RGB in [0, 255], for pictures of maps


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class ExpertGrouping:
    """Which expert works on which class. Expert 0 is always the rest group: void and every class not named."""

    names: tuple[str, ...]  # E; names[0] == "rest"
    expert_of_class: UInt8[np.ndarray, "256"]  # in [0, E); 0 for ids the taxonomy does not know

    @property
    def num_experts(self) -> int:
        return len(self.names)


@dataclass(frozen=True, kw_only=True, slots=True)
class Taxonomy:
    """The class table of a data set and its named expert groupings.

    Raises:
        ConfigError: ids, names, prompts, colours or groupings are wrong; one error lists everything found.
    """

    name: str
    classes: tuple[ClassInfo, ...]
    groupings: Mapping[str, Mapping[str, tuple[str, ...]]]  # grouping -> group -> class names
    void_id: int  # the class id of pixels that belong to none of the classes
    _by_id: Mapping[int, ClassInfo] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        _raise_if_any(self.name, _table_problems(self.classes, self.groupings, self.void_id))
        object.__setattr__(self, "_by_id", {row.id: row for row in self.classes})

    @classmethod
    def load(cls, name_or_path: str | Path) -> Taxonomy:
        """A taxonomy shipped with the package (``cityscapes``, ``camvid``, ...) or one's own YAML file.

        Raises:
            ConfigError: no such taxonomy, not readable as YAML, or its contents are wrong.
        """
        path = Path(name_or_path)
        if path.suffix.lower() in (".yaml", ".yml"):
            return cls.from_dict(_read_yaml(path))
        known = shipped_taxonomies()
        if str(name_or_path) not in known:
            raise ConfigError(
                f"There is no taxonomy {str(name_or_path)!r}{_did_you_mean(str(name_or_path), known)}. "
                f"Known are {', '.join(known)}; for one of your own give the path of its .yaml file."
            )
        return _shipped(str(name_or_path))

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> Taxonomy:
        """The inverse of :meth:`to_dict`; the shape of the YAML files.

        Raises:
            ConfigError: keys are missing or unknown, values have the wrong type, or the table contradicts itself.
        """
        if mapping_in(plain) is None:
            raise ConfigError(f"A taxonomy is a mapping with {', '.join(_TAXONOMY_KEYS)}; got {reprlib.repr(plain)}.")
        name = plain.get("name", "unnamed")
        problems = _key_problems("the taxonomy", plain, known=_TAXONOMY_KEYS, needed=_TAXONOMY_KEYS[:3])
        classes = _parse_classes(plain.get("classes", ()), problems)
        if not _is_text(name):
            problems.append(f"name must be text, got {reprlib.repr(name)}; put it in quotes")
        given = plain.get("groupings")
        groupings = _parse_groupings({} if given is None else given, problems)
        void_id = plain.get("void_id", -1)
        if "void_id" in plain:
            problems += _table_problems(classes, groupings, void_id)
        _raise_if_any(str(name), problems)
        return cls(name=name, classes=classes, groupings=groupings, void_id=void_id)

    def to_dict(self) -> dict[str, Any]:
        """Plain lists, dicts, strings and numbers, fit for YAML and JSON."""
        rows = [
            {"id": c.id, "name": c.name, "thing": c.is_thing, "prompt": c.prompt, "colour": list(c.colour)}
            for c in self.classes
        ]
        groupings = {
            name: {group: list(members) for group, members in groups.items()} for name, groups in self.groupings.items()
        }
        return {"name": self.name, "void_id": self.void_id, "classes": rows, "groupings": groupings}

    def grouping(self, spec: str | Mapping[str, Sequence[str]]) -> ExpertGrouping:
        """The grouping called ``spec``, or the one ``spec`` spells out as {group: class names}.

        Groups become experts 1, 2, ... in their order. ``per_class`` is always there: one expert per class; so is
        ``things``, one expert for all of them, where there are any.

        Raises:
            ConfigError: no grouping of that name; a class is unknown, named twice, or a group is empty.
        """
        if isinstance(spec, str):
            groups = self._named_groups(spec)
        else:
            problems: list[str] = []
            groups = _parse_groupings({"given": spec}, problems).get("given", {})
            problems += _group_problems("this grouping", groups, [row.name for row in self.classes])
            _raise_if_any(self.name, problems)
        expert_of_name = {name: e for e, names in enumerate(groups.values(), start=1) for name in names}
        expert_of_class = np.zeros(256, dtype=np.uint8)
        for row in self.classes:
            expert_of_class[row.id] = expert_of_name.get(row.name, 0)
        return ExpertGrouping(names=(REST, *groups), expert_of_class=expert_of_class)

    def prompt_of(self, class_id: int) -> str:
        """The prompt of a class; void has the empty one.

        Raises:
            ConfigError: the taxonomy does not know the class id.
        """
        return "" if class_id == self.void_id else self._row(class_id).prompt

    def is_thing(self, class_id: int) -> bool:
        """Whether a class is countable; void is not.

        Raises:
            ConfigError: the taxonomy does not know the class id.
        """
        return class_id != self.void_id and self._row(class_id).is_thing

    @property
    def palette(self) -> UInt8[np.ndarray, "256 3"]:
        """The colour of every class id; void and ids the taxonomy does not know are black."""
        colours = np.zeros((256, 3), dtype=np.uint8)
        for row in self.classes:
            colours[row.id] = row.colour
        return colours

    def check(self, panoptic: PanopticMap) -> list[str]:
        """What is wrong with the class ids of a map; empty when all are known or void."""
        return self.unknown(np.bincount(panoptic.class_id.ravel(), minlength=256))

    def unknown(self, pixels: Int64[np.ndarray, "256"]) -> list[str]:
        """What is wrong with the class ids of a map, by the pixels of every id; empty when all are known or void."""
        unknown = [int(i) for i in np.flatnonzero(pixels) if i not in self._by_id and i != self.void_id]
        return [
            f"class id {i} ({pixels[i]} pixels) is unknown to taxonomy {self.name!r}, "
            f"which has {self._known_ids()}; pixels of no class need {self.void_id}"
            for i in unknown
        ]

    def _named_groups(self, name: str) -> Mapping[str, Sequence[str]]:
        if name == PER_CLASS:
            return {row.name: (row.name,) for row in self.classes}
        things = tuple(row.name for row in self.classes if row.is_thing)
        groupings = {**({THINGS: {THINGS: things}} if things else {}), **self.groupings}
        if name not in groupings:
            known = [*groupings, PER_CLASS]
            raise ConfigError(
                f"Taxonomy {self.name!r} has no grouping {name!r}{_did_you_mean(name, known)}. Known are "
                f"{', '.join(known)}; a mapping from group names to lists of class names does as well."
            )
        return groupings[name]

    def _row(self, class_id: int) -> ClassInfo:
        if class_id not in self._by_id:
            raise ConfigError(f"Taxonomy {self.name!r} has no class id {class_id}; it has {self._known_ids()}.")
        return self._by_id[class_id]

    def _known_ids(self) -> str:
        ids = sorted(self._by_id)
        if ids == list(range(ids[0], ids[-1] + 1)):
            return f"{ids[0]} to {ids[-1]}"
        return ", ".join(map(str, ids[:12])) + (f" and {len(ids) - 12} more" if len(ids) > 12 else "")


@cache
def _shipped(name: str) -> Taxonomy:
    return Taxonomy.from_dict(_read_yaml(_SHIPPED / f"{name}.yaml"))


def shipped_taxonomies() -> list[str]:
    """Names :meth:`Taxonomy.load` knows, in alphabetical order."""
    return sorted(entry.name.removesuffix(".yaml") for entry in _SHIPPED.iterdir() if entry.name.endswith(".yaml"))


def _read_yaml(path: Path) -> Any:
    try:
        return read_yaml(path)
    except OSError as error:
        raise ConfigError(f"Cannot read the taxonomy file {path}: {error.strerror}.") from None
    except ValueError as error:
        raise ConfigError(f"The taxonomy file {path} {error}.") from None


def _parse_classes(plain: Any, problems: list[str]) -> tuple[ClassInfo, ...]:
    rows = list_in(plain)
    if rows is None:
        problems.append(f"classes must be a list of mappings with {', '.join(_CLASS_KEYS)}; got {reprlib.repr(plain)}")
        return ()
    parsed: list[ClassInfo] = []
    for position, given in enumerate(rows, start=1):
        where, row = f"class no. {position}", mapping_in(given)
        if row is None:
            problems.append(f"{where} must be a mapping with {', '.join(_CLASS_KEYS)}; got {reprlib.repr(given)}")
            continue
        found = _key_problems(where, row, known=_CLASS_KEYS, needed=("id", "name", "thing", "colour"))
        colour = list_in(row.get("colour", ()))
        if colour is None:
            found.append(f"{where}: colour must be a list of three numbers, got {row['colour']!r}")
        problems += found
        if not found:
            prompt, rgb = row.get("prompt", row["name"]), cast(tuple[int, int, int], tuple(colour or ()))
            info = ClassInfo(id=row["id"], name=row["name"], is_thing=row["thing"], prompt=prompt, colour=rgb)
            parsed.append(info)
    return tuple(parsed)


def _parse_groupings(plain: Any, problems: list[str]) -> dict[str, dict[str, tuple[str, ...]]]:
    table = mapping_in(plain)
    if table is None:
        problems.append(f"groupings must map a name to {{group: [class names]}}; got {reprlib.repr(plain)}")
        return {}
    parsed: dict[str, dict[str, tuple[str, ...]]] = {}
    for name, given in table.items():
        groups = mapping_in(given)
        if groups is None:
            problems.append(
                f"grouping {name!r} must map group names to lists of class names; got {reprlib.repr(given)}"
            )
            continue
        parsed[str(name)] = {}
        for group, listed in groups.items():
            members = list_in(listed)
            if members is None:
                problems.append(
                    f"grouping {name!r}, group {group!r} must be a list of class names; got {reprlib.repr(listed)}"
                )
            else:
                parsed[str(name)][str(group)] = tuple(map(str, members))
    return parsed


def _table_problems(
    classes: Sequence[ClassInfo], groupings: Mapping[str, Mapping[str, Sequence[str]]], void_id: Any
) -> list[str]:
    problems = [] if classes else ["it has no classes"]
    for position, row in enumerate(classes, start=1):
        where = f"class no. {position} ({row.name!r})"
        if not _is_byte(row.id):
            problems.append(f"{where}: id must be a whole number in 0..255, got {row.id!r}")
        if not _is_text(row.name):
            problems.append(f"{where}: name must be text, got {row.name!r}; put it in quotes")
        if not _is_truth(row.is_thing):
            problems.append(f"{where}: thing must be true or false, got {row.is_thing!r}")
        if not _is_text(row.prompt):
            problems.append(f"{where}: prompt must be text, got {row.prompt!r}; leave it out to use the name")
        if len(row.colour) != 3 or not all(map(_is_byte, row.colour)):
            problems.append(f"{where}: colour must be three numbers in 0..255, got {list(row.colour)!r}")
    problems += [f"id {i} is used by {n} classes" for i, n in _repeated(row.id for row in classes if _is_byte(row.id))]
    problems += [
        f"name {name!r} is used by {n} classes"
        for name, n in _repeated(row.name for row in classes if _is_text(row.name))
    ]
    if not _is_byte(void_id):
        problems.append(f"void_id must be a whole number in 0..255, got {void_id!r}")
    elif any(row.id == void_id for row in classes):
        problems.append(f"void_id {void_id} is also a class; void needs an id of its own")
    names = [str(row.name) for row in classes]
    for name, groups in groupings.items():
        if name == PER_CLASS:
            problems.append(f"grouping {PER_CLASS!r} is built in; choose another name")
        problems += _group_problems(f"grouping {name!r}", groups, names)
    return problems


def _group_problems(where: str, groups: Mapping[str, Sequence[str]], class_names: Sequence[str]) -> list[str]:
    problems = [] if groups else [f"{where} has no groups"]
    for group, members in groups.items():
        if group == REST:
            problems.append(f"{where}: {REST!r} is made of what the other groups leave; take it out")
        if not members:
            problems.append(f"{where}, group {group!r} is empty")
        problems += [
            f"{where}, group {group!r}: no class is called {member!r}{_did_you_mean(member, class_names)}"
            for member in members
            if member not in class_names
        ]
    twice = _repeated(member for members in groups.values() for member in members)
    return problems + [f"{where}: class {member!r} is named {n} times" for member, n in twice]


def _key_problems(where: str, plain: Mapping[str, Any], *, known: Sequence[str], needed: Sequence[str]) -> list[str]:
    unknown = [
        f"{where} has an unknown key {key!r}{_did_you_mean(str(key), known)}" for key in plain if key not in known
    ]
    return unknown + [f"{where} lacks {key!r}" for key in needed if key not in plain]


def _raise_if_any(name: str, problems: Sequence[str]) -> None:
    if problems:
        raise ConfigError(
            f"Taxonomy {name!r} has {len(problems)} problem(s):\n" + "\n".join(f"- {p}" for p in problems)
        )


def _did_you_mean(word: str, known: Sequence[str]) -> str:
    close = nearest(word, known)
    return f" (did you mean {close!r}?)" if close else ""


def _repeated(values: Iterable[Any]) -> list[tuple[Any, int]]:
    return [(value, n) for value, n in Counter(values).items() if n > 1]


# A file may hold anything, whatever the annotations of what is made of it say.


def _is_text(value: Any) -> bool:
    return is_text(value) and bool(value.strip())


def _is_truth(value: Any) -> bool:
    return isinstance(value, bool)


def _is_byte(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= 255
