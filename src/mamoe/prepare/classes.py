"""The class table: which class the numbers, colours and names of somebody else's annotations mean.

One YAML file serves the import of a folder and the fusing of maps::

    classes:
      - {value: 7, name: road, thing: false}
      - {values: [26, 27], name: car, thing: true, prompt: "a car", colour: [0, 0, 142]}
      - {value: [128, 64, 128], name: lane, thing: false}       # a colour; "#804080" is one too
    void: [0, 255]            # values that are no class
    divisor: 1000             # of maps of 16 bits: class * 1000 + number
    taxonomy: cityscapes      # the classes are those of a taxonomy; rows then need no more than value and name

A taxonomy, by name or as a file, is a class table as well: its ids are the numbers, its colours the colours.
"""

from __future__ import annotations

import re
import reprlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int32, UInt8

from mamoe.errors import ConfigError, DatasetError, nearest
from mamoe.prepare.annotations import counted
from mamoe.prepare.categories import MOST_CLASSES, Category, derive_taxonomy, plain_name
from mamoe.prepare.lookup import looked_up
from mamoe.storage.yaml_file import read_yaml
from mamoe.vocabulary.taxonomy import ClassInfo, Taxonomy

_KEYS = ("classes", "void", "divisor", "taxonomy", "name")
_ROW_KEYS = ("value", "values", "name", "thing", "prompt", "colour")
DIVISOR = 1000
Colour = tuple[int, int, int]


@dataclass(frozen=True, kw_only=True, slots=True)
class ClassTable:
    """What annotations mean, as class ids of a taxonomy."""

    taxonomy: Taxonomy
    numbers: Mapping[int, int]  # class id by number; the void class too
    colours: Mapping[Colour, int]  # class id by RGB in [0, 255]
    names: Mapping[str, int] = field(default_factory=dict)  # class id by name, in plain form
    divisor: int = DIVISOR

    def class_called(self, name: str) -> int | None:
        """The class of that name, whatever its capitals, ``-``, ``_`` and spaces; None if there is none."""
        return self.names.get(plain_name(name))

    def of_numbers(self, values: Int32[np.ndarray, "H W"], where: Path) -> UInt8[np.ndarray, "H W"]:
        """The class of every pixel.

        Raises:
            DatasetError: numbers that the table does not know; they are listed with their pixels.
        """
        low, high = int(values.min()), int(values.max())
        table = np.full(max(high, 255) + 1, -1, dtype=np.int16)
        for value, class_id in self.numbers.items():
            if 0 <= value <= high:
                table[value] = class_id
        known = table >= 0
        small = values.astype(np.uint8) if 0 <= low and high < 256 else None
        fine = low >= 0 and bool((known[values] if small is None else looked_up(small, known.view(np.uint8))).all())
        if not fine:
            strangers = [v for v in np.unique(values).tolist() if v < 0 or not known[v]]
            raise DatasetError(
                f"{where} has values the class table does not know: {counted(values, strangers)}. Give them a class, "
                "or list them under void."
            )
        classes = table.clip(min=0).astype(np.uint8)
        return classes[values] if small is None else looked_up(small, classes)

    def of_colours(self, rgb: UInt8[np.ndarray, "H W 3"], where: Path) -> UInt8[np.ndarray, "H W"]:
        """The class of every pixel.

        Raises:
            DatasetError: colours that the table does not know; they are listed with their pixels.
        """
        packed = (rgb[..., 0].astype(np.int32) << 16) | (rgb[..., 1].astype(np.int32) << 8) | rgb[..., 2]
        known = np.array(sorted((r << 16) | (g << 8) | b for r, g, b in self.colours), dtype=np.int32)
        classes = {(r << 16) | (g << 8) | b: class_id for (r, g, b), class_id in self.colours.items()}
        place = np.searchsorted(known, packed).clip(max=max(0, len(known) - 1))
        if not len(known) or (known[place] != packed).any():
            odd = packed[known[place] != packed] if len(known) else packed.ravel()
            values, pixels = np.unique(odd, return_counts=True)
            first = ", ".join(
                f"#{v:06x} ({n} pixels)" for v, n in list(zip(values.tolist(), pixels.tolist(), strict=True))[:8]
            )
            blended = (
                " So many colours come of smoothing or of JPEG: export the maps without." if len(values) > 64 else ""
            )
            raise DatasetError(
                f"{where} has colours the class table does not know: {first}"
                f"{f' and {len(values) - 8} more' if len(values) > 8 else ''}. Give them a class, or list them under "
                f"void.{blended}"
            )
        return np.array([classes[int(value)] for value in known], dtype=np.uint8)[place]


