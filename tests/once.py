"""What every command makes anew and no test changes is made once in a process.

A composition of the shipped configurations reads twenty files and takes a fifth of a second; Hydra's own last step,
which puts the given values in their places, a fiftieth of that. The tree of commands takes a twentieth of a second.
"""

import functools
import io
import os
import pickle
from collections.abc import Sequence
from typing import Any

import typer.main
from omegaconf import OmegaConf

from mamoe.config import compose
from mamoe.config.shipped import SHIPPED

_GROUPS = {path.name for path in SHIPPED.iterdir() if path.is_dir()}

_load = OmegaConf.load
_composed = compose._composed
get_command = typer.main.get_command


def begin() -> None:
    """From now on: what a YAML file of the same text said before, the same options of the same groups, the command."""
    OmegaConf.load = staticmethod(_remembered)
    compose._composed = _composed_before
    typer.main.get_command = functools.cache(get_command)
    os.fsync = _not_awaited


def _not_awaited(file: Any) -> None:
    """For tests kill processes and cut no power: what one has written is there, whether or not it is on the disk."""


def _composed_before(overrides: Sequence[str], root: str, *, whole: bool) -> dict[str, Any]:
    if any(override.lstrip("+~").startswith("hydra") for override in overrides):  # the user's own folders, say
        return _composed(overrides, root, whole=whole)
    choices, values = [], []
    for override in overrides:
        key = override.partition("=")[0].lstrip("+~")
        (choices if key in _GROUPS or "@" in key or "/" in key else values).append(override)
    from hydra._internal.config_loader_impl import ConfigLoaderImpl
    from hydra.core.override_parser.overrides_parser import OverridesParser

    try:
        composition = pickle.loads(_composition(tuple(choices), root))
        settings = OverridesParser.create().parse_overrides(values)
    except Exception:  # said again by Hydra as a whole
        return _composed(overrides, root, whole=whole)
    if any(one.is_sweep_override() for one in settings):
        return _composed(overrides, root, whole=whole)
    ConfigLoaderImpl._apply_overrides_to_config(settings, composition)
    return dict(OmegaConf.to_container(composition, resolve=whole, throw_on_missing=whole))  # type: ignore[arg-type]


@functools.cache
def _composition(choices: tuple[str, ...], root: str) -> bytes:
    from hydra import compose as hydra_compose
    from hydra import initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra

    GlobalHydra.instance().clear()
    with initialize_config_dir(version_base="1.3", config_dir=str(SHIPPED)):
        return pickle.dumps(hydra_compose(root, overrides=list(choices)))


def _remembered(file: Any) -> Any:
    if not hasattr(file, "read"):
        return _load(file)
    try:
        return pickle.loads(_parsed(file.read()))
    except Exception:  # said again by the file's own name
        file.seek(0)
        return _load(file)


@functools.cache
def _parsed(text: str) -> bytes:
    return pickle.dumps(_load(io.StringIO(text)))  # unpickled in a seventh of the time of a deep copy
