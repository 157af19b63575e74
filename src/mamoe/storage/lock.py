"""One process alone works in a folder or on a file."""

from __future__ import annotations

import os
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from mamoe.errors import ConfigError

try:
    import fcntl
except ImportError:  # not on Windows
    fcntl = None


@contextmanager
def held(path: Path) -> Generator[None, None, None]:
    """Keep other processes out of a folder, or off a file; the system lets go of it however this one ends.

    Raises:
        ConfigError: another process is at work there.
    """
    if fcntl is None:
        yield
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ConfigError(f"Another process is at work in {path}: wait for it, or name another folder.") from None
        except OSError:  # a file system without locks
            pass
        yield
    finally:
        os.close(handle)


@contextmanager
def in_turn(folder: Path) -> Generator[None, None, None]:
    """Wait until no other process is inside such a block for the same folder."""
    if fcntl is None:
        yield
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
        except OSError:  # a file system without locks
            pass
        yield
    finally:
        os.close(handle)
