"""The arguments of an optimizer and a schedule, against the signature of their ``_target_``; torch need not load."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache, partial
from types import UnionType
from typing import Annotated, Any, Union

from annotated_types import Ge, Gt, Lt
from pydantic import AfterValidator, ConfigDict, Strict, TypeAdapter, ValidationError
from pydantic_core import InitErrorDetails

from mamoe.config.signatures import Argument, functions_in, signature_of
from mamoe.config.targets import Target, argument_error, target_problem
from mamoe.errors import nearest

OURS = "mamoe.training.optim"
# Which of our own functions are which.
_KINDS = {
    "optimizer": {"first": "parameters", "returns": "Optimizer"},
    "lr_scheduler": {"first": "optimizer", "returns": "LambdaLR"},
}
_LENGTH = "total_steps"  # the assembly gives it to our schedules
# What numbers of these names may be, whoever takes them.
_RANGES = {
    "lr": (Gt(0),),
    "betas": (Ge(0), Lt(1)),  # each of them
    "eps": (Ge(0),),
    "momentum": (Ge(0), Lt(1)),
    "weight_decay": (Ge(0),),
    "warmup_steps": (Ge(0),),
    _LENGTH: (Ge(1),),
}


def _checked(spec: Target, where: str) -> Target:
    """``spec`` as it came.

    Raises:
        ValidationError: the target may not be called there, or arguments are unknown, missing, of another type or out
            of range; each by its name.
    """
    target = spec.get("_target_")
    if problem := target_problem(where, target) or _not_ours(where, str(target)):
        raise ValidationError.from_exception_data(where, [argument_error("_target_", problem, target)])
    signature = signature_of(str(target))
    if signature is None:
        return spec  # what is wrong with it is said when it is called
    known, given = signature.arguments, {key: value for key, value in spec.items() if key != "_target_"}
    errors: list[InitErrorDetails] = []
    for name, value in given.items():
        if name in known:
            errors += _problems(name, value, known[name])
        elif not signature.open:
            errors.append(argument_error(name, f"{target} takes no {name}{_hint(name, list(known))}", value))
    for name, argument in known.items():
        if argument.needed and name not in given and name != _LENGTH:
            errors.append(argument_error(name, f"{target} needs this argument", None))
    if errors:
        raise ValidationError.from_exception_data(where, errors)
    return spec


def _not_ours(where: str, target: str) -> str | None:
    """Why a name below our own optimizers is none, or none that belongs there; None where all is well."""
    if not target.startswith(f"{OURS}."):
        return None
    ours, name = functions_in(OURS, **_KINDS[where]), target.rpartition(".")[2]
    return None if name in ours else f"names no {where}{_hint(name, ours)}"


def _problems(name: str, value: Any, argument: Argument) -> list[InitErrorDetails]:
    try:
        _adapter(argument.kind, name).validate_python(value)
    except ValidationError as error:
        return [argument_error(name, problem["msg"], value) for problem in error.errors()]
    return []


@lru_cache(maxsize=256)
def _adapter(kind: Any, name: str) -> TypeAdapter[Any]:
    return TypeAdapter(_ranged(kind, name), config=ConfigDict(allow_inf_nan=False))


def _ranged(kind: Any, name: str) -> Any:
    """A type with the range of that name on its numbers, which must be numbers: no text, no true."""
    if kind in (int, float):
        return Annotated[(kind, Strict(), *_RANGES.get(name, ()))]  # type: ignore[return-value]
    if kind in (bool, str):
        return Annotated[kind, Strict()]
    inner, origin = getattr(kind, "__args__", ()), getattr(kind, "__origin__", None)
    ranged = tuple(_ranged(one, name) for one in inner)
    if origin is tuple:
        return tuple[ranged]  # type: ignore[valid-type]
    if origin is list:
        return list[ranged]  # type: ignore[valid-type]
    if origin in (Union, UnionType):
        return Union[ranged]  # noqa: UP007
    return kind


def _hint(name: str, known: Sequence[str]) -> str:
    near = nearest(name, known)
    return f"; did you mean {near}" if near else f"; there are {', '.join(known)}"


OptimizerTarget = Annotated[Target, AfterValidator(partial(_checked, where="optimizer"))]
ScheduleTarget = Annotated[Target, AfterValidator(partial(_checked, where="lr_scheduler"))]