def read_class_table(name_or_path: str) -> ClassTable:
    """The class table of a YAML file, or the one a taxonomy makes.

    Raises:
        ConfigError: no such file or taxonomy, or what it says is wrong; one error lists everything found.
    """
    path = Path(name_or_path)
    if path.suffix.lower() not in (".yaml", ".yml"):
        return table_of(Taxonomy.load(name_or_path))
    try:
        plain = read_yaml(path)
    except OSError as error:
        raise ConfigError(f"Cannot read the class table {path}: {error.strerror}.") from None
    except ValueError as error:
        raise ConfigError(f"The class table {path} {error}.") from None
    if isinstance(plain, Mapping) and "void_id" in plain:
        return table_of(Taxonomy.load(path))
    return _parsed(plain, path)


def table_of(taxonomy: Taxonomy, divisor: int = DIVISOR) -> ClassTable:
    """A taxonomy's own ids, colours and names."""
    return ClassTable(
        taxonomy=taxonomy,
        numbers={row.id: row.id for row in taxonomy.classes} | {taxonomy.void_id: taxonomy.void_id},
        colours={(0, 0, 0): taxonomy.void_id} | {row.colour: row.id for row in taxonomy.classes},
        names=_by_plain_name(taxonomy, []),
        divisor=divisor,
    )


def _by_plain_name(taxonomy: Taxonomy, problems: list[str]) -> dict[str, int]:
    """Class ids by plain names; names that several classes share once they are plain mean none of them."""
    names: dict[str, list[ClassInfo]] = {}
    for row in taxonomy.classes:
        names.setdefault(plain_name(row.name), []).append(row)
    problems += [
        f"the classes {' and '.join(repr(row.name) for row in rows)} differ in capitals, - or _ alone: give them other "
        "names, or make them one class of several values"
        for rows in names.values()
        if len(rows) > 1
    ]
    return {name: rows[0].id for name, rows in names.items() if len(rows) == 1}


def _parsed(plain: Any, path: Path) -> ClassTable:
    if not isinstance(plain, Mapping) or not isinstance(plain.get("classes"), list):
        raise ConfigError(f"The class table {path} needs a list of classes; got {reprlib.repr(plain)}.")
    problems = [f"there is no key {key!r}{_meant(str(key), _KEYS)}" for key in plain if key not in _KEYS]
    if not isinstance(plain.get("name", ""), str):
        problems.append(f"name must be text, got {plain['name']!r:.60}; put it in quotes")
    divisor = plain.get("divisor", DIVISOR)
    if isinstance(divisor, bool) or not isinstance(divisor, int) or divisor < 2:
        problems.append(f"divisor must be a whole number from 2, got {divisor!r}")
    rows = [(f"class no. {i}", row) for i, row in enumerate(plain["classes"], start=1)]
    parsed = [parsed for where, row in rows if (parsed := _parsed_row(row, where, problems)) is not None]
    taxonomy = _taxonomy_of(plain, parsed, path, problems)
    void = [_value(value, "void", problems) for value in _listed(plain.get("void", []))]
    if taxonomy is None:
        raise ConfigError(f"The class table {path}: {'; '.join(problems)}.")
    names = _by_plain_name(taxonomy, problems)
    if problems:
        raise ConfigError(f"The class table {path}: {'; '.join(problems)}.")
    meant = [(value, names[plain_name(row.name)], row.name) for row in parsed for value in row.values]
    meant += [(value, taxonomy.void_id, "void") for value in void if value is not None]
    numbers: dict[int, int] = {}
    colours: dict[Colour, int] = {}
    for value, class_id, name in meant:
        before = (numbers if isinstance(value, int) else colours).setdefault(value, class_id)  # pyright: ignore[reportArgumentType, reportCallIssue]
        if before != class_id:
            problems.append(f"the value {value!r} of {name!r} is another class's too")
    if problems:
        raise ConfigError(f"The class table {path}: {'; '.join(problems)}.")
    return ClassTable(taxonomy=taxonomy, numbers=numbers, colours=colours, names=names, divisor=divisor)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Row:
    name: str
    values: tuple[int | Colour, ...]
    is_thing: bool | None
    prompt: str | None
    colour: Colour | None


