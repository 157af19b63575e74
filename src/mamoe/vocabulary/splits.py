"""What may be the name of a split: it becomes part of paths that are read and written."""

from __future__ import annotations

from mamoe.errors import ConfigError


def split_name(text: str) -> str:
    """The name as it is, of one folder such as ``train``.

    Raises:
        ConfigError: it is empty, or leads to another place than a folder of that name.
    """
    if not text.strip() or text in (".", "..") or not {"/", "\\", "\0"}.isdisjoint(text):
        raise ConfigError(f"A split is the name of one folder, such as train or test, and no path; got {text!r}.")
    return text
