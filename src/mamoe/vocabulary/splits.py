"""What may be the name of a split, which becomes part of paths; and whether files of splits are there."""

from __future__ import annotations

import glob
import os
from pathlib import Path

from mamoe.errors import ConfigError


def split_name(text: str) -> str:
    """The name as it is, of one folder such as ``train``.

    Raises:
        ConfigError: it is empty, or leads to another place than a folder of that name.
    """
    if not text.strip() or text in (".", "..") or not {"/", "\\", "\0"}.isdisjoint(text):
        raise ConfigError(f"A split is the name of one folder, such as train or test, and no path; got {text!r}.")
    return text


def exists(path: Path) -> bool:
    """Whether a file or folder is there; of a path with ``{split}`` the file of any split."""
    if "{split}" not in str(path):
        return os.path.exists(path)
    return bool(glob.glob(glob.escape(str(path)).replace("{split}", "*")))
