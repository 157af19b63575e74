"""``_target_`` in a user's YAML: only what a few well-known modules hold, found and called by name."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any

from mamoe.errors import ConfigError, MamoeError

ALLOWED = {
    "optimizer": ("torch.optim.", "mamoe.training.optim."),
    "lr_scheduler": ("torch.optim.lr_scheduler.", "mamoe.training.optim."),
    "data.transforms": ("torchvision.transforms.v2.",),
    "logger.extra": ("lightning.pytorch.loggers.",),
    "callbacks.extra": ("lightning.pytorch.callbacks.",),
}
ROOTS = ("torch.", "torchvision.", "lightning.", "mamoe.")  # what a module imported from elsewhere is not ours to call


def instantiate(spec: Mapping[str, Any], where: str, *arguments: Any) -> Any:
    """Call the class or function that ``spec["_target_"]`` names with ``arguments`` and the other keys of ``spec``.

    Args:
        spec: ``_target_`` and keyword arguments; nested specs are not followed.
        where: the configuration key, which decides what is allowed there.

    Raises:
        ConfigError: the target is not allowed at that place, does not exist, or refuses its arguments.
    """
    target = spec.get("_target_")
    prefixes = ALLOWED[where]
    if not isinstance(target, str) or not target.startswith(prefixes) or "_" in (p[:1] for p in target.split(".")):
        raise ConfigError(f"{where}: _target_ must name something below {' or '.join(prefixes)}…; got {target!r}.")
    module, _, name = target.rpartition(".")
    try:
        found = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError):
        raise ConfigError(f"{where}: there is no {target}. Look up its name in the documentation.") from None
    if not callable(found) or not getattr(found, "__module__", "").startswith(ROOTS):
        raise ConfigError(f"{where}: {target} is no class or function of that module.")
    try:
        return found(*arguments, **{key: value for key, value in spec.items() if key != "_target_"})
    except MamoeError:
        raise
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{where}: {target} does not take these arguments: {error}.") from None
