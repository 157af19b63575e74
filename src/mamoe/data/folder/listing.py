"""What a folder holds: files of some kinds by their relative names, and what is there beside them.

What file managers, archives and servers leave behind is never data: ``._x.png`` and ``.DS_Store`` of macOS,
``Thumbs.db`` and ``desktop.ini`` of Windows, ``__MACOSX`` of its archives, ``@eaDir`` of a NAS, everything hidden.
"""

from __future__ import annotations

import os
import re
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from mamoe.console import visible
from mamoe.errors import DatasetError

_LITTER = frozenset(
    {
        "__macosx",
        "@eadir",
        "#recycle",
        "$recycle.bin",
        "system volume information",
        "lost+found",
        "thumbs.db",
        "ehthumbs.db",
        "desktop.ini",
    }
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Listing:
    """Files by their names relative to the folder, with ``/`` between folders, in the order of :func:`order_of`."""

    names: tuple[str, ...]
    others: tuple[str, ...] = ()  # files of other kinds; litter is not among them
    inner: tuple[str, ...] = ()  # folders that were not looked into


def is_litter(name: str) -> bool:
    """Is that the name of a file or folder that is never data?"""
    return name.startswith(".") or name.lower() in _LITTER


def listed(folder: Path, suffixes: Collection[str], *, recursive: bool = False) -> Listing:
    """The files with one of the suffixes, however these are capitalised; links are followed.

    Args:
        folder: where to look.
        suffixes: in lower case, with the dot.
        recursive: look into its folders too.

    Raises:
        OSError: a folder cannot be listed.
        DatasetError: a linked folder leads back into one that holds it; or there is a pipe, a socket or a device.
    """
    names: list[str] = []
    others: list[str] = []
    inner: list[str] = []

    def walk(place: Path, prefix: str, above: frozenset[str]) -> None:
        above = above | {os.path.realpath(place)}
        for entry in os.scandir(place):
            name = prefix + entry.name
            if is_litter(entry.name):
                continue
            if not entry.is_dir():
                if not entry.is_file() and os.path.exists(entry.path):  # to open it could mean to wait for ever
                    raise DatasetError(f"{entry.path} is a pipe, a socket or a device; data are files. Move it away.")
                wanted = PurePosixPath(name).suffix.lower() in suffixes
                (names if wanted else others).append(name)
            elif not recursive:
                inner.append(name)
            elif os.path.realpath(entry.path) in above:
                raise DatasetError(f"{entry.path} is a link to a folder that holds it; remove the link.")
            else:
                walk(Path(entry.path), f"{name}/", above)

    walk(folder, "", frozenset())
    names, others, inner = (sorted(found, key=order_of) for found in (names, others, inner))
    return Listing(names=tuple(names), others=tuple(others), inner=tuple(inner))


def order_of(name: str) -> tuple[tuple[bool, tuple[int, ...], str], ...]:
    """Sort key of a relative name, folder by folder: the numbers from left to right, then the name.

    Names without a number come last.
    """
    *folders, file = name.split("/")
    return (*(_order_of_part(part, part) for part in folders), _order_of_part(Path(file).stem, file))


def bare_name(name: str) -> str:
    """A file's relative name without its ending."""
    return name.removesuffix(PurePosixPath(name).suffix)


def some(names: Collection[str], most: int = 5) -> str:
    """The first few names, as people can read them, and how many more there are."""
    first = ", ".join(map(visible, list(names)[:most]))
    return first if len(names) <= most else f"{first} and {len(names) - most} more"


def _order_of_part(counted: str, whole: str) -> tuple[bool, tuple[int, ...], str]:
    numbers = tuple(int(digits) for digits in re.findall(r"[0-9]+", counted))
    return not numbers, numbers, whole
