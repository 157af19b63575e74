"""Which annotation belongs to which picture, where only their names tell; and which split a folder means."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath

from mamoe.data.folder.holdout import without_ending
from mamoe.data.folder.listing import bare_name, listed, some
from mamoe.data.reading.pictures import SUFFIXES
from mamoe.errors import DatasetError

SPLITS = {
    **{name: "train" for name in ("train", "training", "trainset")},
    **{name: "val" for name in ("val", "valid", "validation", "valset")},
    **{name: "test" for name in ("test", "testing", "testset")},
}
OTHER_KINDS = "file(s) of other kinds"


def split_of(name: str) -> tuple[str, str]:
    """The split of a relative name, by the first of its folders, and the name without that; ``train`` if none says."""
    first, slash, rest = name.partition("/")
    return (SPLITS[first.lower()], rest) if slash and first.lower() in SPLITS else ("train", name)


def files_below(folder: Path, suffixes: Sequence[str], what: str) -> tuple[list[str], tuple[str, ...]]:
    """The relative names of a folder's files with one of the suffixes, and those of the others.

    Raises:
        DatasetError: there is no such folder, it cannot be listed, or holds none.
    """
    if not folder.is_dir():
        raise DatasetError(f"There is no folder {folder}; wanted {what}.")
    try:
        found = listed(folder, suffixes, recursive=True)
    except OSError as error:
        raise DatasetError(f"Cannot list {folder}: {error.strerror}.") from None
    if not found.names:
        others = f"; there are {some(found.others)}" if found.others else ""
        raise DatasetError(f"{folder} holds no {what} (*{', *'.join(suffixes)}){others}.")
    return list(found.names), found.others


def left_out(place: Path | str, names: Sequence[str], what: str) -> list[str]:
    """The note that files of a place serve nothing, and which; none if there are none."""
    return [f"{place}: {len(names)} {what} were left out: {some(names)}."] if names else []


def require_apart(out: Path, read: Sequence[Path]) -> None:
    """Refuse to make a folder inside one of which all folders are read: the same command again would read it too.

    Raises:
        DatasetError: it lies in one of them.
    """
    for folder in read:
        if folder.is_dir() and out.resolve().is_relative_to(folder.resolve()):
            raise DatasetError(
                f"{out} lies in {folder}, of which all folders are read: what is written there would be taken for "
                "pictures or maps the next time. Name a folder beside it."
            )


def pictures_by_split(folder: Path, notes: list[str]) -> dict[str, list[str]]:
    """The pictures of a folder by split, by their relative names.

    Raises:
        DatasetError: see :func:`files_below`.
    """
    names, others = files_below(folder, SUFFIXES, "pictures")
    notes += left_out(folder, others, OTHER_KINDS)
    splits: dict[str, list[str]] = {}
    for name in names:
        splits.setdefault(split_of(name)[0], []).append(name)
    return {split: splits[split] for split in ("train", "val", "test") if split in splits}


def paired(pictures: Sequence[str], others: Sequence[str]) -> dict[str, str]:
    """The other file of every picture that has one.

    The names are the same without their endings; if that finds nothing for some picture, they are the same without the
    folder that says the split; or without all folders; or without what all names of a side end in (``_leftImg8bit``,
    ``_gtFine_labelIds``). The first of these that serves every picture is taken, else the one that serves most.
    """
    best: dict[str, str] = {}
    for keys_of in (_whole, _without_split, _flat, _without_ending):
        by_key: dict[str, list[str]] = {}
        for key, name in zip(keys_of(others), others, strict=True):
            by_key.setdefault(key, []).append(name)
        keys = keys_of(pictures)
        found = {
            name: by_key[key][0] for key, name in zip(keys, pictures, strict=True) if len(by_key.get(key, ())) == 1
        }
        if len(set(keys)) == len(pictures) and len(found) > len(best):
            best = found
        if len(best) == len(pictures):
            break
    return best


def _whole(names: Sequence[str]) -> list[str]:
    return [bare_name(name) for name in names]


def _without_split(names: Sequence[str]) -> list[str]:
    return [bare_name(split_of(name)[1]) for name in names]


def _flat(names: Sequence[str]) -> list[str]:
    return [PurePosixPath(name).stem for name in names]


def _without_ending(names: Sequence[str]) -> list[str]:
    return [str(path) for path in without_ending([PurePosixPath(stem) for stem in _flat(names)])]


def lacking(
    images: Path, pictures: Sequence[str], match: Mapping[str, str], maps: Path, names: Sequence[str]
) -> list[str]:
    """A problem for every picture without a map, and what the files are called; one alone where no picture has one."""
    problems = [f"{images / name} has no map in {maps}" for name in pictures if name not in match]
    if not match:
        problems = [f"no map in {maps} belongs to one picture of {images} alone"]
    if problems:
        problems.append(f"pictures are called {some(pictures, 3)}, maps {some(names, 3)}: give folders that fit")
    return problems
