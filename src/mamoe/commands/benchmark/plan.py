"""The cells of a benchmark: method x data x seed, with equal budgets."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any

from mamoe.storage.hashing import text_hash


class View(StrEnum):
    """What all methods have the same amount of."""

    IMAGES = "images"  # pictures seen in training
    TIME = "time"  # wall-clock of training


@dataclass(frozen=True, kw_only=True, slots=True)
class Cell:
    """One training and its scores."""

    view: View
    data: str
    method: str
    seed: int
    steps: int  # optimizer steps
    overrides: tuple[str, ...]  # of its training

    @property
    def key(self) -> str:
        """A folder name, and where it stands in the grid."""
        return f"{self.view}-{self.data}-{self.method}-seed{self.seed}"

    def fingerprint(self, scoring: Mapping[str, Any]) -> str:
        """Sixteen hex digits for all that its result depends on.

        Args:
            scoring: how its pictures are drawn and scored, plain JSON.
        """
        text = json.dumps({"cell": asdict(self), "scoring": scoring}, sort_keys=True)
        return text_hash(text)


def cells(
    methods: Mapping[str, Sequence[str]],
    data: Mapping[str, Sequence[str]],
    seeds: Sequence[int],
    *,
    common: Sequence[str],
    steps: Mapping[tuple[str, str], int],
    view: View = View.IMAGES,
) -> tuple[Cell, ...]:
    """Every method on every data set with every seed; a seed's cells come together, so that an early stop compares.

    Args:
        methods: name -> overrides.
        data: name -> overrides.
        seeds: of the trainings.
        common: overrides of every cell; those of data, then of the method come after them.
        steps: of (data, method).
        view: which budget the steps come from.
    """
    return tuple(
        Cell(
            view=view,
            data=place,
            method=method,
            seed=seed,
            steps=steps[place, method],
            overrides=(*common, *data[place], *methods[method], f"seed={seed}"),
        )
        for seed in seeds
        for place in data
        for method in methods
    )


def steps_of_images(images: int, batch_size: int, accumulated: int) -> int:
    """The optimizer steps after which at least ``images`` pictures were seen."""
    return math.ceil(images / (batch_size * accumulated))


def steps_of_time(steps: Mapping[str, int], seconds_per_step: Mapping[str, float]) -> dict[str, int]:
    """Steps of every method in the time that the fastest one takes for its own steps; at least one.

    Args:
        steps: method -> steps of the budget in pictures.
        seconds_per_step: method -> measured, of those that were.
    """
    time = min(steps[method] * seconds for method, seconds in seconds_per_step.items())
    return {
        method: min(steps[method], max(1, math.floor(time / seconds + 1e-9)))
        for method, seconds in seconds_per_step.items()
    }
