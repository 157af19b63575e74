"""The story of `mamoe check`: look through a data set, say it, write it down, mend it."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

from mamoe.commands.check.page import render_page
from mamoe.errors import ConfigError, DatasetError
from mamoe.machine.allocation import keep_freed_memory
from mamoe.prepare.check import Progress, check_folder
from mamoe.prepare.doctor.examine import Diagnosis, Model, examine
from mamoe.prepare.doctor.mend import mend
from mamoe.storage.staging import require_free, write_whole
from mamoe.vocabulary.taxonomy import Taxonomy

JSON, PAGE = "check.json", "check.html"
Bar = Callable[[str], AbstractContextManager[Progress]]  # a title -> a progress bar that takes a word beside counts


def check_data_set(
    folder: Path,
    bar: Bar,
    *,
    taxonomy: Taxonomy | None = None,
    model: Model | None = None,
    out: Path | None = None,
    fix: Path | None = None,
) -> tuple[str, int]:
    """Look through a data set; returns what to print, and how many problems are left.

    Args:
        folder: the data set; nothing is written into it unless ``out`` or ``fix`` lie there.
        bar: shows progress.
        taxonomy: where ``data.yaml`` does not say it.
        model: base model that is going to be trained.
        out: folder for ``check.json`` and ``check.html``, which replace those of an earlier check.
        fix: new or empty folder for a mended copy; the problems are counted there then.

    Raises:
        DatasetError, ConfigError: the folder cannot be looked through, ``fix`` is in use or lies in it.
    """
    if fix is not None:
        if fix.resolve().is_relative_to(folder.resolve()):
            raise ConfigError(f"{fix} lies in {folder}, of which it is to be a copy: name a folder beside it.")
        require_free(fix)
    keep_freed_memory()
    with bar("Checking") as update:
        diagnosis = examine(folder, taxonomy, model, update)
    lines = [diagnosis.text()]
    if out is not None:
        lines.append(_written(diagnosis, out))
    if fix is None:
        return "\n".join(lines), len(diagnosis.report.problems)
    with bar("Mending") as update:
        lines += ["", mend(diagnosis, fix, taxonomy, update)]
    with bar("Checking the copy") as update:
        left = check_folder(fix, None, update)
    lines += ["", f"{fix}:", left.text()]
    return "\n".join(lines), len(left.problems)


def _written(diagnosis: Diagnosis, out: Path) -> str:
    try:
        out.mkdir(parents=True, exist_ok=True)
        found = json.dumps(diagnosis.plain(), indent=1, ensure_ascii=False) + "\n"
        # Of a name that is no UTF-8 the odd bytes become JSON's own escapes.
        write_whole(found.encode("utf-8", "backslashreplace").decode(), out / JSON)
        write_whole(render_page(diagnosis), out / PAGE)
    except OSError as error:
        raise DatasetError(f"{out} cannot be written: {error.strerror}.") from None
    return f"\nWritten to {out / JSON} and {out / PAGE}."
