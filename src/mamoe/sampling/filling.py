"""Pictures into a folder: batch by batch, shared by processes, each whole or not at all, and gone on with.

    <folder>/<name>.png  [<name>.json]  [about.json]

Sampling jobs, evaluations, the demo, and the grids and scores of trainings all come through here. Batches are fixed by
the whole list and not by what is left of it: a picture is the same to the bit whether it was made at once, after an
interruption, or by one of several processes. A picture's record is written before the picture itself, so a record
without a picture is work to do. ``about.json`` says what all pictures of a folder were made with, so that pictures of
other settings are never taken for these.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from mamoe.errors import ConfigError
from mamoe.machine.processes import Processes
from mamoe.sampling.records import write_json, write_picture
from mamoe.storage.staging import write_whole

ABOUT = "about.json"


def fill(
    folder: Path,
    names: Sequence[str],
    batches: Sequence[Sequence[int]],
    make: Callable[[list[int]], Sequence[Image.Image]],
    *,
    record: Callable[[int], Mapping[str, Any]] | None = None,
    about: Mapping[str, Any] | None = None,
    again: bool = False,
    processes: Processes | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[Path, ...]:
    """Make the pictures that are not there yet; returns all of them, in the order of ``names``.

    Args:
        folder: made if needed.
        names: file names, PNG or JPEG; those with folders lie in them.
        batches: positions in ``names`` to be made together; every position once.
        make: positions -> pictures.
        record: position -> what the JSON beside the picture says; None: there is none.
        about: what they are all made with, plain JSON; None: nothing is said of the folder.
        again: pictures that are there are made anew.
        processes: each takes its share of the batches; all return when all is done. None: this one alone.
        progress: called with (pictures done, pictures in all) of this process, at the start and after every batch.

    Raises:
        ConfigError: the folder holds pictures made with something else than ``about``.
    """
    processes = processes or Processes()
    paths = tuple(folder / name for name in names)
    if about is not None and processes.first:
        claim(folder, about)
    open_batches = [list(batch) for batch in batches if again or not all(paths[i].exists() for i in batch)]
    processes.wait()  # before anybody draws: all must see the same pictures missing
    folder.mkdir(parents=True, exist_ok=True)
    mine = processes.share(open_batches)
    done = len(names) - sum(map(len, open_batches))
    total = done + sum(map(len, mine))
    if progress is not None:
        progress(done, total)
    for batch in mine:
        for i, image in zip(batch, make(batch), strict=True):
            if again or not paths[i].exists():
                paths[i].parent.mkdir(parents=True, exist_ok=True)
                if record is not None:
                    write_json(record(i), paths[i].with_suffix(".json"))
                write_picture(image, paths[i])
        done += len(batch)
        if progress is not None:
            progress(done, total)
    processes.wait()
    return paths


def claim(folder: Path, about: Mapping[str, Any]) -> None:
    """Say in a folder, made if needed, what all in it is made with.

    Raises:
        ConfigError: it holds what was made with something else.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / ABOUT
    wanted = json.loads(json.dumps(about))
    if path.exists():
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
        except ValueError:
            found = {}
        other = sorted(key for key in wanted.keys() | found.keys() if wanted.get(key) != found.get(key))
        if other:
            said = "; ".join(f"{key} was {found.get(key)!r:.60}, is {wanted.get(key)!r:.60}" for key in other)
            raise ConfigError(
                f"{folder} holds what was made otherwise: {said}. Nothing is overwritten: choose another folder, or "
                "move that one away."
            )
        return
    if any(folder.rglob("*.png")):
        raise ConfigError(f"{folder} holds pictures of unknown making; choose another --out, or move them away.")
    write_whole(json.dumps(wanted, indent=1) + "\n", path)
