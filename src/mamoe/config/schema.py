"""Configurations as typed values: every key that does not fit is named, with the nearest one that would."""

from __future__ import annotations

import functools
import operator
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import fields
from types import UnionType
from typing import Annotated, Any, TypeVar, Union, get_args, get_origin, get_type_hints

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, create_model

from mamoe.errors import ConfigError, nearest
from mamoe.vocabulary.splits import split_name


def _no_truth(given: Any) -> Any:
    if isinstance(given, bool):
        raise ValueError("Input should be a number, not true or false")
    return given


Int = Annotated[int, BeforeValidator(_no_truth)]
Float = Annotated[float, BeforeValidator(_no_truth)]
Name = Annotated[str, Field(pattern=r"^\w[\w.-]*$")]  # of a folder: neither . nor .. nor hidden
SplitName = Annotated[str, AfterValidator(split_name)]


class Section(BaseModel):
    """A part of the configuration; a key it does not know is an error.

    What can be meant in one way only is taken: 8.0 or the text of an environment variable for a whole number, yes for
    true. Never inf or nan, and with ``Int`` and ``Float`` never true for a number.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


S = TypeVar("S", bound=Section)


def section_of(options: type, *, only: Collection[str] = (), without: Collection[str] = ()) -> Any:
    """The section whose keys are the fields of a dataclass, with their types and ranges.

    The dataclass's defaults are left out: those of the configuration stand in its YAML.
    """
    hints = get_type_hints(options, include_extras=True)
    names = [f.name for f in fields(options) if f.name not in without and (not only or f.name in only)]
    given: dict[str, Any] = {name: (_guarded(hints[name]), ...) for name in names}
    return create_model(options.__name__, __base__=Section, **given)


def _guarded(hint: Any) -> Any:
    """The type with numbers that refuse true, however deep they are in it."""
    kind, inner = get_origin(hint), get_args(hint)
    if hint in (int, float):
        return Annotated[hint, BeforeValidator(_no_truth)]
    if not {int, float} & {*_leaves(hint)}:
        return hint
    if kind is Annotated:
        return Annotated[(_guarded(inner[0]), *inner[1:])]
    guarded = tuple(map(_guarded, inner))
    return functools.reduce(operator.or_, guarded) if kind in (Union, UnionType) else kind[guarded]


def checked(schema: type[S], composed: Mapping[str, Any]) -> S:
    """A composed configuration as the typed values of its schema.

    Raises:
        ConfigError: names every key that is unknown (with the nearest known one), missing or out of range.
    """
    try:
        return schema.model_validate(composed, context=composed)
    except ValidationError as error:
        lines = _lines(error, schema, composed)
        raise ConfigError("The configuration does not fit:\n" + "\n".join(f"  {line}" for line in lines)) from None


def _lines(error: ValidationError, schema: type[Section], composed: Mapping[str, Any]) -> Iterator[str]:
    """One line a key: of a value that is none of several kinds pydantic speaks once for each."""
    said: dict[tuple[str | int, ...], list[Any]] = {}
    problem: Any
    for problem in error.errors():
        loc, given = problem["loc"], problem["input"]
        if problem["type"] in ("union_tag_invalid", "union_tag_not_found"):  # which kind is meant, says one of the keys
            key, context = problem["ctx"]["discriminator"].strip("'"), problem["ctx"]
            loc, given = (*loc, key), given.get(key)
            kinds = f"Input should be one of {context['expected_tags']}" if "expected_tags" in context else ""
            problem |= {"msg": kinds, "type": "kind" if kinds else "missing", "input": given}
        said.setdefault(_keys(loc, composed), []).append(problem)
    for path, problems in said.items():
        yield from _explained(path, problems, schema)


def _keys(path: Sequence[str | int], composed: Any) -> tuple[str | int, ...]:
    """The keys of a path, without the names by which pydantic says which kind of a value was meant."""
    kept: list[str | int] = []
    for last, part in enumerate(path, start=1 - len(path)):
        if isinstance(composed, Mapping):
            there = part in composed
        else:
            there = isinstance(part, int) and isinstance(composed, Sequence) and part < len(composed)
        if there:
            kept.append(part)
            composed = composed[part]  # type: ignore[index]
        elif last == 0 and isinstance(composed, Mapping):
            kept.append(part)  # the key that is missing
    return tuple(kept)


def _explained(path: Sequence[str | int], problems: Sequence[Any], schema: type[Section]) -> Iterator[str]:
    where, got = ".".join(map(str, path)), problems[0]["input"]
    for problem in problems:
        if problem["type"] == "extra_forbidden":
            near = nearest(str(path[-1]), _fields_at(path[:-1], schema))
            yield f"{where}: no such key" + (f"; did you mean {near}?" if near else ".")
            return
        if problem["type"] == "missing":
            yield f"{where}: is missing; set {where}=…"
            return
    messages = list(dict.fromkeys(problem["msg"].removeprefix("Value error, ") for problem in problems))
    if isinstance(got, Mapping) and any(problem["type"] == "value_error" for problem in problems):
        for message in messages:  # keys that contradict each other: the message names them
            yield f"{where}: {message}".removeprefix(": ")
        return
    message = " or ".join([messages[0], *(m.removeprefix("Input should be ") for m in messages[1:])])
    yield f"{where}: {message.rstrip('.')}; got {got!r}"


def _fields_at(path: Sequence[str | int], schema: type[Section]) -> list[str]:
    sections: list[Any] = [schema]
    for part in path:
        found = {name: field for section in sections for name, field in section.model_fields.items()}
        if part not in found:
            return []
        sections = [o for o in _leaves(found[str(part)].annotation) if isinstance(o, type) and issubclass(o, Section)]
    return [name for section in sections for name in section.model_fields]


def _leaves(annotation: Any) -> Iterator[Any]:
    """The types that a union, a list or a mapping is made of."""
    inner = get_args(annotation)
    if not inner:
        yield annotation
    for one in inner:
        yield from _leaves(one)
