"""The methods of fine-tuning, by name; their keys, types and ranges are those of :mod:`mamoe.methods.options`."""

from __future__ import annotations

import functools
import operator
from dataclasses import fields
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field, create_model, model_validator

from mamoe.config.schema import Section, section_of
from mamoe.methods.options import OPTIONS, Options


class MethodSection(Section):
    """What every method's section has."""

    name: str

    @property
    def kind(self) -> type[Options]:
        """What is known of the method."""
        return OPTIONS[self.name]

    @model_validator(mode="after")
    def _goes_together(self) -> MethodSection:
        self.kind(**{option.name: getattr(self, option.name) for option in fields(self.kind)})
        return self


def _section(options: type[Options]) -> Any:
    named: dict[str, Any] = {"name": (Literal[options.name], ...)}
    return create_model(options.__name__, __base__=(MethodSection, section_of(options)), **named)


if TYPE_CHECKING:
    Method = MethodSection
else:
    Method = Annotated[functools.reduce(operator.or_, map(_section, OPTIONS.values())), Field(discriminator="name")]
