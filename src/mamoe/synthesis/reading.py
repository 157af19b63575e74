"""Drawn pictures read back by the segmenter: what each shows of its map, and which pixels it does not show.

Twice: first every picture's losses are added up by class, then pixels whose loss exceeds so many times the mean of
their class become void (Yang et al., "FreeMask", 2023, section 3.3), and pictures that show too little of their map are
dropped. Losses of single pixels are computed again rather than kept.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float64

from mamoe.data.reading.pictures import read_picture
from mamoe.errors import DatasetError
from mamoe.evaluation.layout.asked import Classes
from mamoe.models.segmenter import Segmenter
from mamoe.prepare.job import Records, file_stamp, made_folder
from mamoe.prepare.labelled import MANNER, Labelled
from mamoe.prepare.record import json_of
from mamoe.synthesis.layouts import prompts_of
from mamoe.synthesis.survey import mean_losses, sums_by_class
from mamoe.vocabulary.panoptic import PanopticMap, read_panoptic

READINGS = "readings.json"


@dataclass(frozen=True, kw_only=True, slots=True)
class Verdict:
    """What the segmenter sees of a picture's map."""

    losses: Sequence[float]  # sum over the pixels of every class number
    pixels: Sequence[int]  # of every class number
    right: int  # pixels read as their class

    @property
    def agreement(self) -> float:
        """Share of the labelled pixels read as their class; 0 where there are none."""
        return self.right / total if (total := sum(self.pixels)) else 0.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Rules:
    """What is kept."""

    tolerance: float = 1.25  # times the mean loss of its class, above which a pixel becomes void
    floor: float = 0.5  # share of a picture's labelled pixels that must be read as their class


@dataclass(frozen=True, kw_only=True, slots=True)
class _Task:
    key: str
    picture: Path
    panoptic: Path


def read_back(
    folder: Path,
    names: Sequence[str],
    drawn: Path,
    maps: Path,
    reader: tuple[Segmenter, Classes, str],
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Verdict]:
    """The verdict on every picture; kept in ``folder``, which grows picture by picture.

    Args:
        folder: is made, or read if it is of the same pictures.
        names: of pictures and maps, without endings.
        drawn: where the pictures are.
        maps: where their maps are.
        reader: the network, its classes, and what it was learned from.
        progress: called with (pictures done, pictures in all).

    Raises:
        DatasetError: a picture or map cannot be read.
    """
    segmenter, classes, learned_from = reader
    tasks = [_Task(key=name, picture=drawn / f"{name}.png", panoptic=maps / f"{name}.png") for name in names]
    identity = [learned_from, *(f"{file_stamp(t.picture)} {file_stamp(t.panoptic)}" for t in tasks)]
    if not folder.is_dir():
        run = partial(_judge_all, segmenter, classes)
        made_folder(folder, identity, tasks, run, _finish, manner=MANNER, progress=progress)
    try:
        rows = json.loads((folder / READINGS).read_text(encoding="utf-8"))
        return {name: Verdict(**rows[name]) for name in names}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DatasetError(f"Cannot read {folder / READINGS}: {error!r}. Remove {folder} and start again.") from None


def judged(picture: np.ndarray, panoptic: PanopticMap, segmenter: Segmenter, classes: Classes) -> Verdict:
    """The verdict on one picture, u8 [H W 3], of its map's size."""
    wanted = classes.numbers(panoptic)
    losses, read = segmenter.losses(picture, wanted)
    total, pixels = sums_by_class(losses, wanted, len(classes))
    return Verdict(
        losses=[float(value) for value in total],
        pixels=[int(value) for value in pixels],
        right=int((read == wanted).sum()),
    )


def class_means(verdicts: Mapping[str, Verdict]) -> Float64[np.ndarray, "K"]:
    """Mean loss of every class over all pictures, added up in the order of their names."""
    ordered = [verdicts[name] for name in sorted(verdicts)]
    sums = np.array([[one.losses, one.pixels] for one in ordered], dtype=np.float64).sum(axis=0)
    return mean_losses(sums)


def too_wrong(
    losses: np.ndarray, wanted: np.ndarray, means: Float64[np.ndarray, "K"], tolerance: float
) -> Bool[np.ndarray, "H W"]:
    """Pixels whose loss exceeds ``tolerance`` times the mean of their class; void never does."""
    limits = np.full(256, np.inf)
    limits[: len(means)] = tolerance * means
    return losses > limits[wanted]


def cleaned(panoptic: PanopticMap, wrong: Bool[np.ndarray, "H W"], void_id: int) -> PanopticMap:
    """The map with the pixels of ``wrong`` void and without a segment."""
    return PanopticMap(
        segment_id=np.where(wrong, np.int32(0), panoptic.segment_id),
        class_id=np.where(wrong, np.uint8(void_id), panoptic.class_id),
    )


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Cleaning:
    """What pixels are cleaned by."""

    segmenter: Segmenter = field(repr=False)  # what it was learned from stands for it
    learned_from: str
    classes: Classes
    void_id: int
    means: Sequence[float]  # loss of every class number
    tolerance: float


def labelled(cleaning: Cleaning, picture: Path, panoptic: Path, row: Mapping[str, Any]) -> Labelled:
    """What the set is to hold of a drawn picture: its map, cleaned, and what it was drawn from.

    Args:
        cleaning: by what.
        picture: its file.
        panoptic: the map it was drawn of.
        row: what :func:`mamoe.synthesis.layouts.read_layouts` says of it.

    Raises:
        DatasetError: a file cannot be read.
    """
    layout = read_panoptic(panoptic)
    wanted = cleaning.classes.numbers(layout)
    losses, _ = cleaning.segmenter.losses(read_picture(picture), wanted)
    wrong = too_wrong(losses, wanted, np.array(cleaning.means), cleaning.tolerance)
    kept = cleaned(layout, wrong, cleaning.void_id)
    return Labelled(
        panoptic=kept,
        groups=frozenset(row["groups"]) & kept.classes.keys(),
        prompts=prompts_of(row),
        details={"voided": int(wrong.sum()), "labelled": int((wanted < len(cleaning.classes)).sum())},
    )


def _judge_all(
    segmenter: Segmenter, classes: Classes, stage: Path, tasks: Sequence[_Task]
) -> list[dict[str, Any] | str]:
    return [_judge(segmenter, classes, task) for task in tasks]


def _judge(segmenter: Segmenter, classes: Classes, task: _Task) -> dict[str, Any] | str:
    try:
        verdict = judged(read_picture(task.picture), read_panoptic(task.panoptic), segmenter, classes)
    except DatasetError as error:
        return str(error)
    return {"losses": verdict.losses, "pixels": verdict.pixels, "right": verdict.right}


def _finish(stage: Path, records: Records) -> None:
    (stage / READINGS).write_text(json_of(dict(sorted(records.items()))), encoding="utf-8")
