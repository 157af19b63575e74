"""The data section of a composed configuration, with what the data set's own ``data.yaml`` says."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from mamoe.console import note
from mamoe.data.folder.description import FALLBACK, USUAL, data_folder
from mamoe.errors import ConfigError
from mamoe.vocabulary.taxonomy import Taxonomy

AUTO = "auto"  # of a key in data: what data.yaml says
_FALLBACK_SIZE = "auto_size"  # where that says nothing about the size


def described(composed: Mapping[str, Any], say: Callable[[str], None] = note) -> dict[str, Any]:
    """A composed training in which nothing is ``auto`` any more.

    The taxonomy is the one that ``data.taxonomy`` names, or that of the configuration group, or what ``data.yaml`` in
    ``data.root`` says: where both speak they must agree. Its contents stand in the result, so that a run needs neither
    file again. Where there is no folder ``data.root`` yet, everything has its usual name.

    Args:
        composed: the configuration, interpolations resolved, not yet validated.
        say: called with what was guessed or looks odd.

    Raises:
        ConfigError: no root, a taxonomy that does not exist or contradicts ``data.yaml``.
        DatasetError: ``data.yaml`` is wrong.
    """
    data = composed.get("data")
    if not isinstance(data, Mapping):
        return dict(composed)  # the schema says so
    data = dict(data)
    named, group, size = data.get("taxonomy"), composed.get("taxonomy"), data.pop(_FALLBACK_SIZE, [512, 512])
    wanted = _taxonomy(named, group)
    given = {key: data.get(key) for key in USUAL if data.get(key) != AUTO}
    root = data.get("root")
    if root is None and (len(given) < len(USUAL) or data.get("size") == AUTO):
        raise ConfigError("data.root must be given: data.root=…")
    if root is not None and Path(str(root)).is_dir():
        instead = {key: None if path is None else Path(str(path)) for key, path in given.items()}
        found = data_folder(Path(str(root)), wanted, instead=instead)
        for text in found.notes:
            say(text)
        wanted, size, nested = wanted or found.taxonomy, found.size or size, found.recursive
        parts = {key: getattr(found, key) for key in USUAL}
    else:
        if root is not None and wanted is None:
            say(f"There is no folder data.root={root} that could say which classes it has: {FALLBACK}'s are taken.")
        parts, nested = {key: f"{root}/{usual}" for key, usual in USUAL.items()}, False
    data |= {key: path if path is None else str(path) for key, path in parts.items() if key not in given}
    if data.get("size") == AUTO:
        data["size"] = list(size) if isinstance(size, tuple) else size
    if data.get("recursive") == AUTO:
        data["recursive"] = nested
    for key, usual in (("val_share", None), ("recursive", False)):  # as in the runs from before there were these keys
        if data.get(key, ...) is usual:
            del data[key]
    data |= {"taxonomy": None} if named is not None else {}
    taxonomy = group if group and named is None else (wanted or Taxonomy.load(FALLBACK)).to_dict()
    return {**composed, "data": data, "taxonomy": taxonomy}


def _taxonomy(named: Any, group: Any) -> Taxonomy | None:
    if named is not None:
        return Taxonomy.load(str(named))
    return Taxonomy.from_dict(group) if group else None
