"""Several prompts for the same layouts: what a CSV of variants says."""

from __future__ import annotations

import csv
import io
import re
from pathlib import Path

from mamoe.data.folder.prompts import raise_problems, read_text
from mamoe.errors import DatasetError

HEADER = ("variant", "prompt")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9-]*")


def read_variants(path: Path) -> dict[str, str]:
    """What is added to every prompt, by the variant's name: UTF-8, header ``variant,prompt``, one variant a row.

    A name becomes part of file names: letters, digits and dashes.

    Raises:
        DatasetError: the file cannot be read, has another header, no rows or wrong ones; all of them in one error.
    """
    found: dict[str, str] = {}
    problems: list[str] = []
    reader = csv.reader(io.StringIO(read_text(path), newline=""), strict=True)
    try:
        header = next(reader, [])
        if tuple(cell.strip() for cell in header) != HEADER:
            raise DatasetError(f"{path}, line 1: the header must be {','.join(HEADER)}, got {','.join(header)!r}.")
        for cells in filter(None, reader):
            if problem := _problem(cells, found):
                problems.append(f"{path}, line {reader.line_num}: {problem}")
            else:
                found[cells[0]] = cells[1].strip()
    except csv.Error as error:
        problems.append(f"{path}, line {reader.line_num}: not valid CSV ({error}); check the quotes")
    if not (found or problems):
        problems.append(f'{path} names no variants: add rows such as night,"at night, lamps are lit"')
    raise_problems(problems, f"The variants file {path}")
    return found


def _problem(cells: list[str], found: dict[str, str]) -> str | None:
    if len(cells) != 2:
        return f"a row has a name and a prompt, got {len(cells)} cells; put prompts with commas in quotes"
    if not _NAME.fullmatch(cells[0]):
        return f"a variant's name is letters, digits and dashes, got {cells[0]!r}"
    if cells[0] in found:
        return f"{cells[0]!r} is there already"
    return None if cells[1].strip() else f"the prompt of {cells[0]!r} is empty"
