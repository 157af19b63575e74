"""Folders that grow over several sessions and in several processes, and appear under their name when all is there.

The work lies in ``.<name>.partial-<key>`` beside the place of the folder. A killed process leaves it as it is, and the
same work (the same key) goes on there. One more file of it, a journal a process, says what is finished.
"""

from __future__ import annotations

import ctypes
import json
import logging
import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mamoe.errors import ConfigError, MamoeError
from mamoe.storage.staging import (
    DiskFullError,
    in_use,
    is_disk_full,
    leftovers_of,
    locked,
    locked_folder,
    remove_leftover,
    require_free,
)

log = logging.getLogger(__name__)

_JOURNALS = ".journal"  # hidden, so that no reader of the finished folder would look at it
_HERE, _SWAP = -100, 2  # AT_FDCWD and RENAME_EXCHANGE of Linux; RENAME_SWAP of macOS is 2 as well


@dataclass(frozen=True, kw_only=True, slots=True)
class GrowingFolder:
    """The folder while it grows."""

    stage: Path  # where files are put
    out: Path  # what it becomes
    replace: bool  # what is at ``out`` gives way

    def finished(self) -> dict[str, dict[str, Any]]:
        """What all journals say, by key; a line that a kill cut off says nothing."""
        found: dict[str, dict[str, Any]] = {}
        for path in sorted((self.stage / _JOURNALS).glob("*.jsonl")):
            for line in path.read_text(encoding="utf-8").splitlines():
                with suppress(ValueError, KeyError, TypeError):
                    entry = json.loads(line)
                    found[entry["key"]] = entry["what"]
        return found

    @contextmanager
    def journal(self, part: str, refusal: type[MamoeError] = ConfigError) -> Iterator[Journal]:
        """The journal of one process.

        Raises:
            MamoeError: of the kind ``refusal``: another process is writing the journal of that name.
        """
        path = self.stage / _JOURNALS / f"{part}.jsonl"
        path.parent.mkdir(exist_ok=True)
        with path.open("ab") as file, locked(file.fileno()) as free:
            if not free:
                raise refusal(f"Another process is at work on {self.out}; let it end, or stop it.")
            if file.tell() and not path.read_bytes().endswith(b"\n"):
                file.write(b"\n")
            yield Journal(file)

    @contextmanager
    def finishing(self) -> Iterator[bool]:
        """Alone in the folder to finish it; False: another process has finished it meanwhile."""
        path = self.stage / _JOURNALS / "finishing"
        try:
            file = path.open("ab")
        except FileNotFoundError:
            yield False
            return
        with file, locked(file.fileno(), wait=True):
            yield path.exists()

    def put(self) -> None:
        """Give the folder its name, in one move where the system can."""
        if self.replace and self.out.is_dir() and any(self.out.iterdir()):
            _exchange(self.stage, self.out)
            shutil.rmtree(self.stage, ignore_errors=True)
        else:
            self.stage.replace(self.out)
        shutil.rmtree(self.out / _JOURNALS, ignore_errors=True)


class Journal:
    """What is finished, a line each, written before anything else begins."""

    def __init__(self, file: Any) -> None:
        self._file = file

    def add(self, key: str, what: Any) -> None:
        """Note that ``key`` is finished; ``what`` is anything JSON can hold."""
        self._file.write(json.dumps({"key": key, "what": what}, ensure_ascii=False).encode("utf-8") + b"\n")
        self._file.flush()


@contextmanager
def growing_folder(
    out: Path, key: str, *, replace: bool = False, alone: bool = True, refusal: type[MamoeError] = ConfigError
) -> Iterator[GrowingFolder]:
    """The folder that is to become ``out``, with what earlier sessions of the same work put there.

    When the block ends well and nobody called ``put``, the work stays for the other processes. When it is told to stop
    or killed, it stays for the next session. When it fails, nothing of it stays, unless others are at work on it too.

    Args:
        out: the folder to make.
        key: fit for a file name; the same for the same work alone.
        replace: an ``out`` that is in use gives way at the end; until then it is as it was.
        alone: no other process does a part of the work.
        refusal: kind of the error where ``out`` cannot serve.

    Raises:
        MamoeError: of the kind ``refusal``: ``out`` is in use, or no folder can be made beside it.
        DiskFullError: the disk is full; ``out`` is as it was.
    """
    out = out.resolve()
    if not replace:
        require_free(out, refusal)
    stage = out.parent / f".{out.name}.partial-{key}"
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        for leftover in leftovers_of(out):
            if leftover != stage:
                remove_leftover(leftover, out)
        (stage / _JOURNALS).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        if is_disk_full(error):
            raise DiskFullError(f"The disk of {out.parent} is full: free some space, then start again.") from error
        raise refusal(f"{out} cannot be made: {error.strerror}. Name a folder that can be made.") from None
    try:
        with locked_folder(stage, shared=True):
            yield GrowingFolder(stage=stage, out=out, replace=replace)
    except Exception as error:
        if alone and not in_use(stage):
            shutil.rmtree(stage, ignore_errors=True)
        if is_disk_full(error):
            free = shutil.disk_usage(out.parent).free / 2**20
            raise DiskFullError(
                f"The disk of {out} was full. {'Nothing of it was kept' if alone else f'{stage} is kept'}, and "
                f"{free:.1f} MiB are free there: free more, or name a folder on another disk, then start again."
            ) from error
        raise


def _exchange(new: Path, old: Path) -> None:
    """Let two folders swap names: in one step on Linux and macOS, so that a kill never leaves neither."""
    library = ctypes.CDLL(None, use_errno=True) if sys.platform != "win32" else None
    names = os.fsencode(new), os.fsencode(old)
    if hasattr(library, "renameat2") and not library.renameat2(_HERE, names[0], _HERE, names[1], _SWAP):
        return
    if hasattr(library, "renamex_np") and not library.renamex_np(*names, _SWAP):
        return
    aside = old.with_name(f".{old.name}.replaced")  # a file system without it: two steps
    log.warning("%s is moved aside as %s for a moment.", old, aside)
    old.rename(aside)
    new.rename(old)
    aside.rename(new)
