"""Finding one's way in other data sets' folders: what is in them, and which importer serves."""

from __future__ import annotations

import shlex
from collections.abc import Collection
from pathlib import Path

from mamoe.data.folder.listing import is_litter, listed, some
from mamoe.errors import DatasetError
from mamoe.prepare.pairing import OTHER_KINDS, left_out

# What a folder of the format holds; the first pattern that matches will do.
_SIGNS = {
    "ade20k": ("annotations_instance", "annotations/training", "ADEChallengeData2016"),
    "bdd100k": ("labels/pan_seg",),
    "kitti360": ("data_2d_semantics",),
    "mapillary": ("training/v2.0", "training/v1.2", "training/panoptic"),
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
    notes += left_out(folder, found.others, OTHER_KINDS)
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
    return [f"{source}: ignored {len(names)} entries that systems leave behind: {some(sorted(set(names)))}."]


def links_outside(files: Collection[Path], roots: Collection[Path]) -> list[str]:
    """A problem for every file that is, or lies in, a link out of all of the folders; none where there are no folders.

    What came in an archive could otherwise have any file of this machine copied.
    """
    real = [root.resolve() for root in roots]
    if not real:
        return []
    return [
        f"{path} is a link out of {' and '.join(map(str, roots))}, to {target}: put the file itself there, or say "
        "--follow-links if that is meant"
        for path in dict.fromkeys(files)
        if not any((target := path.resolve()).is_relative_to(root) for root in real)
    ]


def advice(source: Path, asked: str) -> str:
    """Where the data asked for, or else of another format, seem to be instead, as a sentence; empty if nowhere near."""
    if not source.is_dir():
        return " That is a file: give the data set's folder." if source.exists() else " There is no such folder."
    for name in sorted(_SIGNS, key=lambda name: name != asked):
        for place in (source, source.parent, *folders_of(source)):
            if (name, place) != (asked, source) and any(next(place.glob(sign), None) for sign in _SIGNS[name]):
                return (
                    f" {place} looks like {name}: {shlex.join(['mamoe', 'prepare', *_words(name), str(place), 'OUT'])}"
                )
    return ""


def _words(name: str) -> list[str]:
    """How the import of a format is typed: some have a short form."""
    return [name] if name in ("cityscapes", "camvid", "coco") else ["import", name]
