"""Finding one's way in other data sets' folders: what is in them, and which importer serves."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from mamoe.data.listing import is_litter, listed, some
from mamoe.types import DatasetError

# What a folder of the format holds; the first pattern that matches will do.
_SIGNS = {
    "cityscapes": ("leftImg8bit/*",),
    "camvid": ("trainannot", "valannot", "testannot"),
    "coco": ("panoptic_*.json", "annotations/panoptic_*.json"),
}


def files_of(folder: Path, suffixes: Collection[str], notes: list[str]) -> list[Path]:
    """The files with one of the suffixes, in their order; files of other kinds are named in ``notes``.

    A folder that is not there has none.

    Raises:
        DatasetError: it cannot be listed.
    """
    if not folder.is_dir():
        return []
    try:
        found = listed(folder, suffixes)
    except OSError as error:
        raise DatasetError(f"Cannot list {folder}: {error.strerror}.") from None
    if found.others:
        notes.append(f"{folder}: {len(found.others)} file(s) of other kinds were left out: {some(found.others)}.")
    return [folder / name for name in found.names]


def folders_of(folder: Path) -> list[Path]:
    """The folders inside, in alphabetical order, without what systems leave behind; none if it is not there."""
    if not folder.is_dir():
        return []
    return sorted(entry for entry in folder.iterdir() if entry.is_dir() and not is_litter(entry.name))


def litter_note(source: Path, folders: Collection[Path]) -> list[str]:
    """How many files that systems leave behind lie in the folders of ``source``, as a note if there are any."""
    names = [entry.name for folder in folders if folder.is_dir() for entry in folder.iterdir() if is_litter(entry.name)]
    if not names:
        return []
    return [f"{source}: {len(names)} file(s) and folder(s) that systems leave behind were ignored: {some(names)}."]


def advice(source: Path, asked: str) -> str:
    """What a folder without the data asked for seems to be instead, and where they seem to be, as a sentence."""
    if not source.is_dir():
        return " There is no such folder."
    for place in (source, source.parent, *folders_of(source)):
        for name, signs in _SIGNS.items():
            if any(next(place.glob(sign), None) for sign in signs) and (name, place) != (asked, source):
                return f" {place} looks like {name}: mamoe prepare {name} {place} OUT."
    return ""
