"""The typed schema of a benchmark's configuration, and which overrides on the command line are for its trainings."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from typing import Literal

from pydantic import Field, model_validator

from mamoe.config.drawn import Drawn
from mamoe.config.schema import Int, Name, Section, SplitName
from mamoe.errors import ConfigError, nearest
from mamoe.vocabulary.drawing import Mode

Overrides = list[str]
# What every cell has of its own, and how it is scored.
_OF_GRID = ("name", "runs", "seed", "resume", "trainer.max_steps", "trainer.max_epochs", "evaluate_after")


class Budget(Section):
    images: Int = Field(ge=1)  # that every method sees
    wall_clock: bool  # a second grid: every method trained for as long as the fastest needs for these pictures


class Pictures(Drawn):
    split: SplitName
    images: Int | None = Field(ge=1)  # layouts drawn, spread evenly; null = all of the split
    mode: Mode
    batch_size: Int = Field(ge=1)
    seed: Int = Field(ge=0)  # the same for all methods and training seeds


class Scores(Section):
    names: list[str]
    extractors: list[str]
    segmenters: list[str]
    clip: str | None


class Scenes(Section):
    """Drawn first where they are not there yet."""

    root: str
    domain: Literal["broad", "close_ups", "dusk_town"]
    train: Int = Field(ge=1)
    val: Int = Field(ge=1)
    test: Int = Field(ge=1)


class Report(Section):
    scores: list[str]  # of the main table, in order; a score may end in * for all that begin so
    sheet: Int = Field(ge=1)  # layouts on the picture sheet


class Benchmark(Section):
    """What ``mamoe benchmark`` runs."""

    name: Name
    out: str
    methods: list[str] | None  # of those in ``method_settings``; null = all
    seeds: list[Int] = Field(min_length=1)
    method_settings: dict[str, Overrides]
    datasets: dict[str, Overrides] = Field(min_length=1)
    settings: Overrides  # of every cell
    budget: Budget
    pictures: Pictures
    scores: Scores
    report: Report
    scenes: Scenes | None
    keep_weights: bool

    @model_validator(mode="after")
    def _fits(self) -> Benchmark:
        chosen = self.chosen
        problems = [
            f"there is no method {name!r}" + (f", did you mean {near}?" if (near := self._near(name)) else "")
            for name in chosen
            if name not in self.method_settings
        ]
        if problems:
            problems.append(f"methods are {', '.join(self.method_settings)}; '+method_settings.NAME=[…]' adds one")
        for what, values in (("methods", chosen), ("seeds", self.seeds)):
            if len(set(values)) < len(values):
                problems.append(f"{what} names one twice: {values}")
        if not chosen:
            problems.append("methods is empty")
        names = [*self.method_settings, *self.datasets]
        if odd := [name for name in names if not re.fullmatch(r"[\w.+-]+", name)]:
            problems.append(
                f"names of methods and datasets are parts of folder names: letters, digits, _.+- ; got {odd}"
            )
        cells = Counter(f"{data}-{method}" for data in self.datasets for method in chosen)
        if same := [name for name, count in cells.items() if count > 1]:
            problems.append(f"two cells would have one folder, {', '.join(same)}: rename a method or a data set")
        if problems:
            raise ValueError("; ".join(problems))
        return self

    def _near(self, name: str) -> str | None:
        return nearest(name, list(self.method_settings))

    @property
    def chosen(self) -> list[str]:
        """The methods of this benchmark."""
        return list(self.method_settings) if self.methods is None else self.methods


def parted(overrides: Sequence[str]) -> tuple[list[str], list[str]]:
    """Overrides of the benchmark itself, and those of every training.

    Raises:
        ConfigError: an override of what the grid sets in every cell.
    """
    ours = {*Benchmark.model_fields, "benchmark"}
    mine = [override for override in overrides if _key(override).split(".")[0] in ours or override.startswith("-")]
    theirs = [override for override in overrides if override not in mine]
    taken = sorted({_key(override) for override in theirs} & set(_OF_GRID))
    if taken:
        raise ConfigError(
            f"A benchmark sets {', '.join(taken)} in every cell itself. Its own keys are seeds=[…], "
            "budget.images=…, scores.names=[…] and out=…."
        )
    return mine, theirs


def replaced(settings: Sequence[str], by: Sequence[str]) -> list[str]:
    """``settings`` without those that ``by`` sets too, and then ``by``: a configuration group may be chosen once."""
    keys = {_key(override) for override in by}
    return [*(setting for setting in settings if _key(setting) not in keys), *by]


def _key(override: str) -> str:
    return override.partition("=")[0].lstrip("+~")
