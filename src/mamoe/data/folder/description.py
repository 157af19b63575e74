"""What a data set says about itself. Every command that uses a data set learns it here, from its ``data.yaml``."""

from __future__ import annotations

import os
import reprlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from mamoe.data.folder.listing import is_litter, some
from mamoe.data.geometry.sizes import MOST_PIXELS
from mamoe.errors import ConfigError, DatasetError, nearest
from mamoe.storage.yaml_file import read_yaml
from mamoe.vocabulary.splits import exists
from mamoe.vocabulary.taxonomy import Taxonomy

DATA_YAML = "data.yaml"
USUAL = {
    "images": "images",
    "panoptic_maps": "panoptic",
    "prompts": "prompts_{split}.csv",
    "instance_prompts": "instance_prompts_{split}.json",
}
KEYS = (*USUAL, "taxonomy", "size", "recursive")
FALLBACK = "cityscapes"  # the taxonomy where nobody says one
Size = tuple[int, int] | int


@dataclass(frozen=True, kw_only=True, slots=True)
class DataFolder:
    """Where the parts of a data set are; ``{split}`` in the two text files' paths stands for the split."""

    images: Path
    panoptic_maps: Path
    prompts: Path | None  # None: every global prompt is empty
    instance_prompts: Path | None  # None: every segment has the prompt of its class
    taxonomy: Taxonomy
    size: Size | None  # to train at: (H, W) or the short side; None: it does not say
    recursive: bool  # pictures lie in folders inside that of their split
    notes: tuple[str, ...]  # what was guessed or looks odd, for people


def data_folder(
    folder: Path, taxonomy: Taxonomy | None = None, *, instead: Mapping[str, Path | None] | None = None
) -> DataFolder:
    """The parts of a data set, as the ``data.yaml`` inside it says; usual names serve for what that does not say.

    Paths in a ``data.yaml`` are relative to its own folder. One that leads elsewhere (absolute, or of an older version
    relative to the working directory) is followed unless the folder holds the same itself: then the data set was moved
    or copied, its own part is taken, and a note says so.

    Args:
        folder: of the data set.
        taxonomy: what the user says about the classes; None: nothing.
        instead: parts that the user says, by key; what ``data.yaml`` says about them is not looked at.

    Raises:
        DatasetError: no such folder; ``data.yaml`` cannot be read, has unknown keys or wrong values, or leads nowhere.
        ConfigError: ``taxonomy`` has other classes than the one that ``data.yaml`` names.
    """
    if not folder.is_dir():
        raise DatasetError(f"There is no folder {folder}.")
    entries, notes = _read_entries(folder / DATA_YAML), _misnamed(folder)
    parts = {key: _part(folder, entries, key, notes) for key in USUAL if key not in (instead or {})}
    found = {**parts, **(instead or {})}
    if found["prompts"] is None and "prompts" in parts and "prompts" not in entries:
        others = _not_read(folder, (".csv", ".tsv", ".jsonl"))
        notes.append(f"{folder} holds no {USUAL['prompts']}{others}: every global prompt is empty.")
    if found["instance_prompts"] is None and "instance_prompts" in parts and "instance_prompts" not in entries:
        if others := _not_read(folder, (".json",)):  # else it has none, and need not
            notes.append(
                f"{folder} holds no {USUAL['instance_prompts']}{others}: every segment has the prompt of its class."
            )
    size = entries.get("size")
    return DataFolder(
        images=found["images"] or folder / USUAL["images"],
        panoptic_maps=found["panoptic_maps"] or folder / USUAL["panoptic_maps"],
        prompts=found["prompts"],
        instance_prompts=found["instance_prompts"],
        taxonomy=_taxonomy(folder, entries, taxonomy, notes),
        size=(size[0], size[1]) if isinstance(size, list) else size,
        recursive=entries.get("recursive", False),
        notes=tuple(notes),
    )


def data_yaml(taxonomy: str, size: Size) -> str:
    """The ``data.yaml`` of a data set in which everything lies under its usual name.

    Args:
        taxonomy: a name shipped with the package, or a YAML file's path relative to the data set.
        size: to train at, (H, W) or the short side.
    """
    sides = list(size) if isinstance(size, tuple) else size
    return yaml.safe_dump({**USUAL, "taxonomy": taxonomy, "size": sides}, sort_keys=False, width=1000)


def _misnamed(folder: Path) -> list[str]:
    """A note about a description under a name that is not read."""
    if (folder / DATA_YAML).exists():
        return []
    alike = [name for name in sorted(os.listdir(folder)) if name.lower() in (DATA_YAML, "data.yml", "data.yaml.txt")]
    return [f"{folder / name} is not read: the description of a data set is called {DATA_YAML}." for name in alike]


def _not_read(folder: Path, suffixes: tuple[str, ...]) -> str:
    """Files that could have been meant instead of one that is not there, to follow its name."""
    names = [name for name in sorted(os.listdir(folder)) if name.lower().endswith(suffixes) and not is_litter(name)]
    return f" ({some(names)} there is not read)" if names else ""


def _read_entries(path: Path) -> dict[str, Any]:
    if not path.exists():
        return {}
    try:
        entries = read_yaml(path)
    except OSError as error:
        raise DatasetError(f"Cannot read {path}: {error.strerror}.") from None
    except ValueError as error:
        raise DatasetError(f"{path} {error}.") from None
    if not isinstance(entries, Mapping):
        raise DatasetError(
            f"{path} must map {', '.join(KEYS)} to values, such as images: images; got {reprlib.repr(entries)}. "
            "Without that file the usual names serve."
        )
    problems = [problem for key, value in entries.items() if (problem := _problem(key, value)) is not None]
    if problems:
        raise DatasetError(f"{path}: {'; '.join(problems)}.")
    return {key: value for key, value in entries.items() if value is not None or key in ("prompts", "instance_prompts")}


