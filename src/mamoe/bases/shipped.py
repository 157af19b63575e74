"""Base models that ship with the package, addressed as ``package:<name>``."""

from __future__ import annotations

from pathlib import Path

from mamoe.errors import ConfigError

PREFIX = "package:"
FOLDER = Path(__file__).parents[1] / "pretrained"


def resolved(path: str) -> str:
    """The folder that ``package:<name>`` means; any other path as it is.

    Raises:
        ConfigError: no such model ships with the package.
    """
    if not path.startswith(PREFIX):
        return path
    folder = FOLDER / path.removeprefix(PREFIX)
    if folder.parent != FOLDER or not folder.is_dir():
        raise ConfigError(f"No base model {path!r} ships with the package; there is {PREFIX}tiny.")
    return str(folder)
