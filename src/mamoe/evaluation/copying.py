"""Does the model copy its training pictures? Nearest training neighbours in feature space.

Held-out real pictures say how near a picture comes to the training set without having seen it. A generated picture is
called a copy when it is nearer than the nearest 5 % of those; real pictures reach 5 %, a model that repeats its
training set 100 %. Comparing both distances to the training set is the idea of Meehan et al. 2020 (arXiv 2004.05675);
the quantile makes it a rate.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float64, Int64
from PIL import Image, ImageDraw
from torch import Tensor

from mamoe.data.reading.pictures import read_picture
from mamoe.evaluation.distances.family import Measured
from mamoe.evaluation.distances.manifolds import squared_distances
from mamoe.evaluation.features.store import Features
from mamoe.evaluation.intervals import Layouts, interval_of_mean
from mamoe.evaluation.protocol import Better
from mamoe.vocabulary.selection import spread

COPY_QUANTILE = 0.05
LEAST = 20  # held-out pictures; with fewer the quantile is one picture's chance
PAIRS = 10
COPY_RATE, COPY_GAP = "copy rate", "copy gap"
METHODS = {
    COPY_RATE: f"share nearer to training than the {COPY_QUANTILE:.0%} quantile of real held-out pictures",
    COPY_GAP: "mean of (distance to held-out - distance to as many training pictures), over the real median distance",
}
BETTER = Better.LOWER
_THUMBNAIL, _LINE, _GAP = 256, 16, 4  # pixels


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Copying:
    """What the neighbours of some pictures say."""

    distances: Float64[Tensor, "n"]  # of every picture to its nearest training picture
    neighbours: Int64[Tensor, "n"]  # which that is
    threshold: float  # the 5 % quantile of real held-out pictures
    rate: Measured
    gap: Measured


def copying(
    pictures: Features, train: Features, held_out: Features, *, seed: int = 0, layouts: Layouts = None
) -> Copying:
    """Look up every picture's nearest training picture, and set the distances against those of held-out pictures.

    The gap takes as many training pictures as there are held-out ones, spread evenly: more would be nearer by number
    alone. It is above 0 where pictures are nearer to training than to held-out pictures.

    Args:
        pictures: features of the pictures.
        train: of the training pictures.
        held_out: of real pictures the model was not trained on.
        seed: of the intervals.
        layouts: of ``pictures``.

    Raises:
        ValueError: the features come from different extractors.
    """
    pictures.fits(train)
    held_out.fits(train)
    distances, neighbours = nearest(pictures.values, train.values)
    real, _ = nearest(held_out.values, train.values)
    threshold = float(torch.quantile(real, COPY_QUANTILE))
    equal = min(len(train.values), len(held_out.values))
    to_train, _ = nearest(pictures.values, _spread(train.values, equal))
    to_held_out, _ = nearest(pictures.values, _spread(held_out.values, equal))
    unit = float(real.median())
    if len(real) < LEAST or unit == 0:
        why = f"wants {LEAST} held-out pictures, got {len(real)}"
        why = why if len(real) < LEAST else "half of the held-out pictures are training pictures too"
        rate = gap = Measured(value=None, missing=why)
    else:
        rate = _mean((distances < threshold).double(), seed, layouts)
        gap = _mean((to_held_out - to_train) / unit, seed, layouts)
    return Copying(distances=distances, neighbours=neighbours, threshold=threshold, rate=rate, gap=gap)


def nearest(x: Tensor, y: Tensor) -> tuple[Float64[Tensor, "n"], Int64[Tensor, "n"]]:
    """The distance of every row of x to its nearest row of y, and which that is."""
    found = [squared.min(dim=1) for squared in squared_distances(x.double(), y.double())]
    return torch.cat([f.values for f in found]).sqrt(), torch.cat([f.indices for f in found])


def copy_sheet(found: Copying, pictures: Sequence[Path], train: Sequence[Path], pairs: int = PAIRS) -> Image.Image:
    """The closest pairs, closest first: the picture, its nearest training picture, and the distance in thresholds."""
    closest = found.distances.argsort(stable=True)[:pairs].tolist()
    cells = []
    for i in closest:
        left, right = _thumbnail(pictures[i]), _thumbnail(train[int(found.neighbours[i])])
        cell = Image.new("RGB", (left.width + right.width + _GAP, max(left.height, right.height) + _LINE), "white")
        cell.paste(left, (0, _LINE))
        cell.paste(right, (left.width + _GAP, _LINE))
        how_near = float(found.distances[i]) / found.threshold if found.threshold else float("inf")
        words = f"{pictures[i].name} | {train[int(found.neighbours[i])].name}: {how_near:.2f} of the threshold"
        ImageDraw.Draw(cell).text((2, 1), words, fill="black")
        cells.append(cell)
    width, height = max(cell.width for cell in cells), max(cell.height for cell in cells)
    columns = 2
    rows = -(-len(cells) // columns)
    sheet = Image.new("RGB", (columns * (width + _GAP), rows * (height + _GAP)), "white")
    for place, cell in enumerate(cells):
        sheet.paste(cell, (place % columns * (width + _GAP), place // columns * (height + _GAP)))
    return sheet


def _mean(values: Float64[Tensor, "n"], seed: int, layouts: Layouts) -> Measured:
    return Measured(value=float(values.mean()), interval=interval_of_mean(values, seed=seed, layouts=layouts))


def _spread(features: Tensor, count: int) -> Tensor:
    return features[list(spread(range(len(features)), count))]


def _thumbnail(path: Path) -> Image.Image:
    small = Image.fromarray(read_picture(path))
    small.thumbnail((_THUMBNAIL, _THUMBNAIL))
    return small
