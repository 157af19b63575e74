"""The arguments of an optimizer and a schedule, against the signature of their ``_target_``; torch need not load."""

from __future__ import annotations

from functools import partial
from types import UnionType
from typing import Annotated, Any, Union

from annotated_types import Ge, Gt, Lt
from pydantic import AfterValidator, ConfigDict, Strict, TypeAdapter, ValidationError
from pydantic_core import InitErrorDetails, PydanticCustomError

from mamoe.config.signatures import Argument, functions_in, signature_of
from mamoe.config.targets import Target, target_problem
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
        ValueError: the target may not be called there.
        ValidationError: arguments are unknown, missing, of another type or out of range; each by its name.
    """
    if problem := target_problem(where, spec):
        raise ValueError(problem)
    target = spec["_target_"]
    if target.startswith(f"{OURS}."):
        ours, name = functions_in(OURS, **_KINDS[where]), target.rpartition(".")[2]
        if name not in ours:
            raise ValueError(f"_target_={target} is none of ours{_hint(name, ours)}")
    signature = signature_of(target)
    if signature is None:
        return spec  # what is wrong with it is said when it is called
    known, given = signature.arguments, {key: value for key, value in spec.items() if key != "_target_"}
    errors: list[InitErrorDetails] = []
    for name, value in given.items():
        if name in known:
            errors += _problems(name, value, known[name])
        elif not signature.open:
            errors.append(
                _error(
                    "unknown",
                    f"{target} takes no {name}{_hint(name, list(known))}",
                    name,
                    value,
                )
            )
    for name in (name for name, argument in known.items() if argument.needed and name not in {*given, _LENGTH}):
        errors.append(_error("needed", f"{target} needs this argument", name, None))
    if errors:
        raise ValidationError.from_exception_data(where, errors)
    return spec


def _problems(name: str, value: Any, argument: Argument) -> list[InitErrorDetails]:
    kind = _ranged(argument.kind, name)
    try:
        TypeAdapter(kind, config=ConfigDict(allow_inf_nan=False)).validate_python(value)
    except ValidationError as error:
        return [_error("argument", problem["msg"], name, value) for problem in error.errors()]
    return []


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


def _error(kind: str, message: str, name: str, value: Any) -> InitErrorDetails:
    text = message.replace("{", "{{").replace("}", "}}")
    return InitErrorDetails(type=PydanticCustomError(kind, text), loc=(name,), input=value)  # type: ignore[arg-type]


def _hint(name: str, known: list[str]) -> str:
    near = nearest(name, known)
    return f"; did you mean {near}" if near else f"; there are {', '.join(known)}"


OptimizerTarget = Annotated[Target, AfterValidator(partial(_checked, where="optimizer"))]
ScheduleTarget = Annotated[Target, AfterValidator(partial(_checked, where="lr_scheduler"))]
