"""Folders of pictures that an evaluation makes: filled batch by batch, shared by processes, and gone on with.

A folder says in ``about.json`` what its pictures were made with, so that pictures of other settings are never scored as
these. Batches are fixed by the whole list and not by what is left of it: a picture is the same to the bit whether it
was made at once, after an interruption, or by one of several processes.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from mamoe.errors import ConfigError
from mamoe.machine.processes import Processes
from mamoe.storage.staging import replaced_file, write_whole

_ABOUT = "about.json"


def fill(
    folder: Path,
    names: Sequence[str],
    batches: Sequence[Sequence[int]],
    make: Callable[[list[int]], Sequence[Image.Image]],
    *,
    about: Mapping[str, Any],
    processes: Processes,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[Path, ...]:
    """Make the pictures that are not there yet; returns all of them, in the order of ``names``.

    Args:
        folder: made if needed.
        names: file names, PNG; those with folders lie in them.
        batches: positions in ``names`` to be made together; every position once.
        make: positions -> pictures.
        about: what they are made with, plain JSON.
        processes: each takes its share of the batches; all return when all is done.
        progress: called with (batches done, batches in all) of this process.

    Raises:
        ConfigError: the folder holds pictures made with something else.
    """
    paths = tuple(folder / name for name in names)
    if processes.first:
        _claim(folder, about)
    open_batches = [list(batch) for batch in batches if not all(paths[i].exists() for i in batch)]
    processes.wait()
    mine = processes.share(open_batches)
    for number, batch in enumerate(mine):
        for i, image in zip(batch, make(batch), strict=True):
            if not paths[i].exists():
                _write(image, paths[i])
        if progress is not None:
            progress(number + 1, len(mine))
    processes.wait()
    return paths


def _claim(folder: Path, about: Mapping[str, Any]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / _ABOUT
    wanted = json.loads(json.dumps(about))
    if path.exists():
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
        except ValueError:
            found = {}
        other = sorted(key for key in wanted.keys() | found.keys() if wanted.get(key) != found.get(key))
        if other:
            raise ConfigError(
                f"{folder} holds pictures made with another {', '.join(other)}. Nothing is overwritten: choose another "
                "--out, or move that folder away."
            )
        return
    if any(folder.rglob("*.png")):
        raise ConfigError(f"{folder} holds pictures of unknown making; choose another --out, or move them away.")
    write_whole(json.dumps(wanted, indent=1) + "\n", path)


def _write(image: Image.Image, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with replaced_file(path) as partial:
        image.save(partial, format="PNG")
