"""The folder of a run and what is known before its first step."""

from __future__ import annotations

import json
import logging
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

from mamoe.config import comparable
from mamoe.errors import ConfigError

CONFIG, STARTED = "config.yaml", "config-started.yaml"  # as it is, and as it was before it was told anything else
OVERRIDES = "overrides.txt"
SESSIONS = "sessions.jsonl"
PACKAGES = ("mamoe", "torch", "torchvision", "lightning", "diffusers", "transformers", "safetensors", "numpy")

log = logging.getLogger(__name__)

_STAMP = "%Y-%m-%d_%H-%M-%S"

try:
    import fcntl
except ImportError:  # not on Windows
    fcntl = None


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


def newest_like(runs: str | Path, name: str, config: Mapping[str, Any]) -> Path | None:
    """The newest run that has the same configuration, or was started with it; whatever it was resumed from."""
    for folder in sorted((path for path in (Path(runs) / name).glob("*-*") if not path.is_symlink()), reverse=True):
        if any(same_config(read_config(folder, file), config) for file in (CONFIG, STARTED)):
            return folder
    return None


def read_config(run: Path, file: str = CONFIG) -> dict[str, Any] | None:
    """The configuration a run was last told; None where it ended before it wrote one."""
    try:
        read = yaml.safe_load((run / file).read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError):
        return None
    return read if isinstance(read, dict) else None


def same_config(one: Mapping[str, Any] | None, other: Mapping[str, Any]) -> bool:
    """Whether two configurations are the same, whatever they resume."""
    if one is None:
        return False
    a, b = ({**config, "resume": None} for config in comparable(one, other))
    return a == b


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
        if (folder / OVERRIDES).is_file():
            return folder.resolve()
    raise ConfigError(
        f"resume={path}: there is no run there. Give the folder of a run (it holds config.yaml and checkpoints/), "
        f"for example {Path('runs') / '<name>' / 'latest'}."
    )


def write_start(
    folder: Path, *, config: Mapping[str, Any], overrides: Sequence[str], dataset: Mapping[str, Any]
) -> None:
    """config.yaml, overrides.txt, environment.json, dataset.json and the first line of sessions.jsonl.

    Of a run that wrote them in an earlier session only what it is told anew changes, see :func:`write_told`.
    """
    if (folder / CONFIG).exists():
        write_told(folder, step=0, config=config, overrides=overrides)
        return
    _write(folder / OVERRIDES, "".join(f"{line}\n" for line in overrides))
    for name, content in (("environment.json", environment()), ("dataset.json", dataset)):
        _write(folder / name, json.dumps(content, indent=2) + "\n")
    _add_session(folder, step=0, told=overrides)
    _write(folder / CONFIG, _yaml(config))  # last: what has it has the others


def write_told(folder: Path, *, step: int, config: Mapping[str, Any], overrides: Sequence[str]) -> None:
    """What a run that goes on from ``step`` was told now: config.yaml and overrides.txt are those to go on with.

    config-started.yaml keeps what it began with, sessions.jsonl what each session was told anew.
    """
    before = read_overrides(folder)
    if not (folder / SESSIONS).exists():  # of an older version
        _add_session(folder, step=0, told=before)
    _add_session(folder, step=step, told=[line for line in overrides if line not in before])
    if not same_config(read_config(folder), config):
        if (folder / CONFIG).exists() and not (folder / STARTED).exists():
            _write(folder / STARTED, (folder / CONFIG).read_text(encoding="utf-8"))
        _write(folder / CONFIG, _yaml(config))
    _write(folder / OVERRIDES, "".join(f"{line}\n" for line in overrides))


def read_overrides(folder: Path) -> list[str]:
    """The overrides a run was last told, those it was started with among them."""
    return (folder / OVERRIDES).read_text(encoding="utf-8").splitlines()


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


def _yaml(config: Mapping[str, Any]) -> str:
    return yaml.safe_dump(dict(config), sort_keys=False)


def _add_session(folder: Path, *, step: int, told: Sequence[str]) -> None:
    line = {"at": f"{datetime.now():%Y-%m-%d %H:%M:%S}", "from_step": step, "told": list(told)}
    with (folder / SESSIONS).open("a", encoding="utf-8") as file:
        file.write(json.dumps(line, ensure_ascii=False) + "\n")


def _write(path: Path, text: str) -> None:
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(text, encoding="utf-8")
    partial.replace(path)


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
