"""A folder made picture by picture: shared by processes, gone on with after a kill, there as a whole or not at all."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence, Set
from contextlib import closing
from dataclasses import fields, is_dataclass
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np

from mamoe.data.folder.description import DATA_YAML
from mamoe.data.folder.prompts import raise_problems
from mamoe.errors import DatasetError
from mamoe.machine.pool import mapped
from mamoe.prepare.labelled import Manner
from mamoe.prepare.record import DATASET_JSON
from mamoe.storage.growing import GrowingFolder, growing_folder
from mamoe.storage.hashing import short_hash

Progress = Callable[[int, int], None]  # called with (pictures done, pictures in all) of this process
Records = Mapping[str, Mapping[str, Any]]  # what became of every task, by its key


class Task(Protocol):
    """A picture to do; goes to other processes."""

    @property
    def key(self) -> str:
        """Names it among all of the job."""
        ...


T = TypeVar("T", bound=Task)
Run = Callable[[Path, Sequence[T]], Sequence[Mapping[str, Any] | str]]


def made_folder(
    out: Path,
    identity: Sequence[str],
    tasks: Sequence[T],
    run: Run[T],
    finish: Callable[[Path, Records], None],
    *,
    manner: Manner,
    progress: Progress | None = None,
    reads: Sequence[Path] = (),
) -> int:
    """Do every task in a folder that becomes ``out`` when all are done.

    Args:
        out: the folder to make.
        identity: texts that are the same for the same job alone.
        tasks: of all processes together; this one does its share.
        run: does ``manner.together`` of them or fewer, given the folder as it grows, and returns what is to be known of
            each, in plain values, or a problem. A function of a module, or a partial of one.
        finish: adds what is written once, when all is done.
        manner: how.
        progress: called after every task.
        reads: folders and files that the tasks read; ``--overwrite`` must not take them away.

    Returns:
        How many tasks other processes have not done yet; 0: the folder is there. Where ``finish`` was not called,
        another process has put it there.

    Raises:
        DatasetError: ``out`` is in use, or there are problems; ``out`` is as it was.
    """
    if not manner.share.alone and not manner.share.of(tasks):  # more processes than pictures
        return 0 if out.exists() else len(tasks)
    _require_replaceable(out, manner, reads)
    key = short_hash("\n".join(identity), 8, errors="surrogateescape")
    alone = manner.share.alone
    with growing_folder(out, key, replace=manner.overwrite, alone=alone, refusal=DatasetError) as folder:
        _do_share(folder, tasks, run, manner, progress)
        with folder.finishing() as unfinished:
            if not unfinished:  # another process was as quick
                return 0
            records = folder.finished()
            left = sum(task.key not in records for task in tasks)
            if left:
                return left
            finish(folder.stage, records)
            folder.put()
    return 0


def how_far(*, done: bool, left: int, dry_run: bool) -> str:
    """What follows the counts in a line of summary.

    Args:
        done: this process put the folder in place.
        left: pictures of other processes that are not done.
        dry_run: nothing was to be written.
    """
    if left:
        return f"; this part is done, {left} pictures of others are not"
    if dry_run:
        return " would be written (dry run)"
    return "" if done else "; another process has made it"


def file_stamp(path: Path) -> tuple[str, int, int]:
    """Path, size and time of the last change: other once the file is."""
    try:
        found = path.stat()
    except OSError:
        return str(path), 0, 0  # what is missing is for its reader to say
    return str(path), found.st_size, found.st_mtime_ns


def spelled(word: Any) -> str:
    """A value in words that are the same in every process, fit to tell one job from another: neither the order of a set
    nor the place of an object in memory stands in them, and all of an array does."""
    if isinstance(word, Set):
        return f"{{{', '.join(sorted(map(spelled, word)))}}}"
    if is_dataclass(word) and not isinstance(word, type):
        return (
            f"{type(word).__name__}({', '.join(spelled(getattr(word, one.name)) for one in fields(word) if one.repr)})"
        )
    if isinstance(word, Mapping):
        return f"{{{', '.join(f'{spelled(key)}: {spelled(value)}' for key, value in word.items())}}}"
    if isinstance(word, list | tuple):
        return f"[{', '.join(map(spelled, word))}]"
    if isinstance(word, np.ndarray):
        return f"{word.dtype}{word.shape}{word.tobytes().hex()}"
    if isinstance(word, partial):
        return spelled((word.func, word.args, word.keywords))
    if callable(word):
        return f"{word.__module__}.{word.__qualname__}"
    return repr(word)


def _do_share(
    folder: GrowingFolder,
    tasks: Sequence[T],
    run: Run[T],
    manner: Manner,
    progress: Progress | None,
) -> None:
    problems = []
    share = manner.share
    with folder.journal(f"part-{share.rank}-of-{share.count}", DatasetError) as journal:
        finished = folder.finished()
        mine = share.of(tasks)
        left = [task for task in mine if task.key not in finished]
        done = len(mine) - len(left)
        groups = [left[i : i + manner.together] for i in range(0, len(left), manner.together)]
        with closing(mapped(partial(_run, run, folder.stage), groups, manner.workers)) as every_outcome:
            for key, outcome in chain.from_iterable(every_outcome):
                if isinstance(outcome, str):
                    problems.append(outcome)
                    continue
                journal.add(key, outcome)
                done += 1
                if progress is not None:
                    progress(done, len(mine))
    raise_problems(sorted(problems), f"The import to {folder.out}")


def _run(run: Run[T], stage: Path, tasks: Sequence[T]) -> list[tuple[str, Mapping[str, Any] | str]]:
    return [(task.key, outcome) for task, outcome in zip(tasks, run(stage, tasks), strict=True)]


def _require_replaceable(out: Path, manner: Manner, reads: Sequence[Path]) -> None:
    """``--overwrite`` is for what such a job made, not for whatever a slip of the finger names, nor for its sources."""
    if not out.exists():
        return
    is_ours = any((out / name).is_file() for name in (DATA_YAML, DATASET_JSON))
    if not manner.overwrite:
        if is_ours:
            raise DatasetError(
                f"{out} is a data set already: name a new folder, or give --overwrite, and it gives way at the end."
            )
        return  # other folders in use are refused when it comes to making one
    if lost := [path for path in reads if path.resolve().is_relative_to(out.resolve())]:
        raise DatasetError(
            f"{lost[0]} lies in {out}, which --overwrite would take away, and it is read from: name another folder."
        )
    if not out.is_dir() or (any(out.iterdir()) and not is_ours):
        raise DatasetError(
            f"{out} is no data set (there is no {DATA_YAML} and no {DATASET_JSON}), so --overwrite leaves it alone: "
            "name another folder."
        )
