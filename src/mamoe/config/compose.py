"""Hydra composition of the shipped configuration groups and the user's own."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from mamoe.config.described import described
from mamoe.config.shipped import SHIPPED as SHIPPED
from mamoe.console import note
from mamoe.errors import ConfigError, nearest
from mamoe.runs.home import Home, relocated
from mamoe.runs.lookup import find_checkpoint, is_run

ROOT = "train"
_OPENING = ("[", "{", "'", '"')
_OF_BASE = ("path", "revision", "variant", "config", "tokenizer")  # of the section model
_STARTS = ("model.init_from", "model.path")
_CHOOSABLE = ("callbacks", "data", "logger", "loss", "lr_scheduler", "model", "optimizer", "trainer")


def setting(key: str, value: str | Path) -> str:
    """``key=value`` for Hydra, whatever characters the value has."""
    return f"{key}={_quoted(str(value))}"


def _quoted(text: str) -> str:
    return "'" + re.sub(r"(\\+)(?='|$)", r"\1\1", text).replace("'", "\\'") + "'"


def readable(overrides: Sequence[str]) -> list[str]:
    """The overrides in Hydra's grammar. It has no place for umlauts, parentheses, ``~`` and more, which paths do have:
    such a value is taken as it stands, and ``~/`` is the home folder. ``taxonomy=PATH.yaml`` is a file, no option of a
    group.

    Raises:
        ConfigError: names every override that says no key, or begins a list, a mapping or a quotation without its end.
    """
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    parser, plain, problems = OverridesParser.create(), [], []
    for override in map(with_file, overrides):
        key, equals, value = override.partition("=")
        if equals and not value and not key.startswith("~"):
            problems.append(f"{override!r}: nothing follows; was a shell's variable empty? None is {key}=null")
            continue
        try:
            parser.parse_override(override)
            plain.append(override)
        except HydraException:
            if not equals:
                problems.append(f"{override!r}: settings are written key=value")
            elif value[:1] in _OPENING or not re.fullmatch(r"\+{0,2}[\w@/.-]+", key):
                problems.append(f"{override!r}: close what is opened; on a shell put the whole setting in quotes")
            else:
                plain.append(setting(key, Path(value).expanduser() if value.startswith("~/") else value))
    if problems:
        raise ConfigError("Cannot read " + "; ".join(problems) + ".")
    said = {override.partition("=")[0].lstrip("+"): override for override in plain if not override.endswith("=null")}
    if {"taxonomy", "data.taxonomy"} <= said.keys():
        raise ConfigError(
            f"{said['taxonomy']} and {said['data.taxonomy']} both say which classes the data have; give one of the two."
        )
    return plain


def with_file(override: str) -> str:
    """``taxonomy=PATH.yaml`` as the setting it is, any other override as it stands."""
    return re.sub(r"(?i:^taxonomy=(?=.*\.ya?ml['\"]?$))", "++data.taxonomy=", override)


def search_path(config_dirs: Sequence[str | Path] = ()) -> list[str]:
    """Folders of the user's own YAML: ``configs/`` in the working directory and those given by ``--config-dir``.

    Raises:
        ConfigError: a folder that was named does not exist.
    """
    missing = [str(folder) for folder in config_dirs if not Path(folder).is_dir()]
    if missing:
        raise ConfigError(f"--config-dir: there is no folder {', '.join(missing)}.")
    own = [Path("configs")] if Path("configs").is_dir() else []
    return [str(Path(folder).resolve()) for folder in [*own, *config_dirs]]


def search_path_override(config_dirs: Sequence[str | Path] = ()) -> list[str]:
    """The Hydra override that adds the user's folders."""
    return _added(search_path(config_dirs))


def _added(folders: Sequence[str]) -> list[str]:
    return [f"hydra.searchpath=[{','.join(_quoted(f'file://{folder}') for folder in folders)}]"] if folders else []


def compose(
    overrides: Sequence[str],
    config_dirs: Sequence[str | Path] = (),
    root: str = ROOT,
    say: Callable[[str], None] = note,
    home: Home | None = None,
) -> dict[str, Any]:
    """The configuration that ``overrides`` ask for, interpolations resolved, not yet validated; ``root`` is composed.

    A training's has what the data set's own ``data.yaml`` says; see :func:`described`, which calls ``say``. Of a run
    that goes on, ``home`` finds what moved with it.

    Raises:
        ConfigError: an unknown group, option or key, bad syntax, or a value that must be given and is not.
        DatasetError: the ``data.yaml`` of a training's data set is wrong.
    """
    folders = search_path(config_dirs)
    if options := [override for override in overrides if override.startswith("-")]:
        raise ConfigError(f"There is no option {', '.join(options)}. Settings are written key=value; see --help.")
    overrides = readable(overrides)
    try:
        composed = _with_own_base(_with_choices(_added(folders), overrides, root), overrides)
    except Exception as error:  # for odd overrides Hydra lets errors of every kind through
        raise refusal(error, overrides, config_dirs, root) from None
    if root != ROOT:
        return composed
    return described(composed if home is None else relocated(composed, home), say)


def _with_choices(added: list[str], overrides: list[str], root: str) -> dict[str, Any]:
    """The composition, where what a named option sets stands above the experiment.

    Hydra merges an experiment after all groups, whoever chose them: ``callbacks=none experiment=demo`` would have the
    demo's callbacks. So every key in which a named option differs from the group's default keeps its value.
    """
    choices = [override for override in overrides if override.partition("=")[0] in _CHOOSABLE]
    if not choices or not any(override.startswith("experiment=") for override in overrides):
        return _composed([*added, *overrides], root, whole=True)
    from omegaconf import OmegaConf

    composed = _composed([*added, *overrides], root, whole=False)
    plain = [override for override in overrides if not override.startswith("experiment=")]
    wanted, default = _composed([*added, *plain], root, whole=False), _composed(added, root, whole=False)
    chosen = _composed([*added, *choices], root, whole=False)
    groups = {override.partition("=")[0] for override in choices}
    for group in groups:
        composed[group] = _over(composed[group], wanted[group], chosen[group], default[group])
    return dict(OmegaConf.to_container(OmegaConf.create(composed), resolve=True, throw_on_missing=True))  # type: ignore[arg-type]


