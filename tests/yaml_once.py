"""Configurations are read once in a process: each YAML file, and each composition of the shipped ones.

A composition reads twenty files and takes a fifth of a second; an option named beside an experiment takes four of them.
Tests say the same again and again, but for the folder they work in: what a setting has for a path is left open, and put
in its place afterwards.
"""

import functools
import io
import pickle
import re
from collections.abc import Mapping, Sequence
from typing import Any

from omegaconf import OmegaConf

from mamoe.config import compose

# No group's option, and nothing in the path that Hydra reads as more than text.
_SETS_A_PATH = re.compile(r"(\+{0,2}(?:\w+\.[\w.]+|runs|out)=)(/[\w./-]*[\w/-])")
_A_PATH = re.compile(r"A_PATH_\d+_")

_load = OmegaConf.load
_composed = compose._composed


def parse_once() -> None:
    """From now on Hydra gets a copy of what a file with the same text said before."""
    OmegaConf.load = staticmethod(_remembered)


def compose_once() -> None:
    """From now on the same overrides give a copy of what they gave before, whatever paths they have as values."""
    compose._composed = _composed_before


def _composed_before(overrides: Sequence[str], root: str, *, whole: bool) -> dict[str, Any]:
    paths: dict[str, str] = {}
    open_ones = tuple(_with_open_path(override, paths) for override in overrides)
    if any("/" in override for override in open_ones):  # the user's own folder of configurations, say
        return _composed(overrides, root, whole=whole)
    try:
        composition = pickle.loads(_composition(open_ones, root, whole))
    except Exception:  # said again with the paths in it
        return _composed(overrides, root, whole=whole)
    return _filled_in(composition, paths) if paths else composition


def _with_open_path(override: str, paths: dict[str, str]) -> str:
    """``key=A_PATH_0`` for ``key=/a/path``, which goes into ``paths``; other settings as they are."""
    found = _SETS_A_PATH.fullmatch(override)
    if found is None:
        return override
    name = f"A_PATH_{len(paths)}_"
    paths[name] = found[2]
    return found[1] + name


def _filled_in(value: Any, paths: Mapping[str, str]) -> Any:
    if isinstance(value, dict):
        return {key: _filled_in(one, paths) for key, one in value.items()}
    if isinstance(value, list):
        return [_filled_in(one, paths) for one in value]
    return _A_PATH.sub(lambda found: paths[found[0]], value) if isinstance(value, str) else value


@functools.cache
def _composition(overrides: tuple[str, ...], root: str, whole: bool) -> bytes:
    return pickle.dumps(_composed(overrides, root, whole=whole))


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