def _problem(key: Any, value: Any) -> str | None:
    if key not in KEYS:
        near = nearest(str(key), KEYS)
        hint = f"did you mean {near}?" if near else "there are " + ", ".join(KEYS)
        return f"there is no key {reprlib.repr(key)}, {hint}"
    if value is None:
        return None
    if key == "size":
        sides = value if isinstance(value, list) and len(value) == 2 else [value]
        if all(type(side) is int and 0 < side <= MOST_PIXELS and side % 8 == 0 for side in sides):
            return None
        return f"size must be [height, width] or the short side, divisible by 8; got {reprlib.repr(value)}"
    if key == "recursive":
        return None if isinstance(value, bool) else f"recursive must be true or false, got {reprlib.repr(value)}"
    if not isinstance(value, str) or not value.strip() or "\0" in value:
        return f"{key} must be text, got {reprlib.repr(value)}"
    if key in ("images", "panoptic_maps") and "{" in value:
        return f"{key} is the folder that holds one folder per split; leave {{split}} out of {value!r}"
    return None


def _part(folder: Path, entries: Mapping[str, Any], key: str, notes: list[str]) -> Path | None:
    """Where a part is; None: there is none."""
    if key in entries:
        return None if entries[key] is None else _located(folder, key, entries[key], USUAL[key], notes)
    usual = folder / USUAL[key]
    return usual if key in ("images", "panoptic_maps") or exists(usual) else None


def _located(folder: Path, key: str, text: str, usual: str | None, notes: list[str]) -> Path:
    where = f"{folder / DATA_YAML}, {key}"
    try:
        said = Path(text).expanduser()
    except RuntimeError:
        raise DatasetError(f"{where}: nobody's home folder is known as {text.split('/')[0]!r}.") from None
    if "\\" in text and not exists(folder / said):  # it was written on Windows
        said = Path(text.replace("\\", "/"))
        notes.append(f"{where}: {text!r} is read as {str(said)!r}; write / between folders.")
    path = folder / said
    if not exists(path) and exists(said):  # older versions wrote paths relative to the working directory
        path = said
    inside = _is_within(path, folder)
    if inside and exists(path):
        return path
    tails = [Path(*said.parts[i:]) for i in range(1, len(said.parts))] if len(said.parts) > 1 else []
    own = next((tail for tail in (*tails, *([usual] if usual else [])) if exists(folder / tail)), None)
    if own is not None:
        notes.append(
            f"{where}: {path} {'does not exist' if inside else 'lies outside of the data set'}, which was moved or "
            f"copied, it seems; its own {folder / own} is taken. Write `{key}: {own}` there."
        )
        return folder / own
    if inside:
        return path  # what is missing there is for its reader to say
    if not exists(path):
        raise DatasetError(f"{where}: there is no {path}. Paths are relative to the folder of data.yaml.")
    notes.append(f"{where}: {path} lies outside of the data set.")
    return path


def _is_within(path: Path, folder: Path) -> bool:
    plain = Path(os.path.abspath(path))  # as it is written: a link inside the folder is inside, wherever it leads
    real = folder.resolve()
    return (
        plain.is_relative_to(os.path.abspath(folder))
        or plain.is_relative_to(real)
        or path.resolve().is_relative_to(real)
    )


def _taxonomy(folder: Path, entries: Mapping[str, Any], wanted: Taxonomy | None, notes: list[str]) -> Taxonomy:
    if "taxonomy" not in entries:
        if wanted is None:
            notes.append(
                f"Nothing says which classes {folder} has: {FALLBACK}'s are taken. Name them in a {DATA_YAML} there "
                "(taxonomy: …), or with the command."
            )
        return wanted or Taxonomy.load(FALLBACK)
    named, path = entries["taxonomy"], folder / DATA_YAML
    if named.lower().endswith((".yaml", ".yml")):
        named = _located(folder, "taxonomy", named, None, notes)
    try:
        said = Taxonomy.load(named)
    except ConfigError as error:
        raise DatasetError(f"{path}, taxonomy: {error}") from None
    if wanted is None:
        return said
    if difference := _difference(said, wanted):
        raise ConfigError(
            f"{path} says that the classes are those of {said.name!r}, but the taxonomy {wanted.name!r} was asked for: "
            f"{difference}. Leave that one out, and what {DATA_YAML} says holds; data=folder takes any data set."
        )
    return wanted  # the same classes, with prompts and groupings as the user wants them


def _difference(said: Taxonomy, wanted: Taxonomy) -> str | None:
    """What the ids of two taxonomies mean differently; None where they mean the same."""
    theirs, ours = _meanings(said), _meanings(wanted)
    odd = [i for i in sorted({*theirs, *ours}) if theirs.get(i) != ours.get(i)]
    described = [f"class {i} is {theirs.get(i, 'none')} there and {ours.get(i, 'none')} here" for i in odd[:3]]
    return "; ".join([*described, *([f"and {len(odd) - 3} more differ"] if len(odd) > 3 else [])]) or None


def _meanings(taxonomy: Taxonomy) -> dict[int, str]:
    named = {row.id: f"{row.name} ({'thing' if row.is_thing else 'stuff'})" for row in taxonomy.classes}
    return {**named, taxonomy.void_id: "void"}