def _parsed_row(row: Any, where: str, problems: list[str]) -> _Row | None:
    if not isinstance(row, Mapping) or not isinstance(row.get("name"), str) or not row["name"].strip():
        problems.append(f"{where}: wanted a mapping with a name, got {reprlib.repr(row)}")
        return None
    where = f"{where} ({row['name']})"
    problems += [
        f"{where}: there is no key {key!r}{_meant(str(key), _ROW_KEYS)}" for key in row if key not in _ROW_KEYS
    ]
    if "value" in row and "values" in row:
        problems.append(f"{where}: give value or values")
    if not isinstance(row.get("thing", False), bool):
        problems.append(f"{where}: thing must be true or false, got {row['thing']!r}")
    if not isinstance(row.get("prompt", ""), str):
        problems.append(f"{where}: prompt must be text, got {row['prompt']!r}")
    colour = _value(row["colour"], f"{where}, colour", problems) if "colour" in row else None
    if isinstance(colour, int):
        problems.append(f"{where}: colour must be [R, G, B], got {colour}")
        colour = None
    given = [row["value"]] if "value" in row else _listed(row.get("values", []))
    values = [value for one in given if (value := _value(one, where, problems)) is not None]
    return _Row(
        name=row["name"].strip(),
        values=tuple(values),
        is_thing=row.get("thing"),
        prompt=row.get("prompt"),
        colour=colour or next((value for value in values if isinstance(value, tuple)), None),
    )


def _taxonomy_of(plain: Mapping[str, Any], rows: Sequence[_Row], path: Path, problems: list[str]) -> Taxonomy | None:
    if "taxonomy" in plain:
        named = str(plain["taxonomy"])
        if named.lower().endswith((".yaml", ".yml")):
            named = str(path.parent / named)
        taxonomy = Taxonomy.load(named)
        known = {plain_name(row.name): row for row in taxonomy.classes}
        for row in rows:
            there = known.get(plain_name(row.name))
            if there is None:
                names = [one.name for one in taxonomy.classes]
                problems.append(f"the taxonomy {named} has no class {row.name!r}{_meant(row.name, names)}")
            elif row.is_thing not in (None, there.is_thing):
                problems.append(f"{row.name} is a {'thing' if there.is_thing else 'stuff'} in the taxonomy {named}")
            elif row.prompt not in (None, there.prompt):
                problems.append(f"{row.name}: its prompt is that of the taxonomy {named}; leave it out")
        return taxonomy
    problems += [f"{row.name}: thing must be said (true: countable)" for row in rows if row.is_thing is None]
    if not 0 < len(rows) <= MOST_CLASSES:
        problems.append(f"there must be 1 to {MOST_CLASSES} classes, got {len(rows)}")
    if problems:
        return None
    categories = [
        Category(id=i, name=row.name, is_thing=bool(row.is_thing), colour=row.colour) for i, row in enumerate(rows)
    ]
    made = derive_taxonomy(str(plain.get("name", path.stem)), {str(path): categories}, problems)
    if made is None:
        return None
    prompts = {row.name: row.prompt for row in rows if row.prompt is not None}
    rows_of = made.to_dict()
    for row in rows_of["classes"]:
        row["prompt"] = prompts.get(row["name"], row["prompt"])
    return Taxonomy.from_dict(rows_of)


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _value(value: Any, where: str, problems: list[str]) -> int | Colour | None:
    """A number, or a colour as [R, G, B] or "#rrggbb"."""
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= 0xFFFF:
        return value
    if isinstance(value, str) and re.fullmatch(r"#[0-9a-fA-F]{6}", value):
        return int(value[1:3], 16), int(value[3:5], 16), int(value[5:7], 16)
    if isinstance(value, list) and len(value) == 3 and all(type(v) is int and 0 <= v <= 255 for v in value):
        return value[0], value[1], value[2]
    problems.append(f"{where}: a value is a number in 0..65535, [R, G, B] or '#rrggbb', got {reprlib.repr(value)}")
    return None


def _meant(word: str, known: Sequence[str]) -> str:
    near = nearest(word, known)
    return f", did you mean {near}?" if near else ""
