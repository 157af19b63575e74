"""How a layout steers the model: the one record training, sampling and checkpoints share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, Any

from annotated_types import Interval

from mamoe.errors import ConfigError
from mamoe.vocabulary.taxonomy import ExpertGrouping, Taxonomy


class RegionPolicy(StrEnum):
    """Which segments get a prompt of their own; the rest see the global prompt alone."""

    ALL = "all"  # every segment
    THINGS = "things"  # things; stuff and void do not
    BACKGROUND = "background"  # stuff only


class RegionResize(StrEnum):
    """How region masks reach the size of a UNet level."""

    NEAREST = "nearest"  # the segment at the cell's centre pixel
    AVG_POOL = "avg_pool"  # every region whose area share exceeds ``pool_threshold``; none may remain
    AREA = "area"  # as avg_pool, but a region that would vanish keeps every cell it has any share in


class Strength(StrEnum):
    """How strongly a cell is held to the text of its own regions."""

    HARD = "hard"  # it sees the regions that cover it and no other
    SOFT = "soft"  # it sees every region with a share in it, weighted by the share
    LEARNED = "learned"  # starts as hard; every head learns how far to open, as a function of the noise level


class ExpertResize(StrEnum):
    """How cells are given to experts."""

    NEAREST = "nearest"  # hard: the expert with the largest share of the cell
    AVG_POOL = "avg_pool"  # every expert with a share, outputs blended by share


@dataclass(frozen=True, kw_only=True, slots=True)
class LayoutSettings:
    """Everything that turns a panoptic map and prompts into a conditioning, apart from the text encoder.

    Written to every checkpoint and pipeline as plain JSON (:meth:`to_dict`), so that sampling sees what training saw.
    """

    taxonomy: Taxonomy
    grouping: str | Mapping[str, Sequence[str]] = "things"
    region_attention: bool = True
    moe: bool = True
    policy: RegionPolicy = RegionPolicy.ALL
    global_prompt: bool = True  # False: region 0 carries the empty prompt
    dataset_prompt: str | None = None  # visible to every cell
    global_padding: bool = True  # False: the padding behind the global prompt is attended by no cell
    encoder_padding: bool = False  # True: instance, class and data-set prompts are padded like the global one
    region_resize: RegionResize = RegionResize.AREA
    pool_threshold: Annotated[float, Interval(ge=0.0, lt=1.0)] = 0.5
    expert_resize: ExpertResize = ExpertResize.NEAREST
    strength: Strength = Strength.HARD

    def __post_init__(self) -> None:
        object.__setattr__(self, "policy", _member(RegionPolicy, self.policy, "policy"))
        object.__setattr__(self, "region_resize", _member(RegionResize, self.region_resize, "region_resize"))
        object.__setattr__(self, "expert_resize", _member(ExpertResize, self.expert_resize, "expert_resize"))
        object.__setattr__(self, "strength", _member(Strength, self.strength, "strength"))
        if not 0.0 <= self.pool_threshold < 1.0:
            raise ConfigError(f"pool_threshold must lie in [0, 1), got {self.pool_threshold}.")
        if problem := strength_problem(self.strength, self.region_attention, self.region_resize):
            raise ConfigError(f"{problem}.")
        self.taxonomy.grouping(self.grouping)  # raises where the taxonomy does not know it

    @property
    def experts(self) -> ExpertGrouping:
        return self.taxonomy.grouping(self.grouping)

    @property
    def num_experts(self) -> int:
        return self.experts.num_experts if self.moe else 1

    def to_dict(self) -> dict[str, Any]:
        plain = {name: getattr(self, name) for name in self.__dataclass_fields__ if name != "taxonomy"}
        return {"taxonomy": self.taxonomy.to_dict(), **plain}

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> LayoutSettings:
        options: dict[str, Any] = {**plain, "taxonomy": Taxonomy.from_dict(plain["taxonomy"])}
        return cls(**options)


def strength_problem(strength: str, region_attention: bool, region_resize: str) -> str | None:
    """Why a strength does not go with the other settings; None where it does."""
    if strength != Strength.HARD and not region_attention:
        return f"strength={strength} needs layout.region_attention=true: without it there are no regions to weigh"
    if strength == Strength.SOFT and region_resize != RegionResize.AREA:
        return f"strength=soft weighs regions by area share: it needs layout.region_resize=area, not {region_resize}"
    return None


def text_problem(global_prompt: bool, region_attention: bool, otherwise_steered: bool) -> str | None:
    """Why the settings leave nothing to learn from but the pictures; None where there is something."""
    if global_prompt or region_attention or otherwise_steered:
        return None
    return (
        "global_prompt=false, region_attention=false and moe=false leave no text and no layout to train on: set "
        "layout.global_prompt=true for text-to-image, or layout.region_attention=true for a prompt per segment"
    )


def _member(enum: type[StrEnum], value: str, name: str) -> StrEnum:
    try:
        return enum(value)
    except ValueError:
        known = ", ".join(enum)
        raise ConfigError(f"{name} must be one of {known}; got {value!r}.") from None
