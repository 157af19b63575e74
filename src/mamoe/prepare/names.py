"""File names for pictures that lay in several folders: nothing an import writes may replace what it wrote."""

from __future__ import annotations

import unicodedata
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath

from mamoe.data.folder.listing import is_litter, some
from mamoe.data.reading.pictures import SUFFIXES


def flat_names(splits: Mapping[str, Sequence[str]], problems: list[str]) -> tuple[dict[str, list[str]], bool]:
    """The names without their folders; where two of a split would then share a file, all begin with their folders'.

    Two names share a file if they differ by suffix only (their maps would), or by capitals or the form of their
    accents (macOS and Windows take such names for one).

    Args:
        splits: relative names with ``/`` between folders, by split.
        problems: names that clash even so, and names that no reader would find, are added here.

    Returns:
        The names by split in their order, and whether they begin with their folders'.
    """
    flat = {split: [PurePosixPath(name).name for name in names] for split, names in splits.items()}
    prefixed = any(_clashes(names) for names in flat.values())
    if prefixed:
        flat = {split: [name.replace("/", "_") for name in names] for split, names in splits.items()}
    for split, names in flat.items():
        for same in _clashes(names):
            problems.append(
                f"{split}: {some([splits[split][i] for i in same])} would be one file, images/{split}/"
                f"{names[same[0]]} or its map; rename all but one, or list it once"
            )
        for name in names:
            if is_litter(name):
                problems.append(f"{split}: pictures named like {name!r} are never read; rename it")
            elif PurePosixPath(name).suffix.lower() not in SUFFIXES:
                problems.append(f"{split}: {name} is of a kind that is not read ({', '.join(SUFFIXES)}); convert it")
    return flat, prefixed


def _clashes(names: Sequence[str]) -> list[list[int]]:
    places: defaultdict[str, list[int]] = defaultdict(list)
    for i, name in enumerate(names):
        places[unicodedata.normalize("NFC", PurePosixPath(name).stem).casefold()].append(i)
    return [same for same in places.values() if len(same) > 1]
