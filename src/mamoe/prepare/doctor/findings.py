"""One thing that is wrong, or odd, with a data set: what kind of thing, where, and in words."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

_LINE = re.compile(r"^, line (\d+)")
_SEGMENT = re.compile(r"(?:-> '|segments? )(\d{1,5})\b")
_FIRST_NAME = re.compile(r"(, | and \d+ more).*$")
_ENDS = re.compile(r"[,:;)]? |[,:;.)'\"]*$|[:;,'\")]")


class Severity(StrEnum):
    """What becomes of a training."""

    PROBLEM = "problem"  # it fails, or trains on what is not meant
    WARNING = "warning"  # it runs; hardly meant so
    NOTE = "note"  # it runs; good to know


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """One line of the report."""

    severity: Severity
    kind: str  # in a word or three, the same for all findings of its sort
    text: str  # a whole sentence, with the file
    file: Path | None = None
    line: int | None = None  # of a text file, from 1
    segment: int | None = None
    position: tuple[int, int] | None = None  # (row, column) of a pixel, from 0

    def plain(self) -> dict[str, Any]:
        """For JSON; what is not known is left out."""
        known = {
            "severity": self.severity.value,
            "kind": self.kind,
            "file": None if self.file is None else str(self.file),
            "line": self.line,
            "segment": self.segment,
            "position": None if self.position is None else list(self.position),
            "text": self.text,
        }
        return {key: value for key, value in known.items() if value is not None}


# What sentences that were written for people are about; the first that fits.
_KINDS = {
    "is unknown to taxonomy": "unknown class",
    "class ids are unknown": "unknown class",
    "have several": "segment of two classes",
    "no such segment": "prompt without segment",
    "no such picture": "prompt without picture",
    "has no prompt in": "picture without prompt",
    "has no panoptic map": "picture without map",
    "belong to no picture": "map without picture",
    "but its picture": "sizes differ",
    "are called": "same name twice",
    "Cannot read": "unreadable file",
    "There is no split": "no split",
    "There is no": "missing",
    "more than 8 bits": "pixels of another kind",
    "has pixels of the kind": "pixels of another kind",
    "must be an 8-bit RGB PNG": "map of another kind",
    "colours, more than there are segments": "map of another kind",
    "EXIF orientation": "turned by EXIF",
    "transparent": "transparent",
    "several frames": "several frames",
    "files are not read": "not read",
    "empty prompt": "empty prompt",
    ", line": "prompts file",
    ", key": "instance prompts file",
}


def located(
    severity: Severity, texts: Iterable[str], root: Path, pictures: Mapping[str, Path] | None = None
) -> list[Finding]:
    """Findings out of sentences that name their file themselves, somewhere below ``root``.

    Args:
        severity: of all of them.
        texts: the sentences.
        root: of the data set.
        pictures: by name; sentences that end in a list of pictures are about the first of them.
    """
    found = []
    for text in texts:
        file, rest = _file_in(text, root)
        if file is None and pictures is not None:
            file = pictures.get(_FIRST_NAME.sub("", text.rpartition(": ")[2]))
        line, segment = _LINE.search(rest), _SEGMENT.search(rest)
        found.append(
            Finding(
                severity=severity,
                kind=next((kind for words, kind in _KINDS.items() if words in text), "data set"),
                text=text,
                file=file,
                line=None if line is None else int(line[1]),
                segment=None if segment is None else int(segment[1]),
            )
        )
    return found


def _file_in(text: str, root: Path) -> tuple[Path | None, str]:
    """The first path below ``root`` that a sentence names, as long as can be, and what follows it."""
    start = text.find(str(root))
    if start < 0:
        return None, text
    tail = text[start:]
    best = str(root)
    for end in _ENDS.finditer(tail):  # a name may hold spaces: the longest that is there is meant
        if end.start() > len(best) and os.path.lexists(tail[: end.start()]):
            best = tail[: end.start()]
    return Path(best), tail[len(best) :]
