"""What a checkpoint says besides weights, in ``recipe.json``: how its model is built again, what it was trained to."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mamoe.errors import ConfigError
from mamoe.runs.source import Source
from mamoe.vocabulary.layout import LayoutSettings

RECIPE = "recipe.json"
FORMAT = 1  # those from before it was said have the same
_NEEDED = ("base", "scheduler", "layout")  # of every version
_FULL = {"name": "full"}  # what there was before methods had names


def _full() -> Mapping[str, Any]:
    return _FULL


@dataclass(frozen=True, kw_only=True, slots=True)
class Terms:
    """What a run that goes on is held against: known before its base model is loaded.

    The last four are plain JSON; None: an earlier version, which did not say it.
    """

    layout: LayoutSettings
    method: Mapping[str, Any] = field(default_factory=_full)  # its name and options
    condition: str | None = None  # the kind of condition picture it is shown, or their folder
    objective: Mapping[str, Any] | None = None
    loss: Mapping[str, Any] | None = None
    optimizer: Mapping[str, Any] | None = None
    data: Mapping[str, Any] | None = None  # a fingerprint of each split

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON; :meth:`from_dict` takes it back."""
        said = {"objective": self.objective, "loss": self.loss, "optimizer": self.optimizer, "data": self.data}
        return {
            "layout": self.layout.to_dict(),
            "method": dict(self.method),
            "condition": self.condition,
            **{name: value for name, value in said.items() if value is not None},
        }

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> Terms:
        """The inverse of :meth:`to_dict`; keys that are none of its own are left alone.

        Raises:
            ConfigError: the layout contradicts itself.
        """
        return cls(
            layout=LayoutSettings.from_dict(plain["layout"]),
            method=plain.get("method") or _FULL,
            condition=plain.get("condition"),
            objective=plain.get("objective"),
            loss=plain.get("loss"),
            optimizer=plain.get("optimizer"),
            data=plain.get("data"),
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Recipe:
    """Everything a checkpoint says besides weights."""

    base: Source  # the model it was trained on
    scheduler: Mapping[str, Any]  # the noise schedule, as diffusers configures it
    terms: Terms
    weights: Mapping[str, str] | None = None  # fingerprints of the base model's parts; None: an earlier version
    started_from: str | None = None  # the checkpoint whose weights it began with
    mamoe: str | None = None  # the version that wrote it; None: an earlier one, which did not say

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON; :meth:`from_dict` takes it back."""
        return {
            "format": FORMAT,
            "mamoe": self.mamoe,
            "base": self.base.to_dict(),
            "scheduler": dict(self.scheduler),
            **self.terms.to_dict(),
            **({} if self.weights is None else {"weights": dict(self.weights)}),
            "started_from": self.started_from,
        }

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> Recipe:
        """The inverse of :meth:`to_dict`. What versions before this one did not say has the meaning it had for them.

        Raises:
            ConfigError: a newer version wrote it, or it lacks something, in words that follow its name.
        """
        if (found := plain.get("format", FORMAT)) > FORMAT:
            raise ConfigError(
                f"was written by mamoe {plain.get('mamoe', 'of a newer version')}: its recipe has format {found}, this "
                f"version reads {FORMAT}. Go on with that version, or update this one."
            )
        if missing := [key for key in _NEEDED if key not in plain]:
            raise ConfigError(f"lacks {', '.join(missing)} in its recipe. Take another checkpoint of the run.")
        return cls(
            base=Source.from_dict(plain["base"]),
            scheduler=plain["scheduler"],
            terms=Terms.from_dict(plain),
            weights=plain.get("weights"),
            started_from=plain.get("started_from"),
            mamoe=plain.get("mamoe"),
        )


def write_recipe(recipe: Recipe, folder: Path) -> None:
    """Into a checkpoint that is being made."""
    (folder / RECIPE).write_text(json.dumps(recipe.to_dict(), indent=1), encoding="utf-8")


def read_recipe(checkpoint: Path) -> Recipe:
    """What a checkpoint says besides weights.

    Raises:
        ConfigError: it cannot be read, lacks something, or a newer version wrote it.
    """
    path = checkpoint / RECIPE
    try:
        plain = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"Cannot read {path}: {error}. Take another checkpoint of the run.") from None
    if not isinstance(plain, dict):
        raise ConfigError(f"{path} is no recipe: wanted a JSON object. Take another checkpoint of the run.")
    try:
        return Recipe.from_dict(plain)  # pyright: ignore[reportUnknownArgumentType]
    except ConfigError as error:
        raise ConfigError(f"{checkpoint} {error}") from None
    except (TypeError, KeyError, ValueError, AttributeError) as error:  # a value of another type than ever was written
        raise ConfigError(
            f"{path} was changed by hand, or is damaged: {type(error).__name__}, {error}. Take another checkpoint of "
            "the run."
        ) from None
