"""What reading does to the pictures of a data set, counted and named."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from mamoe.data.listing import some
from mamoe.data.pictures import is_transparent, picture_header
from mamoe.types import DatasetError


def reading_notes(paths: Sequence[Path]) -> list[str]:
    """One line for each way in which some of the pictures are shown otherwise than they are stored.

    Headers alone are read, and the pixels of pictures with alpha. Pictures that cannot be read are left out.
    """
    with ThreadPoolExecutor() as pool:
        found = list(zip(paths, pool.map(_readings, paths), strict=True))
    kinds = dict.fromkeys(kind for _, kinds in found for kind in kinds)
    named = {kind: [path.name for path, kinds in found if kind in kinds] for kind in kinds}
    return [f"{len(names)} pictures {kind}: {some(names)}" for kind, names in named.items()]


def _readings(path: Path) -> tuple[str, ...]:
    try:
        header = picture_header(path)
        transparent = header.alpha and is_transparent(path)
    except DatasetError:
        return ()
    kinds = {
        "are turned upright, as their EXIF orientation says": header.orientation != 1,
        "are transparent and put on black": transparent,
        "have several frames or pages, of which the first is read": header.frames > 1,
    }
    return tuple(kind for kind, holds in kinds.items() if holds)
