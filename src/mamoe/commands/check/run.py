"""The story of `mamoe check`: look through a data set, say it, write it down, mend it."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path

from mamoe.commands.check.page import render_page
from mamoe.errors import ConfigError, DatasetError
from mamoe.machine.allocation import keep_freed_memory
from mamoe.methods.options import OPTIONS, FullOptions
from mamoe.prepare.check import Progress, check_folder
from mamoe.prepare.doctor.examine import Diagnosis, Model, examine
from mamoe.prepare.doctor.mend import mend
from mamoe.prepare.doctor.texts import LIMIT, TokenCounter
from mamoe.storage.staging import require_free, write_whole
from mamoe.vocabulary.taxonomy import Taxonomy

JSON, PAGE = "check.json", "check.html"
Bar = Callable[[str], AbstractContextManager[Progress]]  # a title -> a progress bar that takes a word beside counts


def check_data_set(
    folder: Path,
    bar: Bar,
    *,
    taxonomy: Taxonomy | None = None,
    model: str | None = None,
    method: str = FullOptions.name,
    out: Path | None = None,
    fix: Path | None = None,
) -> tuple[str, int]:
    """Look through a data set; returns what to print, and how many problems are left.

    Args:
        folder: the data set; nothing is written into it unless ``out`` or ``fix`` lie there.
        bar: shows progress.
        taxonomy: where ``data.yaml`` does not say it.
        model: base model, or a folder with CLIP's vocabulary: its tokenizer counts the prompts' tokens.
        method: whose checkpoints are reckoned where ``model`` has a UNet.
        out: folder for ``check.json`` and ``check.html``, which replace those of an earlier check.
        fix: new or empty folder for a mended copy; the problems are counted there then.

    Raises:
        DatasetError, ConfigError: the folder cannot be looked through, ``model`` has no tokenizer, ``fix`` is in use.
    """
    if fix is not None:
        require_free(fix)
    keep_freed_memory()
    known = None if model is None else model_of(model, method)
    with bar("Checking") as update:
        diagnosis = examine(folder, taxonomy, known, update)
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


def model_of(place: str, method: str = FullOptions.name) -> Model:
    """The tokenizer of a base model, and how many weights a method trains of its UNet.

    Raises:
        ConfigError: nothing there has a tokenizer, or there is no such method.
    """
    if method not in OPTIONS:
        raise ConfigError(f"There is no method {method!r}; there are {', '.join(OPTIONS)}.")
    from transformers import CLIPTokenizer

    from mamoe.assemble.weights import weights_of
    from mamoe.bases.sources import parts_of
    from mamoe.runs.source import Source

    folder = Path(place)
    try:
        if (folder / "vocab.json").is_file():
            tokenizer = CLIPTokenizer.from_pretrained(folder)
        else:
            tokenizer = parts_of(Source(path=place)).tokenizer("tokenizer")
    except (OSError, ValueError) as error:
        raise ConfigError(f"--model {place}: no tokenizer can be read there: {error}") from None
    limit = min(LIMIT, int(tokenizer.model_max_length))
    counter = TokenCounter(count=lambda text: len(tokenizer(text, verbose=False).input_ids), limit=limit, name=place)
    unet = folder / "unet/config.json"
    return Model(counter=counter, weights=partial(weights_of, unet, method) if unet.is_file() else None)


def _written(diagnosis: Diagnosis, out: Path) -> str:
    try:
        out.mkdir(parents=True, exist_ok=True)
        write_whole(json.dumps(diagnosis.plain(), indent=1, ensure_ascii=False) + "\n", out / JSON)
        write_whole(render_page(diagnosis), out / PAGE)
    except OSError as error:
        raise DatasetError(f"{out} cannot be written: {error.strerror}.") from None
    return f"\nWritten to {out / JSON} and {out / PAGE}."
