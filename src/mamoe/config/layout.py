"""How the map steers the model: the keys, types and ranges are those of ``LayoutSettings``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

from pydantic import Field, ValidationInfo, field_validator

from mamoe.config.schema import Int, section_of
from mamoe.errors import ConfigError
from mamoe.vocabulary.layout import LayoutSettings
from mamoe.vocabulary.taxonomy import Taxonomy

_OF_REGIONS = ("strength",)


class Regions(section_of(LayoutSettings, only=_OF_REGIONS)):
    pass


class Layout(section_of(LayoutSettings, without=("taxonomy", *_OF_REGIONS))):
    moe_levels: list[Annotated[Int, Field(ge=0)]] | None
    blocks: list[Annotated[Int, Field(ge=0)]] | None = None  # not in runs of before

    @field_validator("grouping")
    @classmethod
    def _taxonomy_knows_it(cls, grouping: str | Mapping[str, Sequence[str]], info: ValidationInfo) -> Any:
        taxonomy = taxonomy_of(info.context or {})
        if taxonomy is not None:
            taxonomy.grouping(grouping)
        return grouping


def taxonomy_of(composed: Mapping[str, Any]) -> Taxonomy | None:
    """The classes of a composed configuration; None where it names none that can be read, which is said elsewhere."""
    data = composed.get("data")
    named = data.get("taxonomy") if isinstance(data, Mapping) else None  # of old runs; today its contents stand there
    try:
        return Taxonomy.from_dict(composed["taxonomy"]) if named is None else Taxonomy.load(str(named))
    except (ConfigError, KeyError):
        return None
