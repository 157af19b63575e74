"""What an evaluation is asked for, as the command line and the benchmark say it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from mamoe.vocabulary.drawing import Mode

Progress = Callable[[int, int], None]


@dataclass(frozen=True, kw_only=True, slots=True)
class Asked:
    """What is asked for, besides what is evaluated."""

    against: Path | None = None  # folder of real pictures; None: the run's split, or that of ``data``
    train: Path | None = None  # folder of training pictures; None: the run's, that of ``data``, or unknown
    data: Path | None = None  # the data set the layouts are from; None: the run's, or unknown
    base: str | None = None  # of a run: its base model's place; None: as the run says
    checkpoint: str = "latest"  # of a run
    modes: tuple[Mode, ...] = tuple(Mode)  # a run is drawn in each of them
    taxonomy: str | None = None  # of ``data``, where it does not say it
    instance_prompts: Path | None = None  # JSON the pictures were drawn with; None: what ``data`` says
    split: str = "test"  # of the run's data, or of ``data``
    autoencoder: str | None = None  # base model; None: the run's, or none
    scores: tuple[str, ...] | None = None  # None: all of features, and of layouts where the maps are known
    segmenters: tuple[str, ...] = ("domain",)  # that, or networks of transformers
    clip: str | None = None  # a CLIP model for the agreement of instances with their prompts
    extractors: tuple[str, ...] = ("inception",)  # NAME or NAME=PATH
    size: tuple[int, int] | None = None  # (H, W) every picture of a folder is brought to
    out: Path | None = None
    cache: Path | None = None
    recursive: bool = False  # folders of pictures hold folders, which are looked into
    images: int | None = None  # at most so many, spread evenly; None: all
    seed: int = 0
    device: str = "cpu"
