"""Which file is meant by a name: maps and keys of text files against pictures.

Accents may be written in one code point or in two (macOS writes two): names that look the same are the same. A key of
a text file is a picture's name relative to its folder, or, where just one picture has it, the name without its ending
or without its folders.
"""

from __future__ import annotations

import unicodedata
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

from mamoe.data.listing import bare_name, some
from mamoe.data.pictures import SUFFIXES


class Names:
    """Relative names of files, to be found by others."""

    def __init__(self, names: Collection[str]) -> None:
        self._tables = [_table(names, level) for level in _LEVELS]
        self._alike = _table(names, lambda name: _alike(bare_name(name)))
        self._files = _table(names, lambda name: _alike(_file(bare_name(name))))

    def beside(self, name: str) -> list[str]:
        """What belongs to a file of that name in another folder: of the same name, or else but for the ending."""
        return self._first(name, _LEVELS[:2])

    def meant(self, key: str) -> list[str]:
        """What a user's key may mean: one name if all is well."""
        return self._first(key, _LEVELS[:2] if "/" in key else _LEVELS)

    def near(self, name: str) -> tuple[str, str] | None:
        """A name that could have been meant, and how it differs."""
        bare = _alike(_bare(name.strip()))
        for table, wanted, how in (
            (self._alike, bare, "which differs in capitals or spaces"),
            (self._files, _file(bare), "in another folder"),
        ):
            if wanted in table:
                return table[wanted][0], how
        return None

    def _first(self, name: str, levels: tuple[Callable[[str], str], ...]) -> list[str]:
        for level, table in zip(levels, self._tables, strict=False):
            found = table.get(level(name), [])
            if found:
                return [name] if name in found else found
        return []


@dataclass(frozen=True, kw_only=True, slots=True)
class Keyed:
    """Names of files and the keys that mean them."""

    key_of: Mapping[str, str]  # name -> key
    wrong: Mapping[str, str]  # key that could mean several names, or means one that another key means -> the reason
    strange: Mapping[str, str]  # key that means no name -> what could have been meant, to follow; or empty
    explained: frozenset[str]  # names without a key that the reasons speak of


def keyed(keys: Iterable[str], names: Collection[str]) -> Keyed:
    """Find out which file every key of a text file means."""
    known = Names(names)
    key_of: dict[str, str] = {}
    wrong: dict[str, str] = {}
    strange: dict[str, str] = {}
    explained = set()
    for key in keys:
        found = known.meant(key)
        if len(found) > 1:
            wrong[key] = f"it could be any of {some(found)}; write the whole name"
            explained.update(found)
        elif found and found[0] in key_of:
            other = key_of[found[0]]
            wrong[key] = f"{found[0]!r} is already named by the key {other!r}{twins([key, other])}; keep one of the two"
        elif found:
            key_of[found[0]] = key
        elif near := known.near(key):
            strange[key] = f"; there is {near[0]!r}, {near[1]}: use one name for both"
            explained.add(near[0])
        else:
            strange[key] = ""
    return Keyed(key_of=key_of, wrong=wrong, strange=strange, explained=frozenset(explained - key_of.keys()))


def same_name(name: str) -> str:
    """A relative name without its ending, written the same way whatever wrote it."""
    return unicodedata.normalize("NFC", bare_name(name))


def twins(names: Sequence[str]) -> str:
    """Why names that look the same are not, to follow them; empty where they look different."""
    if len(names) == len({_whole(name) for name in names}):
        return ""
    return ", names that look the same and write their accents in different ways (NFC, NFD)"


def _table(names: Iterable[str], key: Callable[[str], str]) -> dict[str, list[str]]:
    table = defaultdict(list)
    for name in names:
        table[key(name)].append(name)
    return dict(table)


def _whole(name: str) -> str:
    return unicodedata.normalize("NFC", name)


def _bare(name: str) -> str:
    # A key may have no ending, and then a dot in it is part of the name.
    return _whole(bare_name(name) if PurePosixPath(name).suffix.lower() in SUFFIXES else name)


def _file(name: str) -> str:
    return name.rsplit("/", 1)[-1]


def _alike(name: str) -> str:
    return _whole(name).casefold().strip()


_LEVELS: tuple[Callable[[str], str], ...] = (
    _whole,
    _bare,
    lambda name: _file(_whole(name)),
    lambda name: _file(_bare(name)),
)
