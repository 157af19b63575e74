"""Reading text that somebody else wrote: files alone, for a pipe keeps whoever opens it waiting."""

from __future__ import annotations

import errno
import json
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from mamoe.storage.contents import found_instead

_STREAMS = ("/dev/fd/", "/dev/stdin", "/proc/self/fd/")  # what a shell hands over: somebody writes at the other end


def require_file(path: Path) -> None:
    """Refuse a pipe, a socket or a device that lies where a file should.

    Raises:
        OSError: it is one, or nothing is there.
    """
    mode = path.stat().st_mode
    if stat.S_ISREG(mode) or stat.S_ISDIR(mode) or str(path).startswith(_STREAMS):
        return  # a folder is refused by whoever opens it
    raise OSError(errno.EINVAL, "it is a pipe, a socket or a device, and no file", str(path))


def read_text(path: Path) -> str:
    """The text of a file, UTF-8 with or without a mark at its beginning.

    Raises:
        OSError: it cannot be read, or is no file.
        ValueError: it is not UTF-8.
    """
    require_file(path)
    return path.read_text(encoding="utf-8-sig")


def read_json(path: Path) -> Any:
    """What a JSON file says; of a key that stands twice in one object nobody knows which is meant.

    Raises:
        OSError: it cannot be read, or is no file.
        ValueError: it is no UTF-8, no JSON, has a key twice, or says NaN or Infinity, which JSON has no word for.
    """
    try:
        return json.loads(read_text(path), object_pairs_hook=_once, parse_constant=_refused)
    except RecursionError:
        raise ValueError("it is nested too deep") from None
    except ValueError as error:
        raise ValueError(found_instead(path) or str(error)) from None


def _once(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the key {twice!r} stands twice in one object")
    return made


def _refused(word: str) -> NoReturn:
    raise ValueError(f"{word} is no number that JSON knows")
