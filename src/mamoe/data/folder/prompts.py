"""The two text files of a data set: one prompt per picture (CSV) and one per segment (JSON)."""

from __future__ import annotations

import csv
import io
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mamoe.console import visible
from mamoe.errors import DatasetError
from mamoe.storage.contents import found_instead
from mamoe.storage.text_file import require_file
from mamoe.vocabulary.panoptic import MAX_SEGMENT_ID
from mamoe.vocabulary.prompts import is_text

HEADER = ("img_name", "prompt")
_MOST_LISTED = 50


@dataclass(frozen=True, kw_only=True, slots=True)
class PromptLine:
    """One row of a prompts CSV."""

    prompt: str
    line: int  # where it ends in the file, counted from 1


def read_prompts_csv(path: Path) -> dict[str, str]:
    """Prompt of every picture, by the key that names it: UTF-8, header ``img_name,prompt``, one picture a row.

    Raises:
        DatasetError: the file cannot be read, has another header, or has wrong rows; all of them in one error.
    """
    rows, problems = scan_prompts_csv(path)
    raise_problems(problems, f"The prompts file {path}")
    return {name: row.prompt for name, row in rows.items()}


def read_instance_prompts(path: Path) -> dict[str, dict[int, str]]:
    """Prompt of every segment, by the picture's key: JSON ``{"<file name>": {"<segment id>": "<prompt>"}}``.

    Raises:
        DatasetError: the file cannot be read, is not such JSON, or has wrong entries; all of them in one error.
    """
    prompts, problems = scan_instance_prompts(path)
    raise_problems(problems, f"The instance prompts file {path}")
    return prompts


def scan_prompts_csv(path: Path) -> tuple[dict[str, PromptLine], list[str]]:
    """The right rows of a prompts CSV by file name, and what is wrong with the others.

    Raises:
        DatasetError: the file cannot be read, or its header is another one.
    """
    rows: dict[str, PromptLine] = {}
    problems: list[str] = []
    reader = csv.reader(io.StringIO(read_text(path), newline=""), strict=True)
    try:
        header = next(reader, [])
        if tuple(cell.strip() for cell in header) != HEADER:
            instead = found_instead(path)
            comma = "separate the two by a comma" if len(header) == 1 and not header[0].isidentifier() else ""
            hint = f"; {instead or comma}" if instead or comma else ""
            raise DatasetError(
                f"{path}, line 1: the header must be {','.join(HEADER)}, got {','.join(header)!r:.80}{hint}."
            )
        for cells in reader:
            if cells:
                problem = _row_problem(cells, rows)
                if problem:
                    problems.append(f"{path}, line {reader.line_num}: {problem}")
                else:
                    rows[cells[0]] = PromptLine(prompt=cells[1], line=reader.line_num)
    except csv.Error as error:
        problems.append(f"{path}, line {reader.line_num}: not valid CSV ({error}); check the quotes")
    return rows, problems


def scan_instance_prompts(path: Path) -> tuple[dict[str, dict[int, str]], list[str]]:
    """The right entries of an instance-prompts JSON, and what is wrong with the others.

    Raises:
        DatasetError: the file cannot be read, or is not a JSON object.
    """
    repeated: list[str] = []

    def pairs(items: list[tuple[str, Any]]) -> dict[str, Any]:
        repeated.extend(key for key, n in Counter(key for key, _ in items).items() if n > 1)
        return dict(items)

    text = read_text(path)
    try:
        plain = json.loads(text, object_pairs_hook=pairs)
    except RecursionError:
        raise DatasetError(f"{path} is not valid JSON: it is nested too deep.") from None
    except ValueError as error:  # no JSON, or a number of more digits than Python reads
        raise DatasetError(f"{path} is not valid JSON: {found_instead(path) or error}.") from None
    if not isinstance(plain, Mapping):
        raise DatasetError(
            f'{path} must hold an object {{"file name": {{"segment id": "prompt"}}}}, got {plain!r:.60}.'
        )
    problems = [f"{path}: key {key!r} stands twice in one object" for key in repeated]
    outside = {name: problem for name in plain if (problem := _key_problem(name))}
    problems += [f"{path}, key {name!r}: {problem}" for name, problem in outside.items()]
    named = {name: entries for name, entries in plain.items() if name not in outside}
    return {name: _segments(path, name, entries, problems) for name, entries in named.items()}, problems


def raise_problems(problems: list[str], what: str) -> None:
    """Raise one :class:`DatasetError` that lists the problems, the first fifty in full; nothing if there are none."""
    if problems:
        count = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
        raise DatasetError(f"{what} has {count}:\n" + "\n".join(in_lines(problems)))


def in_lines(texts: Sequence[str]) -> list[str]:
    """One line for each of the first fifty, and one that counts the others."""
    lines = [f"- {visible(text)}" for text in texts[:_MOST_LISTED]]
    return lines if len(texts) <= _MOST_LISTED else [*lines, f"- and {len(texts) - _MOST_LISTED} more"]


def read_text(path: Path) -> str:
    """A user's text file, UTF-8 with or without a mark at its beginning, line ends as they are.

    Raises:
        DatasetError: it is missing, cannot be read, or is something else.
    """
    try:
        require_file(path)
        with path.open(encoding="utf-8-sig", newline="") as file:
            return file.read()
    except FileNotFoundError:
        raise DatasetError(f"There is no file {path}.") from None
    except OSError as error:
        raise DatasetError(f"Cannot read {path}: {error.strerror}.") from None
    except UnicodeDecodeError as error:
        raise DatasetError(f"{path} is not UTF-8 text (byte {error.start}); save it as UTF-8.") from None


def _row_problem(cells: list[str], rows: Mapping[str, PromptLine]) -> str | None:
    if len(cells) != 2:
        return f"a row has a file name and a prompt, got {len(cells)} cells; put prompts with commas in quotes"
    name = cells[0]
    if not name.strip():
        return "the file name is empty"
    if problem := _key_problem(name):
        return problem
    if name in rows:
        return f"{name!r} already has a prompt in line {rows[name].line}"
    return None


def _key_problem(key: str) -> str | None:
    if "\\" in key:
        return f"folders in a name are separated by /, got {key!r}"
    if key.startswith("/") or not {".", ".."}.isdisjoint(key.split("/")):
        return f"a picture is named by its place below the folder of its split, without . and .., got {key!r}"
    return None


def _segments(path: Path, name: str, entries: Any, problems: list[str]) -> dict[int, str]:
    if not isinstance(entries, Mapping):
        problems.append(f'{path}, key {name!r}: wanted an object {{"segment id": "prompt"}}, got {entries!r:.60}')
        return {}
    prompts = {}
    for key, prompt in entries.items():
        where = f"{path}, key {name!r} -> {key!r:.60}"
        if not (key.isascii() and key.isdigit() and len(key) <= 5 and 1 <= int(key) <= MAX_SEGMENT_ID):
            problems.append(f"{where}: a segment id is a whole number in 1..{MAX_SEGMENT_ID}")
        elif int(key) in prompts:
            problems.append(f"{where}: segment {int(key)} is given twice")
        elif not is_text(prompt) or not prompt.strip():
            problems.append(
                f"{where}: a prompt is text that is not empty, got {prompt!r:.60}; leave the segment out instead"
            )
        else:
            prompts[int(key)] = prompt
    return prompts
