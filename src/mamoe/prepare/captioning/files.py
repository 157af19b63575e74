"""The two text files a trainer reads, changed in place: what they say of others stays as it is.

A file is read whole, with the readers the trainer uses, and written whole or not at all. One that has anything wrong
with it is refused, since what could not be read would be lost.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from mamoe.data.folder.matching import keyed
from mamoe.data.folder.prompts import HEADER, raise_problems, scan_instance_prompts, scan_prompts_csv
from mamoe.storage.staging import write_whole


class TextFile(Protocol):
    """Texts by picture, or by picture and segment."""

    def get(self, name: str, segment: int | None) -> str:
        """What is said; empty where nothing is."""
        ...

    def put(self, name: str, segment: int | None, text: str) -> None:
        """Say it from now on."""
        ...

    def save(self) -> None:
        """Write the file, whole or not at all."""
        ...


class CaptionsFile:
    """The prompts CSV of a split.

    Args:
        path: need not exist.
        names: of all pictures of the split.

    Raises:
        DatasetError: something in the file is wrong, all of it in one error.
    """

    def __init__(self, path: Path, names: Sequence[str]) -> None:
        self._path = path
        rows, problems = scan_prompts_csv(path) if path.exists() else ({}, [])
        self._key_of = _meant(path, rows, names, problems)
        self._rows = {key: row.prompt for key, row in rows.items()}

    def get(self, name: str, segment: int | None) -> str:
        return self._rows.get(self._key_of.get(name, name), "").strip()

    def put(self, name: str, segment: int | None, text: str) -> None:
        self._rows[self._key_of.setdefault(name, name)] = text

    def save(self) -> None:
        buffer = io.StringIO(newline="")
        writer = csv.writer(buffer, lineterminator="\n")
        writer.writerow(HEADER)
        writer.writerows(self._rows.items())
        self._path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(buffer.getvalue(), self._path)


class InstancePromptsFile:
    """The instance prompts JSON of a split; see :class:`CaptionsFile`."""

    def __init__(self, path: Path, names: Sequence[str]) -> None:
        self._path = path
        self._texts, problems = scan_instance_prompts(path) if path.exists() else ({}, [])
        self._key_of = _meant(path, self._texts, names, problems)

    def get(self, name: str, segment: int | None) -> str:
        return self._texts.get(self._key_of.get(name, name), {}).get(segment or 0, "").strip()

    def put(self, name: str, segment: int | None, text: str) -> None:
        self._texts.setdefault(self._key_of.setdefault(name, name), {})[segment or 0] = text

    def save(self) -> None:
        plain = {key: {str(segment): text for segment, text in sorted(one.items())} for key, one in self._texts.items()}
        self._path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(json.dumps(plain, indent=1, ensure_ascii=False) + "\n", self._path)


def _meant(path: Path, keys: Sequence[str] | dict, names: Sequence[str], problems: list[str]) -> dict[str, str]:
    meant = keyed(keys, names)
    problems = [*problems, *(f"{path}, key {key!r}: {reason}" for key, reason in sorted(meant.wrong.items()))]
    raise_problems(problems, f"{path}, which captions are to be put into,")
    return dict(meant.key_of)
