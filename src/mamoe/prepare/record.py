"""``dataset.json``: what is in a data set that was prepared here, with counts and hashes, for people and programs."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mamoe.errors import DatasetError
from mamoe.storage.hashing import short_hash
from mamoe.vocabulary.taxonomy import Taxonomy

DATASET_JSON = "dataset.json"
_VERSION = 1


@dataclass(frozen=True, kw_only=True, slots=True)
class Written:
    """What is known of a picture that was written; a line of a journal, so plain values alone."""

    split: str
    name: str
    caption: str
    prompts: Mapping[str, str]  # by segment
    instances: int  # segments of single things
    groups: Sequence[int]  # segments of several things
    pixels: Mapping[str, int]  # by class id
    remarks: Sequence[str]
    picture_hash: str
    map_hash: str
    details: Mapping[str, Any] = field(default_factory=dict)


def contents_of(splits: Sequence[str], written: Sequence[Written], taxonomy: Taxonomy) -> dict[str, Any]:
    """What ``dataset.json`` says.

    ``splits``: counts of pictures, instances, groups and pixels by class, and a hash of all files of the split;
    ``files``: hashes (BLAKE2b, 32 hex digits) of every picture and map, and the segments that are groups.
    """
    names = {row.id: row.name for row in taxonomy.classes} | {taxonomy.void_id: "void"}
    told = {}
    for split in splits:
        part = [one for one in written if one.split == split]
        pixels: Counter[str] = Counter()
        for one in part:
            pixels.update(one.pixels)
        told[split] = {
            "pictures": len(part),
            "instances": sum(one.instances for one in part),
            "groups": sum(len(one.groups) for one in part),
            "pixels": {names.get(int(i), i): pixels[i] for i in sorted(pixels, key=int)},
            "hash": short_hash("\n".join(sorted(f"{o.name} {o.picture_hash} {o.map_hash}" for o in part)), 16),
        }
    files = {
        f"{one.split}/{one.name}": {
            "picture": one.picture_hash,
            "map": one.map_hash,
            **({"groups": list(one.groups)} if one.groups else {}),
        }
        for one in written
    }
    return {"version": _VERSION, "taxonomy": taxonomy.name, "splits": told, "files": files}


def dataset_json(contents: Mapping[str, Any]) -> str:
    """The text of ``dataset.json``: a line a file."""
    rest = {key: value for key, value in contents.items() if key != "files"}
    head = json.dumps(rest, indent=1, ensure_ascii=False).removesuffix("\n}")
    return f'{head},\n "files": {json_of(contents["files"])}\n}}'


def json_of(rows: Mapping[str, Any]) -> str:
    """An object with an entry a line; to indent all of it would take ten times as long."""
    lines = (f"{json.dumps(key, ensure_ascii=False)}: {json.dumps(rows[key], ensure_ascii=False)}" for key in rows)
    return "{\n" + ",\n".join(lines) + "\n}"


def groups_of(folder: Path) -> dict[str, frozenset[int]]:
    """Segments that hold several things, by ``SPLIT/NAME``; of a data set that does not say, none.

    Raises:
        DatasetError: ``dataset.json`` is there and cannot be read.
    """
    path = folder / DATASET_JSON
    if not path.is_file():
        return {}
    try:
        files = json.loads(path.read_text(encoding="utf-8"))["files"]
        return {name: frozenset(map(int, row.get("groups", ()))) for name, row in files.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DatasetError(f"Cannot read {path}: {error!r}. Import the data set again, or remove the file.") from None
