"""Is a set of generated pictures of use beside the real ones? Segmenters trained on either and on both, tested on real.

The three networks of a seed begin with the same weights, take the same number of steps and are tested on the same real
pictures, so their differences are paired; intervals are over seeds. What a network has reached is kept, so that
a comparison that was stopped goes on.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float64, Int64

from mamoe.errors import DatasetError
from mamoe.evaluation.distances.family import Measured
from mamoe.evaluation.intervals import interval_over_seeds
from mamoe.evaluation.layout.asked import Classes
from mamoe.evaluation.layout.fidelity import iou, mean_iou, pixel_counts
from mamoe.evaluation.layout.rare import rare_classes
from mamoe.evaluation.protocol import Better, Protocol, hash_of_names, library_versions
from mamoe.evaluation.table import Row, Table
from mamoe.models.segmenter import MULTIPLE, Segmenter, train_segmenter
from mamoe.storage.hashing import text_hash
from mamoe.storage.staging import write_whole

REAL, SYNTHETIC, BOTH = "real", "synthetic", "both"
MIOU, RARE_MIOU = "use/mIoU", "use/mIoU of rare classes"
DIFFERENCES = ((SYNTHETIC, REAL), (BOTH, REAL))
STEPS = 720  # of each network; after the 240 that tell pictures of layouts apart, rare classes are still unknown
_BATCH = 8


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Examples:
    """Pictures of one size with their classes."""

    images: Sequence[np.ndarray]  # u8 [H W 3]
    numbers: Sequence[np.ndarray]  # u8 [H W], class numbers; VOID: none
    names: Sequence[str]
    hashed: str  # of all of it

    def __add__(self, other: Examples) -> Examples:
        return Examples(
            images=[*self.images, *other.images],
            numbers=[*self.numbers, *other.numbers],
            names=[*self.names, *other.names],
            hashed=text_hash(f"{self.hashed} {other.hashed}"),
        )


def compare_sets(
    real: Examples,
    synthetic: Examples,
    tests: Examples,
    classes: Classes,
    *,
    seeds: Sequence[int],
    store: Path,
    steps: int = STEPS,
    progress: Callable[[int, int], None] | None = None,
) -> Table:
    """Rows real, synthetic and both, and what the last two have over the first.

    Args:
        real: pictures of the training split.
        synthetic: pictures of the set.
        tests: real pictures of another split, of the same size.
        classes: of all of them.
        seeds: of the networks; two or more give intervals.
        store: folder where it is kept what the networks reach.
        steps: of each network.
        progress: called with (networks trained, networks in all).

    Raises:
        DatasetError: the pictures are of several sizes, or too small for the network.
    """
    _check_sizes([*real.images, *synthetic.images, *tests.images])
    shown = {REAL: real, SYNTHETIC: synthetic, BOTH: real + synthetic}
    sums: dict[str, list[np.ndarray]] = {kind: [] for kind in shown}
    total, done = len(seeds) * len(shown), 0
    for seed in seeds:
        for kind, examples in shown.items():
            key = text_hash(f"{examples.hashed} {tests.hashed} {steps} {seed} {classes.names}")
            sums[kind].append(_reached(store / f"{key}.json", examples, tests, classes, seed, steps))
            done += 1
            if progress is not None:
                progress(done, total)
    columns = _columns(classes, rare_classes(_pixels(real, classes)), _pixels(tests, classes) > 0)
    found = {
        kind: {name: [score(one) for one in rows] for name, score in columns.items()} for kind, rows in sums.items()
    }
    for kind, other in DIFFERENCES:
        pairs = {name: zip(found[kind][name], found[other][name], strict=True) for name in columns}
        found[f"{kind} - {other}"] = {name: [a - b for a, b in values] for name, values in pairs.items()}
    protocol = Protocol(
        name=f"domain segmenter, {steps} steps, seeds {', '.join(map(str, seeds))}; tested on real pictures",
        extractor="domain segmenter",
        preprocessing=None,
        reference=tests.hashed,
        images=hash_of_names(tests.names),
        generation=None,
        versions=library_versions(),
    )
    return Table(rows=tuple(_row(label, values, len(tests.images), protocol) for label, values in found.items()))


Column = Callable[[Float64[np.ndarray, "3 K"]], float]


def _columns(classes: Classes, rare: Sequence[int], wanted: Bool[np.ndarray, "K"]) -> dict[str, Column]:
    """The scores by name; means are over classes the test maps hold, so that they are over the same for all rows."""

    def mean_of(numbers: Sequence[int]) -> Column:
        return lambda sums: float(mean_iou(sums[:, [number for number in numbers if wanted[number]]]))

    def of_class(number: int) -> Column:
        return lambda sums: float(iou(sums)[number]) if wanted[number] else np.nan

    columns = {MIOU: mean_of(range(len(classes)))}
    if rare:
        columns[RARE_MIOU] = mean_of(rare)
    marks = {number: " (rare)" for number in rare}
    return columns | {f"use/IoU/{name}{marks.get(i, '')}": of_class(i) for i, name in enumerate(classes.names)}


def _row(label: str, values: Mapping[str, Sequence[float]], n: int, protocol: Protocol) -> Row:
    scores = []
    for name, found in values.items():
        if not np.isfinite(found).all():
            measured = Measured(value=None, missing="no pixel of it in the maps")
        else:
            measured = Measured(value=float(np.mean(found)), interval=interval_over_seeds(found))
        scores.append(measured.as_score(name, Better.HIGHER, n, protocol))
    return Row(label=label, scores=tuple(scores))


def _reached(
    kept: Path, examples: Examples, tests: Examples, classes: Classes, seed: int, steps: int
) -> Float64[np.ndarray, "3 K"]:
    """Pixels of every class read rightly, wanted and read over all test pictures."""
    try:
        found = np.array(json.loads(kept.read_text(encoding="utf-8")), dtype=np.float64)
        if found.shape == (3, len(classes)):
            return found
    except (OSError, ValueError):
        pass
    network = _taught(examples, len(classes), seed, steps)
    sums = np.zeros((3, len(classes)))
    for image, wanted in zip(tests.images, tests.numbers, strict=True):
        sums += pixel_counts(network.predict([image])[0], wanted, len(classes))
    kept.parent.mkdir(parents=True, exist_ok=True)
    write_whole(json.dumps(sums.tolist()) + "\n", kept)
    return sums


def _taught(examples: Examples, count: int, seed: int, steps: int) -> Segmenter:
    height, width = (side // MULTIPLE * MULTIPLE for side in examples.images[0].shape[:2])
    images = np.stack([image[:height, :width] for image in examples.images])
    numbers = np.stack([one[:height, :width] for one in examples.numbers])
    epochs = max(1, round(steps / -(-len(images) // _BATCH)))
    return train_segmenter(images, numbers, num_classes=count, seed=seed, epochs=epochs, batch_size=_BATCH)


def _pixels(examples: Examples, classes: Classes) -> Int64[np.ndarray, "K"]:
    """Pixels of every class number."""
    return np.stack([np.bincount(one.ravel(), minlength=256)[: len(classes)] for one in examples.numbers]).sum(axis=0)


def _check_sizes(images: Sequence[np.ndarray]) -> None:
    sizes = sorted({image.shape[:2] for image in images})
    if len(sizes) > 1:
        raise DatasetError(f"Pictures of one size are wanted, got {sizes[:4]} (H, W); bring them to one with --size.")
    if min(sizes[0]) < MULTIPLE:
        raise DatasetError(f"The segmenter needs pictures of at least {MULTIPLE}x{MULTIPLE} pixels, got {sizes[0]}.")
