"""The folder of a run and what is known before its first step."""

from __future__ import annotations

import logging
import os
import platform
import secrets
import sys
from collections.abc import Sequence
from datetime import datetime
from importlib import metadata
from pathlib import Path
from typing import Any, cast

import yaml

from mamoe.errors import ConfigError

CONFIG, STARTED = "config.yaml", "config-started.yaml"  # as it is, and as it was before it was told anything else
UNREADABLE = "config-unreadable.yaml"  # what something else left in its place


OVERRIDES = "overrides.txt"


SESSIONS = "sessions.jsonl"


PACKAGES = ("mamoe", "torch", "torchvision", "lightning", "diffusers", "transformers", "safetensors", "numpy")


log = logging.getLogger(__name__)


_STAMP = "%Y-%m-%d_%H-%M-%S"


def new_run_dir(runs: str | Path, name: str) -> Path:
    """``<runs>/<name>/<date-time>-<id>``, made; ``<runs>/<name>/latest`` points to it."""
    stamp = f"{datetime.now():{_STAMP}}-{secrets.token_hex(2)}"
    folder = Path(runs) / name / stamp
    folder.mkdir(parents=True)
    latest, temporary = folder.parent / "latest", folder.parent / f".latest-{stamp}"
    if latest.is_dir() and not latest.is_symlink():  # copied with links followed: a run of its own by now
        kept = latest.with_name(f"{datetime.fromtimestamp(latest.stat().st_mtime):{_STAMP}}-{secrets.token_hex(2)}")
        latest.rename(kept)
        log.warning("%s was a folder, not a link to the newest run; it is kept as %s.", latest, kept.name)
    temporary.symlink_to(stamp)
    temporary.replace(latest)
    return folder


def read_config(run: Path, file: str = CONFIG) -> dict[str, Any] | None:
    """The configuration a run was last told; None where it ended before it wrote one."""
    try:
        read: Any = yaml.safe_load((run / file).read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError):  # ValueError: it is no text
        return None
    return cast(dict[str, Any], read) if isinstance(read, dict) else None


def run_of(path: str | Path) -> Path:
    """The run folder that ``path`` is or lies in.

    Raises:
        ConfigError: there is no run there.
    """
    given = Path(path)
    for folder in (given, given.parent, given.parent.parent):
        if (folder / OVERRIDES).is_file():
            return folder.resolve()
    raise ConfigError(
        f"resume={path}: there is no run there. Give the folder of a run (it holds config.yaml and checkpoints/), "
        f"for example {Path('runs') / '<name>' / 'latest'}."
    )


def read_overrides(folder: Path) -> list[str]:
    """The overrides a run was last told, those it was started with among them.

    Raises:
        ConfigError: the file is no text.
    """
    path = folder / OVERRIDES
    try:
        return path.read_text(encoding="utf-8-sig").splitlines()  # an editor may have marked its beginning
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"Cannot read {path}, which says what the run was told: {error}. Restore it, or write one setting a line "
            "as on the command line; config.yaml beside it has them all."
        ) from None


def merged(before: Sequence[str], given: Sequence[str]) -> list[str]:
    """The overrides of both, ``given`` above ``before``; a key that both set is there once.

    What was added with ``+`` stays an addition when it is given again without.
    """
    kept = {_key(override): override for override in before}
    for override in given:
        earlier = kept.pop(_key(override), "")
        plus = earlier[: len(earlier) - len(earlier.lstrip("+"))]
        kept[_key(override)] = override if override.startswith(("+", "~")) else plus + override
    return list(kept.values())


def _key(override: str) -> str:
    name = override.partition("=")[0]
    return name if name.startswith("~") else name.lstrip("+")


def environment() -> dict[str, Any]:
    """Versions and machine, for the record."""
    return {
        "python": sys.version.split()[0],
        "platform": platform.platform(),
        "cpus": os.cpu_count(),
        "packages": {name: _version(name) for name in PACKAGES},
    }


def _version(package: str) -> str:
    """What is installed; a package that runs from a source folder may say its version itself."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        found = getattr(sys.modules.get(package), "__version__", None)
        return f"{found} (source folder)" if found else "unknown (not installed as a package)"
