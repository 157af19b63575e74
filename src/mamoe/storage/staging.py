"""Folders and files that appear whole or not at all, whatever ends the writing: a full disk, Ctrl-C, a crash.

A folder is written beside its place under a hidden name, ``.<name>.partial-…``, and renamed when it is done. What a
killed process leaves of that is removed by the next one that writes to the same place.
"""

from __future__ import annotations

import errno
import logging
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

from mamoe.errors import ConfigError, MamoeError

try:
    import fcntl
except ImportError:  # not on Windows
    fcntl = None

log = logging.getLogger(__name__)

_FULL = (errno.ENOSPC, errno.EDQUOT)
_FULL_WORDS = ("no space left", "disk quota exceeded", "os error 28", "os error 122")
_MIB = 2**20


class DiskFullError(MamoeError):
    """No space is left where something is written."""

    exit_code = 6


def is_disk_full(error: BaseException) -> bool:
    """Whether an error says that a disk is full; libraries that write from Rust say so in words alone."""
    text = str(error).lower()
    return getattr(error, "errno", None) in _FULL or any(words in text for words in _FULL_WORDS)


def require_free(out: Path, refusal: type[MamoeError] = ConfigError) -> None:
    """Refuse a folder that would have to be overwritten, before any work is done for it.

    Raises:
        MamoeError: of the kind ``refusal``: ``out`` is a file or a folder that is not empty.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise refusal(f"{out} is not empty and would be overwritten; name a new folder or empty that one.")


@contextmanager
def staged_folder(out: Path, *, refusal: type[MamoeError] = ConfigError, merge: bool = False) -> Iterator[Path]:
    """A new folder beside ``out`` that becomes ``out`` when the block ends well and vanishes when it does not.

    Args:
        out: the folder to make.
        refusal: kind of the error where ``out`` cannot serve.
        merge: put the files into an ``out`` that holds others already, each in one move.

    Raises:
        MamoeError: of the kind ``refusal``: ``out`` is in use, or no folder can be made beside it.
        DiskFullError: the block ended because the disk is full; ``out`` is as it was.
    """
    out = out.resolve()
    if not merge:
        require_free(out, refusal)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        for leftover in leftovers_of(out):
            remove_leftover(leftover, out)
        stage = Path(tempfile.mkdtemp(prefix=_prefix(out), dir=out.parent))
    except OSError as error:
        if is_disk_full(error):
            raise DiskFullError(f"The disk of {out.parent} is full: free some space, then start again.") from error
        raise refusal(f"{out} cannot be made: {error.strerror}. Name a folder that can be made.") from None
    try:
        with locked_folder(stage):
            yield stage
            _put(stage, out, merge)
    except BaseException as error:
        written = sum(path.stat().st_size for path in stage.rglob("*") if path.is_file())
        shutil.rmtree(stage, ignore_errors=True)
        if isinstance(error, Exception) and is_disk_full(error):
            free = shutil.disk_usage(out.parent).free
            raise DiskFullError(
                f"The disk of {out} was full after {written / _MIB:.1f} MiB of it. Nothing of it was kept, and "
                f"{free / _MIB:.1f} MiB are free there: free more, or name a folder on another disk, then start again."
            ) from error
        raise


@contextmanager
def replaced_file(path: Path) -> Iterator[Path]:
    """A place to write a file that then takes the place of ``path`` in one move; any number of writers may do so."""
    partial = path.with_name(f".{path.name}.{uuid4().hex}.partial")
    try:
        yield partial
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def write_whole(text: str, path: Path) -> None:
    """Write a text file, whole or not at all."""
    with replaced_file(path) as partial:
        partial.write_text(text, encoding="utf-8")


def _prefix(out: Path) -> str:
    return f".{out.name}.partial-"


def _put(stage: Path, out: Path, merge: bool) -> None:
    stage.chmod(0o755)  # mkdtemp gives the owner alone access
    if not (merge and out.is_dir() and any(out.iterdir())):
        stage.replace(out)
        return
    for path in sorted(path for path in stage.rglob("*") if path.is_file()):
        target = out / path.relative_to(stage)
        target.parent.mkdir(parents=True, exist_ok=True)
        path.replace(target)
    shutil.rmtree(stage)


@contextmanager
def locked(handle: int, *, shared: bool = False, wait: bool = False) -> Iterator[bool]:
    """Show others that somebody is at work on an open file or folder; the system lets go however this process ends.

    Args:
        handle: of the file or folder.
        shared: others may be at work too.
        wait: until others have let go.

    Yields:
        False: somebody else is at work there alone. True also where the file system has no locks.
    """
    if fcntl is None:
        yield True
        return
    try:
        fcntl.flock(handle, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        yield False
        return
    except OSError:  # a file system without locks
        yield True
        return
    try:
        yield True
    finally:
        fcntl.flock(handle, fcntl.LOCK_UN)


@contextmanager
def locked_folder(folder: Path, *, shared: bool = False) -> Iterator[bool]:
    """:func:`locked` for a folder."""
    if fcntl is None:  # Windows opens no folders
        yield True
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        with locked(handle, shared=shared) as free:
            yield free
    finally:
        os.close(handle)


def leftovers_of(out: Path) -> list[Path]:
    """Folders that were to become ``out``, of whatever process."""
    return [path for path in out.parent.iterdir() if path.name.startswith(_prefix(out)) and path.is_dir()]


def remove_leftover(leftover: Path, out: Path) -> None:
    """Remove what an earlier attempt at ``out`` left behind, unless somebody is at work there."""
    if in_use(leftover):
        log.warning("%s: another process seems to be writing %s; it is left alone.", leftover, out)
    else:
        log.warning("Removing %s, which an earlier attempt at %s left when it was killed.", leftover, out)
        shutil.rmtree(leftover, ignore_errors=True)


def in_use(folder: Path) -> bool:
    """Whether somebody is at work in a folder."""
    if fcntl is None:
        return True  # nobody can tell
    with locked_folder(folder) as free:
        return not free
