"""What is left of classes and instances where the model works: in latent cells, level by level; the load of experts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int32, Int64, UInt8

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


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class MapCells:
    """Whose the latent cells of one map are: the class or expert with most of a cell has it."""

    of_class: Int64[np.ndarray, "4 256"]  # cells, by level
    of_expert: Mapping[str, Int64[np.ndarray, "_"]]  # cells of the finest level, by grouping

    @property
    def finest(self) -> int:
        """Cells of the finest level."""
        return int(self.of_class[0].sum())


class CellCounter:
    """Counts the cells of one map after another; several threads may do so at once.

    Args:
        taxonomy: whose groupings to look at.
    """

    def __init__(self, taxonomy: Taxonomy) -> None:
        things = [THINGS] if any(row.is_thing for row in taxonomy.classes) else []
        names = dict.fromkeys([*things, *taxonomy.groupings, PER_CLASS])
        self.groupings: Mapping[str, ExpertGrouping] = {name: taxonomy.grouping(name) for name in names}

    def count(
        self, class_id: UInt8[np.ndarray, "H W"], classes: UInt8[np.ndarray, "K"], size: tuple[int, int]
    ) -> MapCells:
        """The cells of a map trained at ``size``, of 4x4 samples each. Most cells are of one class; the others alone
        are counted out.

        Args:
            class_id: of every pixel.
            classes: that occur in it, ascending.
            size: (H, W) at which it is trained, 8 at least.
        """
        height, width = size[0] // 8, size[1] // 8
        samples = _sampled(class_id, height * 4, width * 4).reshape(height, 4, width, 4)
        tops, lows = _extremes(samples)
        mixed = np.flatnonzero(tops != lows)
        of_mixed = _counts(samples, mixed, classes)
        plain = np.delete(lows.ravel(), mixed)
        plain_of_class = np.bincount(plain, minlength=256)
        of_class = np.zeros((LEVELS, 256), dtype=np.int64)
        of_class[0] = plain_of_class + np.bincount(classes[_largest(of_mixed)], minlength=256)
        level = (classes[:, None, None] == lows) * np.int32(16)
        level.reshape(len(classes), -1)[:, mixed] = of_mixed
        for number in range(1, LEVELS):
            level = _pooled(level)
            of_class[number] = np.bincount(classes[_largest(level)].ravel(), minlength=256)
        of_expert = {
            name: _of_expert(grouping, plain_of_class, of_mixed, classes) for name, grouping in self.groupings.items()
        }
        return MapCells(of_class=of_class, of_expert=of_expert)


class CellCounts:
    """Sums over all pairs; nothing grows with their number."""

    def __init__(self) -> None:
        self.of_class: Int64[np.ndarray, "4 256"] = np.zeros((LEVELS, 256), dtype=np.int64)
        self.vanishing: Int64[np.ndarray, "4 256"] = np.zeros((LEVELS, 256), dtype=np.int64)  # instances, by class
        self._of_expert: dict[str, Int64[np.ndarray, "_"]] = {}

    def add_cells(self, cells: MapCells) -> None:
        """Take in a map."""
        self.of_class += cells.of_class
        for name, counts in cells.of_expert.items():
            self._of_expert[name] = self._of_expert.get(name, 0) + counts

    def add_instances(self, areas: Mapping[int, tuple[int, float]]) -> None:
        """Take in the segments of things: segment -> (class, pixels at the size of training).

        One with less than half a cell wins none: it is counted as vanishing at that level and all coarser ones.
        """
        for klass, area in areas.values():
            for number in range(LEVELS):
                self.vanishing[number, klass] += area < (8 << number) ** 2 / 2

    def loads(self, groupings: Mapping[str, ExpertGrouping]) -> list[GroupingLoad]:
        """The load of every grouping, the most balanced first."""
        found = []
        for name, grouping in groupings.items():
            counts = self._of_expert.get(name, np.zeros(grouping.num_experts, dtype=np.int64))
            share = tuple((counts / max(1, counts.sum())).tolist())
            found.append(GroupingLoad(name=name, experts=grouping.names, share=share))
        return sorted(found, key=lambda load: -load.balance)

    def shares(self) -> Float[np.ndarray, "4 256"]:
        """Share of every class in the cells of every level."""
        return self.of_class / np.maximum(1, self.of_class.sum(axis=1, keepdims=True))


def _sampled(class_id: UInt8[np.ndarray, "H W"], height: int, width: int) -> UInt8[np.ndarray, "h w"]:
    """The map at a place in the middle of each of height x width patches."""
    down, right = class_id.shape[0] / height, class_id.shape[1] / width
    if down.is_integer() and right.is_integer():  # the same places, without a table of them
        return class_id[int(down) // 2 :: int(down), int(right) // 2 :: int(right)]
    rows, columns = (((np.arange(n) + 0.5) * step).astype(np.intp) for n, step in ((height, down), (width, right)))
    return class_id[rows].take(columns, axis=1)


def _extremes(
    samples: UInt8[np.ndarray, "h 4 w 4"],
) -> tuple[UInt8[np.ndarray, "h w"], UInt8[np.ndarray, "h w"]]:
    """The largest and the smallest class of every cell; numpy's own reductions are slow along four values."""
    found = []
    for pick in (np.maximum, np.minimum):
        rows = pick(pick(samples[:, 0], samples[:, 1]), pick(samples[:, 2], samples[:, 3]))
        found.append(pick(pick(rows[..., 0], rows[..., 1]), pick(rows[..., 2], rows[..., 3])))
    return found[0], found[1]