def _with_own_base(plain: dict[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """A run to start from brings its base model, unless another place of that is given."""
    model = plain.get("model")
    given = {override.partition("=")[0].lstrip("+") for override in overrides}
    if isinstance(model, dict) and model.get("init_from") is not None and not given & {"model", "model.path"}:
        model |= dict.fromkeys(key for key in _OF_BASE if key in model and f"model.{key}" not in given)
    return plain


def pinned(overrides: Sequence[str]) -> list[str]:
    """The overrides with the exact checkpoint in place of a run to start from: the run may go on in the meantime.

    Raises:
        ConfigError: an override cannot be read, or the run has no checkpoint.
    """
    from hydra.core.override_parser.overrides_parser import OverridesParser

    fixed = []
    for override in overrides:
        key = override.partition("=")[0]
        value = OverridesParser.create().parse_override(*readable([override])).value() if key in _STARTS else None
        run = isinstance(value, str) and is_run(Path(value))
        fixed.append(setting(key, find_checkpoint(Path(str(value)))) if run else override)
    return fixed


def _over(experiment: Any, wanted: Any, chosen: Any, default: Any) -> Any:
    """``wanted`` where ``chosen`` is not ``default``, ``experiment`` elsewhere; key by key."""
    if chosen == default:
        return experiment
    if not all(isinstance(value, Mapping) for value in (experiment, wanted, chosen, default)):
        return wanted
    keys = [key for key in [*experiment, *wanted] if key in experiment or chosen.get(key) != default.get(key)]
    missing = object()
    merged = {
        key: _over(*(section.get(key, missing) for section in (experiment, wanted, chosen, default))) for key in keys
    }
    return {key: value for key, value in merged.items() if value is not missing}


def refusal(
    error: Exception, overrides: Sequence[str], config_dirs: Sequence[str | Path] = (), root: str = ROOT
) -> ConfigError:
    """What to tell the user when Hydra ends in ``error``."""
    folders = search_path(config_dirs)
    roots = [SHIPPED, *map(Path, folders)]
    return ConfigError(explained(error, _known(overrides, folders, roots, root), roots))


def _composed(overrides: Sequence[str], root: str, *, whole: bool) -> dict[str, Any]:
    from hydra import compose as hydra_compose
    from hydra import initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra
    from omegaconf import OmegaConf

    GlobalHydra.instance().clear()
    with initialize_config_dir(version_base="1.3", config_dir=str(SHIPPED)):
        composed = hydra_compose(root, overrides=list(overrides))
    return dict(OmegaConf.to_container(composed, resolve=whole, throw_on_missing=whole))  # type: ignore[arg-type]


def _known(overrides: Sequence[str], folders: Sequence[str], roots: Sequence[Path], root: str) -> list[str]:
    """The keys there are once the groups are chosen, and the groups."""
    groups = sorted({path.name for root in roots for path in root.iterdir() if path.is_dir()})
    choices = [override for override in overrides if override.partition("=")[0] in groups]
    try:
        return [*_dotted(_composed([*_added(folders), *choices], root, whole=False)), *groups]
    except Exception:  # the choices are what is wrong
        return groups


def explained(error: Exception, known: Sequence[str], roots: Sequence[Path]) -> str:
    """Hydra's message, with the known key or option nearest to what was asked for.

    Args:
        error: what the composition ended in.
        known: keys and groups.
        roots: folders of configuration groups.
    """
    message = str(error).strip()
    if unknown := re.search(r"Could not override '([^']+)'", message):
        if unknown[1] in known:
            return f"{unknown[1]} has not all of those keys; to add one write '+{unknown[1]}.<key>=…'."
        near = nearest(unknown[1], [key for key in known if key.count(".") == unknown[1].count(".")])
        return f"There is no key {unknown[1]!r}" + (f"; did you mean {near}?" if near else ".")
    if unknown := re.search(r"Could not find '([^'/]+)/([^']+)'", message):
        options = options_of(unknown[1], roots)
        near = nearest(unknown[2], options)
        hint = f"; did you mean {unknown[1]}={near}?" if near else "."
        file = ", and the path of any .yaml file" if unknown[1] == "taxonomy" else ""
        return f"There is no {unknown[1]}={unknown[2]}{hint} There are: {', '.join(options)}{file}."
    key = getattr(error, "full_key", None)
    if key and "Missing mandatory value" in message:
        return f"{key} must be given: {key}=…"
    if isinstance(error, yaml.YAMLError):  # says the file on its last line
        return f"A YAML file cannot be read: {' '.join(message.split())}"
    first = message.splitlines()[0] if message else type(error).__name__
    return f"The configuration cannot be composed: {first}" + (f" ({key})" if key else "")


def _dotted(section: Mapping[str, Any], prefix: str = "") -> list[str]:
    keys = []
    for name, value in section.items():
        keys.append(prefix + name)
        if isinstance(value, Mapping):
            keys += _dotted(value, f"{prefix}{name}.")
    return keys


def options_of(group: str, roots: Sequence[Path]) -> list[str]:
    """The names that a configuration group has in any of ``roots``."""
    return sorted({path.stem for root in roots for path in (root / group).glob("*.yaml")})
