"""What a training is checked for before anything heavy loads: every file of the data it is going to use."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from mamoe.config.train import Train
from mamoe.console import Bar, note
from mamoe.data.check.seen import SeenFiles
from mamoe.data.check.split import inspect_split
from mamoe.data.dataset import LayoutDataset
from mamoe.data.folder.prompts import raise_problems
from mamoe.machine.allocation import keep_freed_memory
from mamoe.storage.hashing import short_hash
from mamoe.training.scale.cluster import done_first


def check_data(config: Train, sources: Sequence[LayoutDataset], bar: Bar) -> None:
    """What `mamoe check` looks at, of the splits in use; files found sound are not opened again while they are as
    they were. Of several processes the first does it, and the others wait.

    Raises:
        DatasetError: lists what is wrong.
    """
    done_first(lambda: _check(config, sources, bar))


def _check(config: Train, sources: Sequence[LayoutDataset], bar: Bar) -> None:
    keep_freed_memory()
    seen = SeenFiles(_file(config))
    problems, said = [], []
    try:
        for source in {id(source): source for source in sources}.values():
            with bar(f"Checking {source.split!r}") as report:
                contents = inspect_split(source.files, source.taxonomy, report, seen)
            problems += contents.problems
            said += [*contents.notes, *contents.warnings]
    finally:
        seen.save()  # also what an interrupted check has got done
    for text in dict.fromkeys(said):
        note(text)
    raise_problems(problems, "The data set")


def _file(config: Train) -> Path:
    """Where the files of this data set that were found sound are kept."""
    parts = "\0".join(os.path.abspath(part) for part in (config.data.images, config.data.panoptic_maps))
    name = short_hash(parts, 8, errors="surrogateescape")
    return Path(config.cache.folder) / "check" / f"{name}.safetensors"
