"""What a run was told, in its folder: written at its start and whenever it goes on, and compared."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import yaml

from mamoe.config.train import Train, comparable, recorded
from mamoe.errors import ConfigError
from mamoe.runs.folder import CONFIG, OVERRIDES, SESSIONS, STARTED, UNREADABLE, environment, read_config, read_overrides
from mamoe.runs.home import Home, relocated
from mamoe.storage.staging import write_whole

log = logging.getLogger(__name__)


def newest_like(runs: str | Path, name: str, config: Mapping[str, Any]) -> Path | None:
    """The newest run that has the same configuration, or was started with it; whatever it was resumed from."""
    for folder in sorted((path for path in (Path(runs) / name).glob("*-*") if not path.is_symlink()), reverse=True):
        if any(same_config(read_config(folder, file), config) for file in (CONFIG, STARTED)):
            return folder
    return None


def config_of(checkpoint: Path) -> tuple[Path, Train]:
    """The run folder of a checkpoint, and what the run was told, with its paths where they are now.

    Raises:
        ConfigError: what it was told cannot be read.
    """
    home = checkpoint.parent.parent
    path = home / CONFIG
    try:
        plain = yaml.safe_load(path.read_text(encoding="utf-8"))
        if not isinstance(plain, dict):
            raise ValueError("it holds no settings")
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise ConfigError(
            f"{path} says which data the run was trained on, and cannot be read: {error}. Sample the layouts with "
            "`mamoe sample` and evaluate the folder."
        ) from None
    return home, recorded(relocated(plain, Home.of(home)))


def same_config(one: Mapping[str, Any] | None, other: Mapping[str, Any]) -> bool:
    """Whether two configurations are the same, whatever they resume."""
    if one is None:
        return False
    a, b = ({**config, "resume": None} for config in comparable(one, other))
    return a == b


def write_start(
    folder: Path, *, config: Mapping[str, Any], overrides: Sequence[str], dataset: Mapping[str, Any]
) -> None:
    """config.yaml, overrides.txt, environment.json, dataset.json and the first line of sessions.jsonl.

    Of a run that wrote them in an earlier session only what it is told anew changes, see :func:`write_told`.
    """
    if (folder / CONFIG).exists():
        write_told(folder, step=0, config=config, overrides=overrides)
        return
    write_whole("".join(f"{line}\n" for line in overrides), folder / OVERRIDES)
    for name, content in (("environment.json", environment()), ("dataset.json", dataset)):
        write_whole(json.dumps(content, indent=2) + "\n", folder / name)
    _add_session(folder, step=0, told=overrides)
    write_whole(_yaml(config), folder / CONFIG)  # last: what has it has the others


def write_told(folder: Path, *, step: int, config: Mapping[str, Any], overrides: Sequence[str]) -> None:
    """What a run that goes on from ``step`` was told now: config.yaml and overrides.txt are those to go on with.

    config-started.yaml keeps what it began with, sessions.jsonl what each session was told anew.
    """
    before = read_overrides(folder)
    if not (folder / SESSIONS).exists():  # of an older version
        _add_session(folder, step=0, told=before)
    _add_session(folder, step=step, told=[line for line in overrides if line not in before])
    was = read_config(folder)
    if was is None and (folder / CONFIG).exists():
        (folder / CONFIG).replace(folder / UNREADABLE)
        log.warning("%s could not be read: it is %s now, and written anew.", folder / CONFIG, UNREADABLE)
    if not same_config(was, config):
        if (folder / CONFIG).exists() and not (folder / STARTED).exists():
            write_whole((folder / CONFIG).read_text(encoding="utf-8"), folder / STARTED)
        write_whole(_yaml(config), folder / CONFIG)
    write_whole("".join(f"{line}\n" for line in overrides), folder / OVERRIDES)


def _yaml(config: Mapping[str, Any]) -> str:
    return yaml.safe_dump(dict(config), sort_keys=False)


def _add_session(folder: Path, *, step: int, told: Sequence[str]) -> None:
    line = {"at": f"{datetime.now():%Y-%m-%d %H:%M:%S}", "from_step": step, "told": list(told)}
    with (folder / SESSIONS).open("a", encoding="utf-8") as file:
        file.write(json.dumps(line, ensure_ascii=False) + "\n")
