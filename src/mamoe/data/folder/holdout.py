"""Pictures held out of the training split for validation, where a data set brings none of its own: by scene."""

from __future__ import annotations

import hashlib
import os
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from mamoe.data.folder.listing import is_litter
from mamoe.errors import DatasetError

SHARE = 0.1  # of the pictures, where nobody says another


def holds_files(folder: Path) -> bool:
    """Whether there is anything in a folder of a split; what systems leave behind is nothing, and links are followed.

    Raises:
        DatasetError: it is there and cannot be listed.
    """
    if not folder.is_dir():
        return False
    for _, folders, files in os.walk(folder, onerror=_refuse, followlinks=True):
        folders[:] = [name for name in folders if not is_litter(name)]
        if not all(map(is_litter, files)):
            return True
    return False


def _refuse(error: OSError) -> None:
    raise DatasetError(f"Cannot list {error.filename}: {error.strerror}.") from None


def held_out(keys: Sequence[str], share: float) -> tuple[int, ...]:
    """Which of the pictures to validate on: their places, in order. The same names give the same choice.

    A scene is what a name says without the numbers at its end (``aachen`` of ``aachen_000001_000019.png``), or the
    folder of a picture in folders; whole scenes are held out, as near to the share as they come, at least one and never
    more than half of the pictures. Where no scene is that small (all pictures are one, say), scenes are told apart by
    all but the last number; and if that does not do either, the last pictures are held out.

    Args:
        keys: names of the pictures, in the order of their numbers.
        share: of the pictures, in (0, 0.5].

    Raises:
        DatasetError: there are fewer than two pictures.
    """
    if len(keys) < 2:
        raise DatasetError(
            f"The split 'train' has {len(keys)} picture(s): one cannot both train and validate. Add pictures, or a "
            "split 'val', or set trainer.overfit_images."
        )
    count = max(1, round(share * len(keys)))
    paths = without_ending([PurePosixPath(key).with_suffix("") for key in keys])
    for scene_of in (_place, _sequence):
        if chosen := _whole_scenes([scene_of(path) for path in paths], count):
            return chosen
    return tuple(range(len(keys) - count, len(keys)))


def _whole_scenes(scenes: Sequence[str], count: int) -> tuple[int, ...]:
    """The places of whole scenes that together have about ``count`` pictures; none where the smallest is too large."""
    sizes = Counter(scenes)
    mixed = sorted(sizes, key=lambda scene: hashlib.sha256(scene.encode()).digest())  # alike in every process
    chosen, left = set[str](), count
    for scene in mixed:
        if sizes[scene] <= left:
            chosen.add(scene)
            left -= sizes[scene]
    smallest = min(mixed, key=lambda scene: sizes[scene])
    if not chosen and 2 * sizes[smallest] <= len(scenes):
        chosen.add(smallest)
    return tuple(place for place, scene in enumerate(scenes) if scene in chosen)


def without_ending(paths: Sequence[PurePosixPath]) -> list[PurePosixPath]:
    """The names without what all of them end in, such as ``_leftImg8bit``."""
    shared = os.path.commonprefix([path.name[::-1] for path in paths])[::-1]  # noqa: RUF071, characters are meant
    ending = shared[found.start() :] if (found := re.search(r"[_\-.]", shared)) else ""
    return [path.with_name(path.name.removesuffix(ending) or path.name) for path in paths]


def _place(path: PurePosixPath) -> str:
    if len(path.parts) > 1:
        return str(path.parent)
    return re.sub(r"(?:[_\-. ][0-9]+)*[_\-. ]?[0-9]+$", "", path.name)


def _sequence(path: PurePosixPath) -> str:
    return str(path.with_name(re.sub(r"[0-9]+[^0-9]*$", "", path.name) or "-"))
