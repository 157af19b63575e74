"""What the maps of a data set hold, and how hard each class is for a segmenter trained on its pictures.

The loss of a class is the mean cross-entropy of its pixels, the hardness of a map the mean of its pixels' class losses
(Yang et al., "FreeMask", 2023, section 3.2). Of a map no more than a few numbers is kept.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64, Int64

from mamoe.data.dataset import LayoutDataset
from mamoe.evaluation.layout.asked import Classes
from mamoe.models.segmenter import Segmenter
from mamoe.vocabulary.panoptic import PanopticMap
from mamoe.vocabulary.prompts import RegionPrompts
from mamoe.vocabulary.sample import LATENT_CELL

_SIDES = re.compile(r"\b(left|right)(most|hand)?\b", re.IGNORECASE)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class MapFacts:
    """What the plan has to know of a map."""

    place: int  # in the data set
    key: str  # the picture's name there
    pixels: Int64[np.ndarray, "K"]  # of every class number; void is left out
    flips: bool  # no prompt speaks of left or right
    movable: tuple[tuple[int, int], ...]  # (segment, class number) of things that may be able to stand elsewhere


def facts_of(
    place: int, key: str, panoptic: PanopticMap, prompts: RegionPrompts, groups: frozenset[int], classes: Classes
) -> MapFacts:
    """The facts of one map; ``groups`` are segments that hold several things, which are not moved."""
    numbers = np.bincount(classes.numbers(panoptic).ravel(), minlength=256)[: len(classes)]
    texts = (prompts.global_prompt, *prompts.by_segment.values())
    return MapFacts(
        place=place,
        key=key,
        pixels=numbers.astype(np.int64),
        flips=not any(_SIDES.search(text) for text in texts),
        movable=_movable(panoptic, groups, classes),
    )


def survey(
    source: LayoutDataset,
    groups: Mapping[str, frozenset[int]],
    classes: Classes,
    progress: Callable[[int, int], None] | None = None,
) -> list[MapFacts]:
    """The facts of every map of a split.

    Args:
        source: the split.
        groups: segments that hold several things, by ``SPLIT/NAME``.
        classes: of the maps.
        progress: called with (maps done, maps in all).
    """
    found = []
    for place, key in enumerate(source.keys):
        sample = source[place]
        crowd = groups.get(f"{source.folder.name}/{key}", frozenset())
        found.append(facts_of(place, key, sample.panoptic, sample.prompts, crowd, classes))
        if progress is not None:
            progress(place + 1, len(source))
    return found


def class_losses(
    source: LayoutDataset,
    places: Sequence[int],
    segmenter: Segmenter,
    classes: Classes,
    progress: Callable[[int, int], None] | None = None,
) -> Float64[np.ndarray, "2 K"]:
    """Sum of the losses and number of pixels of every class over real pictures."""
    sums = np.zeros((2, len(classes)))
    for done, place in enumerate(places, start=1):
        sample = source[place]
        wanted = classes.numbers(sample.panoptic)
        losses, _ = segmenter.losses(sample.picture, wanted)
        sums += sums_by_class(losses, wanted, len(classes))
        if progress is not None:
            progress(done, len(places))
    return sums


def sums_by_class(losses: np.ndarray, wanted: np.ndarray, count: int) -> Float64[np.ndarray, "2 K"]:
    """Sum of the losses and number of pixels of every class number; void is left out."""
    flat = wanted.ravel()
    weighted = np.bincount(flat, weights=losses.ravel().astype(np.float64), minlength=256)
    return np.stack([weighted[:count], np.bincount(flat, minlength=256)[:count]])


def mean_losses(sums: Float64[np.ndarray, "2 K"]) -> Float64[np.ndarray, "K"]:
    """Mean loss of every class; of one without pixels the mean over all pixels, 0 where there are none."""
    total, pixels = sums
    overall = total.sum() / pixels.sum() if pixels.sum() else 0.0
    return np.divide(total, pixels, out=np.full(total.shape, overall), where=pixels > 0)


def hardness(facts: Sequence[MapFacts], losses: Float64[np.ndarray, "K"]) -> Float64[np.ndarray, "n"]:
    """The class losses of every map, weighted by area; 0 for a map that is void all over."""
    areas = np.array([one.pixels for one in facts], dtype=np.float64)
    whole = areas.sum(axis=1)
    return np.divide(areas @ losses, whole, out=np.zeros(len(facts)), where=whole > 0)


def _movable(panoptic: PanopticMap, groups: frozenset[int], classes: Classes) -> tuple[tuple[int, int], ...]:
    """Things of a latent cell or more, none of which the edge of the picture has cut."""
    ids = panoptic.segment_id
    areas = np.bincount(ids.ravel())
    cut = {int(i) for edge in (ids[0], ids[-1], ids[:, 0], ids[:, -1]) for i in np.unique(edge)}
    found = []
    for segment, class_id in panoptic.classes.items():
        number = int(classes.number_of_id[class_id])
        whole = segment not in cut and segment not in groups and areas[segment] >= LATENT_CELL**2
        if whole and number in classes.things:
            found.append((segment, number))
    return tuple(found)
