"""``_target_`` in a user's YAML: only what a few well-known modules hold, found and called by name."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from functools import partial
from typing import Annotated, Any

from pydantic import AfterValidator, ValidationError
from pydantic_core import InitErrorDetails, PydanticCustomError

from mamoe.errors import ConfigError, MamoeError

ALLOWED = {
    "optimizer": ("torch.optim.", "mamoe.training.optim."),
    "lr_scheduler": ("torch.optim.lr_scheduler.", "mamoe.training.optim."),
    "data.transforms": ("torchvision.transforms.v2.",),
    "logger.extra": ("lightning.pytorch.loggers.",),
    "callbacks.extra": ("lightning.pytorch.callbacks.",),
}
ROOTS = ("torch.", "torchvision.", "lightning.", "mamoe.")  # what a module imported from elsewhere is not ours to call

Target = dict[str, Any]  # {_target_: dotted name, its arguments}


def target_problem(where: str, target: Any) -> str | None:
    """Why a ``_target_`` may not be called at the configuration key ``where``; None where it may."""
    prefixes = ALLOWED[where]
    private = "_" in (part[:1] for part in str(target).split("."))
    if isinstance(target, str) and target.startswith(prefixes) and not private:
        return None
    return f"must name something below {' or '.join(prefixes)}…"


def argument_error(name: str, message: str, value: Any) -> InitErrorDetails:
    """What is wrong with one argument of a target, for pydantic, which puts the place of the target before its name."""
    return InitErrorDetails(type=PydanticCustomError("argument", "{text}", {"text": message}), loc=(name,), input=value)


def _allowed(spec: Target, where: str) -> Target:
    if problem := target_problem(where, spec.get("_target_")):
        raise ValidationError.from_exception_data(where, [argument_error("_target_", problem, spec.get("_target_"))])
    return spec


TransformTarget = Annotated[Target, AfterValidator(partial(_allowed, where="data.transforms"))]
LoggerTarget = Annotated[Target, AfterValidator(partial(_allowed, where="logger.extra"))]
CallbackTarget = Annotated[Target, AfterValidator(partial(_allowed, where="callbacks.extra"))]


def instantiate(spec: Mapping[str, Any], where: str, *arguments: Any) -> Any:
    """Call the class or function that ``spec["_target_"]`` names with ``arguments`` and the other keys of ``spec``.

    Args:
        spec: ``_target_`` and keyword arguments; nested specs are not followed.
        where: the configuration key, which decides what is allowed there.

    Raises:
        ConfigError: the target is not allowed at that place, does not exist, or refuses its arguments.
    """
    target = spec.get("_target_")
    if problem := target_problem(where, target):
        raise ConfigError(f"{where}: _target_ {problem}; got {target!r}.")
    module, _, name = str(target).rpartition(".")
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
