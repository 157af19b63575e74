"""What reading does to the pictures of a data set, counted and named."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from mamoe.data.folder.listing import some
from mamoe.data.reading.looks import PictureLook, Reading

_WORDS = {
    Reading.TURNED: "are turned upright, as their EXIF orientation says",
    Reading.ON_BLACK: "are transparent and put on black",
    Reading.FIRST_FRAME: "have several frames or pages, of which the first is read",
}


def reading_notes(looks: Sequence[tuple[Path, PictureLook]]) -> list[str]:
    """One line for each way in which some of the pictures are shown otherwise than they are stored."""
    named = {words: [path.name for path, look in looks if kind in look.readings] for kind, words in _WORDS.items()}
    return [f"{len(names)} pictures {words}: {some(names)}" for words, names in named.items() if names]
