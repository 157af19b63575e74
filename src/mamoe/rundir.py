"""The folder of a run and what is known before its first step."""

from __future__ import annotations

import json
import os
import platform
import secrets
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import yaml

from mamoe.errors import ConfigError

PACKAGES = ("mamoe", "torch", "torchvision", "lightning", "diffusers", "transformers", "safetensors", "numpy")

try:
    import fcntl
except ImportError:  # not on Windows
    fcntl = None


def new_run_dir(runs: str | Path, name: str) -> Path:
    """``<runs>/<name>/<date-time>-<id>``, made; ``<runs>/<name>/latest`` points to it."""
    stamp = f"{datetime.now():%Y-%m-%d_%H-%M-%S}-{secrets.token_hex(2)}"
    folder = Path(runs) / name / stamp
    folder.mkdir(parents=True)
    latest, temporary = folder.parent / "latest", folder.parent / f".latest-{stamp}"
    temporary.symlink_to(stamp)
    temporary.replace(latest)
    return folder


def newest_like(runs: str | Path, name: str, config: Mapping[str, Any]) -> Path | None:
    """The newest run that was started with the same configuration, whatever it was resumed from."""
    wanted = _given({**config, "resume": None})
    for folder in sorted((path for path in (Path(runs) / name).glob("*-*") if not path.is_symlink()), reverse=True):
        try:
            theirs = yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8"))
        except (OSError, yaml.YAMLError):  # ended before it wrote one
            continue
        if isinstance(theirs, dict) and _given({**theirs, "resume": None}) == wanted:
            return folder
    return None


def _given(config: Any) -> Any:
    """A configuration without what is null, as a key is that an older version did not have yet."""
    if not isinstance(config, Mapping):
        return config
    return {key: _given(value) for key, value in config.items() if value is not None}


@contextmanager
def held(folder: Path) -> Iterator[None]:
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


def run_of(path: str | Path) -> Path:
    """The run folder that ``path`` is or lies in.

    Raises:
        ConfigError: there is no run there.
    """
    given = Path(path)
    for folder in (given, given.parent, given.parent.parent):
        if (folder / "overrides.txt").is_file():
            return folder.resolve()
    raise ConfigError(
        f"resume={path}: there is no run there. Give the folder of a run (it holds config.yaml and checkpoints/), "
        f"for example {Path('runs') / '<name>' / 'latest'}."
    )


def write_start(
    folder: Path, *, config: Mapping[str, Any], overrides: Sequence[str], dataset: Mapping[str, Any]
) -> None:
    """config.yaml, overrides.txt, environment.json and dataset.json; a resumed run keeps those it has."""
    if (folder / "config.yaml").exists():
        return
    (folder / "overrides.txt").write_text("".join(f"{line}\n" for line in overrides), encoding="utf-8")
    for name, content in (("environment.json", environment()), ("dataset.json", dataset)):
        (folder / name).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    partial = folder / ".config.yaml.partial"  # last and in one move: what has it has the others
    partial.write_text(yaml.safe_dump(dict(config), sort_keys=False), encoding="utf-8")
    partial.replace(folder / "config.yaml")


def read_overrides(folder: Path) -> list[str]:
    """The overrides a run was started with."""
    return (folder / "overrides.txt").read_text(encoding="utf-8").splitlines()


def environment() -> dict[str, Any]:
    """Versions and machine, for the record."""
    return {
        "python": sys.version.split()[0],
        "platform": platform.platform(),
        "cpus": os.cpu_count(),
        "packages": {name: metadata.version(name) for name in PACKAGES},
    }
