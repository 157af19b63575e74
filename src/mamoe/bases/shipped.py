"""Base models that ship with the package, addressed as ``package:<name>``."""

from __future__ import annotations

from pathlib import Path

from mamoe.errors import ConfigError

PREFIX = "package:"
FOLDER = Path(__file__).parents[1] / "pretrained"
LENDER = "tiny"  # whose autoencoder and text encoder the others share


def resolved(path: str) -> str:
    """The folder that ``package:<name>`` means; any other path as it is.

    Raises:
        ConfigError: no such model ships with the package.
    """
    if not path.startswith(PREFIX):
        return path
    folder = FOLDER / path.removeprefix(PREFIX)
    if folder.parent != FOLDER or not folder.is_dir():
        raise ConfigError(f"No base model {path!r} ships with the package; there is {', '.join(shipped())}.")
    return str(folder)


def shipped() -> list[str]:
    """The models there are, as ``package:<name>``."""
    return sorted(PREFIX + index.parent.name for index in FOLDER.glob("*/model_index.json"))


def holder_of(path: str, part: str) -> str:
    """The folder whose subfolder ``part`` belongs to the model at ``path``: another one only for parts that are shared.

    A part that two shipped models have in common is stored once.
    """
    folder = Path(path)
    lent = folder.parent == FOLDER and not (folder / part).is_dir() and (FOLDER / LENDER / part).is_dir()
    return str(FOLDER / LENDER) if lent else path