def _counts(
    samples: UInt8[np.ndarray, "h 4 w 4"], cells: Int64[np.ndarray, "M"], classes: UInt8[np.ndarray, "K"]
) -> Int32[np.ndarray, "K M"]:
    """Samples of every class in some of the cells."""
    number = np.zeros(256, dtype=np.intp)
    number[classes] = np.arange(len(classes)) * len(cells)
    rows, columns = np.divmod(cells, samples.shape[2])
    places = number[samples[rows, :, columns]] + np.arange(len(cells))[:, None, None]
    counts = np.bincount(places.ravel(), minlength=len(classes) * len(cells))
    return counts.astype(np.int32).reshape(len(classes), len(cells))


def _of_expert(
    grouping: ExpertGrouping,
    plain_of_class: Int64[np.ndarray, "256"],
    of_mixed: Int32[np.ndarray, "K M"],
    classes: UInt8[np.ndarray, "K"],
) -> Int64[np.ndarray, "E"]:
    """Cells of every expert: those of one class, and those that several classes share."""
    found = np.zeros(grouping.num_experts, dtype=np.int64)
    np.add.at(found, grouping.expert_of_class, plain_of_class)
    expert = grouping.expert_of_class[classes].tolist()
    # As the hard routing does: of equal shares the lowest expert wins, but the rest loses to all.
    order = sorted(set(expert), key=lambda e: (e == 0, e))
    share = np.zeros((len(order), of_mixed.shape[1]), dtype=np.int32)
    for row, e in enumerate(expert):
        share[order.index(e)] += of_mixed[row]
    return found + np.bincount(np.array(order)[_largest(share)], minlength=grouping.num_experts)


def _largest(values: Int32[np.ndarray, "K *n"]) -> Int32[np.ndarray, "*n"]:
    """The first of the largest along the first axis, of at most 256.

    Its place stands in the low byte of what the maximum is taken of: argmax is several times slower across a distance.
    """
    last = len(values) - 1
    places = np.arange(last, -1, -1, dtype=np.int32).reshape(-1, *(1 for _ in values.shape[1:]))
    placed = (values << 8) + places
    return last - (placed.max(axis=0) & 255)


def _pooled(level: Int32[np.ndarray, "K h w"]) -> Int32[np.ndarray, "K _ _"]:
    """Sums of up to 2x2 cells; at an odd size the last row and column pool what is there."""
    height, width = level.shape[1:]
    if height % 2 or width % 2:
        level = np.pad(level, ((0, 0), (0, height % 2), (0, width % 2)))
    rows = level[:, ::2] + level[:, 1::2]
    return rows[..., ::2] + rows[..., 1::2]
