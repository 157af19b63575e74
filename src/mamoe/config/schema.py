"""Configurations as typed values: every key that does not fit is named, with the nearest one that would."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from mamoe.errors import ConfigError, nearest


class Section(BaseModel):
    """A part of the configuration; a key it does not know is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True)


S = TypeVar("S", bound=Section)


def checked(schema: type[S], composed: Mapping[str, Any]) -> S:
    """A composed configuration as the typed values of its schema.

    Raises:
        ConfigError: names every key that is unknown (with the nearest known one), missing or out of range.
    """
    try:
        return schema.model_validate(composed)
    except ValidationError as error:
        lines = [_explain(problem, schema) for problem in error.errors()]
        raise ConfigError("The configuration does not fit:\n" + "\n".join(f"  {line}" for line in lines)) from None


def _explain(problem: Mapping[str, Any], schema: type[Section]) -> str:
    named = [part for part in problem["loc"] if not (isinstance(part, str) and part[:1].isupper())]
    path = _without_tags(named, schema)
    where = ".".join(map(str, path))
    if problem["type"] == "extra_forbidden":
        near = nearest(str(path[-1]), _fields_at(path[:-1], schema))
        return f"{where}: no such key" + (f"; did you mean {near}?" if near else ".")
    if problem["type"] == "missing":
        return f"{where}: is missing; set {where}=…"
    if isinstance(problem["input"], Mapping):  # keys that contradict each other: the message names them
        return f"{where}: {problem['msg'].removeprefix('Value error, ')}".removeprefix(": ")
    return f"{where}: {problem['msg']}; got {problem['input']!r}"


def _without_tags(path: Sequence[str | int], schema: type[Section]) -> list[str | int]:
    """The keys of a path, without the names by which pydantic says which kind of a section (of loss, say) was meant."""
    return [part for i, part in enumerate(path) if i == 0 or part not in _kinds_at(path[:i], schema)]


def _kinds_at(path: Sequence[str | int], schema: type[Section]) -> list[str]:
    field = schema.model_fields.get(str(path[0])) if len(path) == 1 else None
    return (
        []
        if field is None or field.discriminator is None
        else [k for s in _sections_of(field.annotation) for k in _kinds(s)]
    )


def _kinds(section: type[Section]) -> tuple[str, ...]:
    return section.model_fields["name"].annotation.__args__  # type: ignore[union-attr]


def _fields_at(path: Sequence[str | int], schema: type[Section]) -> list[str]:
    sections: list[Any] = [schema]
    for part in path:
        fields = {name: field for section in sections for name, field in section.model_fields.items()}
        if part not in fields:
            return []
        sections = _sections_of(fields[str(part)].annotation)
    return [name for section in sections for name in section.model_fields]


def _sections_of(annotation: Any) -> list[type[Section]]:
    options = getattr(annotation, "__args__", (annotation,))
    return [o for o in options if isinstance(o, type) and issubclass(o, Section)]
