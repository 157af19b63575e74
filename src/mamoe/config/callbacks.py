"""What is measured, drawn, kept and logged while a training runs, and what follows it."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from mamoe.config.drawn import Drawn
from mamoe.config.schema import Float, Int, Section, SplitName
from mamoe.config.targets import CallbackTarget, LoggerTarget
from mamoe.vocabulary.drawing import DRAWING, Mode

FIXED_LOSSES = ("val/loss", "train/stable_loss")  # what callbacks.validation logs


class Validation(Section):
    every: Int = Field(ge=1)  # optimizer steps
    images: Int = Field(ge=1)


class Samples(Drawn):
    every: Int = Field(ge=1)
    images: Int = Field(4, ge=1)
    modes: list[Mode] = Field(list(Mode))


class Scores(Drawn):
    every: Int = Field(ge=1)
    images: Int = Field(32, ge=2)
    mode: Mode = DRAWING.mode
    extractor: str = "pixels"  # NAME or NAME=PATH, as `mamoe evaluate --extractor`
    scores: list[Literal["fid", "fid-infinity", "kid", "cmmd", "precision", "recall", "density", "coverage"]] = Field(
        ["kid"], min_length=1
    )
    keep_pictures: bool = False


class Best(Section):
    metric: str  # a column of metrics.csv
    mode: Literal["min", "max"]


class Checkpoints(Section):
    every: Int | None = Field(ge=1)  # null = at the end only
    keep_last: Int = Field(ge=2)
    full: Int | None = Field(None, ge=1)
    best: Best | None = None


class EarlyStopping(Section):
    metric: str  # a column of metrics.csv
    mode: Literal["min", "max"]
    patience: Int = Field(ge=1)  # measurements
    min_delta: Float = Field(0.0, ge=0)


class Callbacks(Section):
    validation: Validation | None
    samples: Samples | None
    scores: Scores | None = None
    checkpoints: Checkpoints
    early_stopping: EarlyStopping | None = None
    extra: list[CallbackTarget] = Field([])  # further Lightning callbacks

    @model_validator(mode="after")
    def _what_stops_is_measured(self) -> Callbacks:
        if self.early_stopping is None or self.extra:
            return self
        metric = self.early_stopping.metric
        if metric in FIXED_LOSSES and self.validation is None:
            raise ValueError(f"early_stopping goes by {metric}, which callbacks.validation measures: it is null")
        if metric.startswith("val/") and metric not in FIXED_LOSSES and self.scores is None:
            raise ValueError(f"early_stopping goes by {metric}, which callbacks.scores would measure: it is null")
        return self


class EvaluateAfter(Drawn):
    split: SplitName = "test"
    modes: list[Mode] = Field(list(Mode), min_length=1)
    scores: list[str] | None = Field(None, min_length=1)  # as `mamoe evaluate --scores`; null = all but use
    extractors: list[str] = Field(["inception"], min_length=1)
    segmenters: list[str] = Field(["domain"], min_length=1)
    clip: str | None = None
    checkpoint: Literal["latest", "best"] = "latest"
    images: Int | None = Field(None, ge=1)  # null = the whole split
    batch_size: Int = Field(DRAWING.batch_size, ge=1)
    keep_pictures: bool = True


class WandB(Section):
    project: str
    entity: str | None = None
    mode: Literal["online", "offline"] = "online"


class Loggers(Section):
    tensorboard: bool
    wandb: WandB | None
    extra: list[LoggerTarget] = Field([])  # further Lightning loggers
