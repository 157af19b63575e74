"""What is left of classes and instances where the model works: in latent cells, level by level; the load of experts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int32, Int64

from mamoe.vocabulary.taxonomy import PER_CLASS, THINGS, ExpertGrouping, Taxonomy

LEVELS = 4  # of a UNet, cells of 8, 16, 32 and 64 pixels


@dataclass(frozen=True, kw_only=True, slots=True)
class GroupingLoad:
    """How the cells of the finest level are shared out among the experts of a grouping."""

    name: str
    experts: tuple[str, ...]
    share: tuple[float, ...]  # of the cells, by expert; expert 0 is the rest

    @property
    def balance(self) -> float:
        """Between 0, one expert does it all, and 1, all do the same: the entropy over its largest value."""
        share = np.array([part for part in self.share if part > 0])
        return float(-(share * np.log(share)).sum() / np.log(max(2, len(self.share))))

    @property
    def idle(self) -> tuple[str, ...]:
        """Experts that no cell ever reaches."""
        return tuple(name for name, part in zip(self.experts, self.share, strict=True) if part == 0 and name != "rest")


class CellCounts:
    """Sums over all pairs; nothing grows with their number.

    Args:
        taxonomy: the classes, and the groupings to look at.
    """

    def __init__(self, taxonomy: Taxonomy) -> None:
        self.of_class: Int64[np.ndarray, "4 256"] = np.zeros((LEVELS, 256), dtype=np.int64)
        self.vanishing: Int64[np.ndarray, "4 256"] = np.zeros((LEVELS, 256), dtype=np.int64)  # instances, by class
        self._groupings = _groupings(taxonomy)
        self._of_expert = {name: np.zeros(g.num_experts, dtype=np.int64) for name, g in self._groupings.items()}

    def add_cells(self, cells: Int32[np.ndarray, "K h w"], classes: Int64[np.ndarray, "K"]) -> None:
        """Take in a map by its samples of every class in every cell: the class with most of a cell has it."""
        for name, counts in self._of_expert.items():
            expert = self._groupings[name].expert_of_class[classes]
            # As the hard routing does: of equal shares the lowest expert wins, but the rest loses to all.
            order = sorted(set(expert.tolist()), key=lambda e: (e == 0, e))
            share = np.zeros((len(order), *cells.shape[1:]), dtype=np.int32)
            for number, e in enumerate(expert.tolist()):
                share[order.index(e)] += cells[number]
            counts += np.bincount(np.array(order)[_largest(share)].ravel(), minlength=len(counts))
        level = cells
        for number in range(LEVELS):
            self.of_class[number] += np.bincount(classes[_largest(level)].ravel(), minlength=256)
            level = _pooled(level)

    def add_instances(self, areas: Mapping[int, tuple[int, float]]) -> None:
        """Take in the segments of things: segment -> (class, pixels at the size of training).

        One with less than half a cell wins none: it is counted as vanishing at that level and all coarser ones.
        """
        for klass, area in areas.values():
            for number in range(LEVELS):
                self.vanishing[number, klass] += area < (8 << number) ** 2 / 2

    def loads(self) -> list[GroupingLoad]:
        """The load of every grouping, the most balanced first."""
        found = [
            GroupingLoad(
                name=name,
                experts=self._groupings[name].names,
                share=tuple((counts / max(1, counts.sum())).tolist()),
            )
            for name, counts in self._of_expert.items()
        ]
        return sorted(found, key=lambda load: -load.balance)

    def shares(self) -> Float[np.ndarray, "4 256"]:
        """Share of every class in the cells of every level."""
        return self.of_class / np.maximum(1, self.of_class.sum(axis=1, keepdims=True))


def _groupings(taxonomy: Taxonomy) -> dict[str, ExpertGrouping]:
    things = [THINGS] if any(row.is_thing for row in taxonomy.classes) else []
    return {name: taxonomy.grouping(name) for name in dict.fromkeys([*things, *taxonomy.groupings, PER_CLASS])}


def _largest(values: Int32[np.ndarray, "K h w"]) -> Int32[np.ndarray, "h w"]:
    """The first of the largest along the first axis, of at most 256.

    Its place stands in the low byte of what the maximum is taken of: argmax is several times slower across a distance.
    """
    last = len(values) - 1
    placed = (values << 8) + np.arange(last, -1, -1, dtype=np.int32)[:, None, None]
    return last - (placed.max(axis=0) & 255)


def _pooled(level: Int32[np.ndarray, "K h w"]) -> Int32[np.ndarray, "K _ _"]:
    """Sums of up to 2x2 cells; at an odd size the last row and column pool what is there."""
    height, width = level.shape[1:]
    padded = np.pad(level, ((0, 0), (0, height % 2), (0, width % 2)))
    return padded[:, ::2, ::2] + padded[:, 1::2, ::2] + padded[:, ::2, 1::2] + padded[:, 1::2, 1::2]
