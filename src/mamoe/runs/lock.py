"""One process alone works in a folder."""

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
def held(folder: Path) -> Generator[None, None, None]:
    """Keep other processes out of a run's or a benchmark's folder; the system lets go of it however this one ends.

    Raises:
        ConfigError: another process is at work there.
    """
    if fcntl is None:
        yield
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ConfigError(f"Another process is at work in {folder}: wait for it, or name another folder.") from None
        except OSError:  # a file system without locks
            pass
        yield
    finally:
        os.close(handle)
