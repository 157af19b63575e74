"""Are the pictures of use? A segmenter trained on them is tested on real pictures (train on generated, test on real).

The layouts are parted in two halves. A network trained on pictures of one half is tested on the real pictures of the
other half, so it never met a layout it is tested on, and every real picture is tested once. All networks take the same
number of steps. The row of real pictures is the yardstick: the same with the real pictures of the same layouts.
With ``train`` pictures the same is done for real and generated together, against real training pictures alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64

from mamoe.evaluation.distances.family import Measured
from mamoe.evaluation.layout.asked import Layout
from mamoe.evaluation.layout.family import Asked
from mamoe.evaluation.layout.fidelity import class_ious, mean_iou, pixel_counts
from mamoe.evaluation.protocol import Family, PictureSet, Score
from mamoe.evaluation.ratios import measured_of_sums
from mamoe.models.segmenter import MULTIPLE, train_segmenter

STEPS = 240
LEAST = 4  # layouts
_BATCH = 8
_METHOD = f"domain segmenter, {STEPS} steps, two halves of the layouts crossed"
Images = Sequence[np.ndarray]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Real:
    """Real pictures of the layouts, and of the training split."""

    reference: PictureSet  # one real picture per layout
    train: Images  # u8 of the same size as the reference's; empty: the second comparison is left out
    train_layouts: Sequence[Layout]


def use_family(asked: Asked, real: Real, *, seed: int = 0) -> Family:
    """use/mIoU and use/IoU/<class> of networks trained on a row's pictures; use+real/… of both kinds together.

    The row of the reference itself gives the yardsticks: trained on the real pictures of the layouts, and on real
    training pictures alone.
    """
    by_name = dict(zip(real.reference.names, asked.pictures(real.reference), strict=True))

    def family(row: PictureSet) -> Sequence[Score]:
        why = asked.why_not(row) or _too_few(row)
        alone, joint = "use", "use+real"
        found: list[Score] = []
        kinds = [(alone, False), (joint, True)] if real.train else [(alone, False)]
        for name, with_train in kinds:
            if why is None:
                counts = _crossed(row, with_train)
                absent = "the maps hold no class"
                numbers = row.layout_numbers
                values = {"mIoU": measured_of_sums(counts, mean_iou, absent=absent, seed=seed, layouts=numbers)}
                values |= class_ious(counts, asked.classes, seed=seed, numbers=numbers)
            else:
                values = {key: Measured(value=None, missing=why) for key in ("mIoU", *_ious(asked))}
            method = f"{_METHOD}; trained on {'real training pictures and these' if with_train else 'these alone'}"
            found += [
                asked.score(row, f"{name}/{key}", value, method=method, extractor="domain segmenter")
                for key, value in values.items()
            ]
        return found

    def _crossed(row: PictureSet, with_train: bool) -> Float64[np.ndarray, "n 3 K"]:
        images, layouts = asked.pictures(row), asked.of(row)
        tests = [by_name[name] for name in row.layout_names]
        counts = np.zeros((len(images), 3, len(asked.classes)))
        numbers = row.layout_numbers or range(len(images))  # all pictures of a layout are in one half
        for half in (0, 1):
            learn = [i for i in range(len(images)) if numbers[i] % 2 != half]
            # The reference row without its own pictures: real training pictures alone.
            own = [] if with_train and row.label == real.reference.label else learn
            shown = [images[i] for i in own] + (list(real.train) if with_train else [])
            asked_for = [layouts[i] for i in own] + (list(real.train_layouts) if with_train else [])
            network = _taught(shown, asked_for, asked, seed + half)
            held = [i for i in range(len(images)) if numbers[i] % 2 == half]
            for i, labels in zip(held, network.predict([tests[i] for i in held]), strict=True):
                counts[i] = pixel_counts(labels, asked.classes.numbers(layouts[i].panoptic), len(asked.classes))
        return counts

    return family


def _taught(images: Images, layouts: Sequence[Layout], asked: Asked, seed: int):
    sides = [min(image.shape[axis] for image in images) // MULTIPLE * MULTIPLE for axis in (0, 1)]
    cut = tuple(slice(0, side) for side in sides)
    pixels = np.stack([image[cut] for image in images])
    classes = np.stack([asked.classes.numbers(layout.panoptic)[cut] for layout in layouts])
    steps_per_pass = -(-len(pixels) // _BATCH)
    epochs = max(1, round(STEPS / steps_per_pass))
    return train_segmenter(pixels, classes, num_classes=len(asked.classes), seed=seed, epochs=epochs, batch_size=_BATCH)


def _ious(asked: Asked) -> list[str]:
    return [f"IoU/{name}" for name in asked.classes.names]


def _too_few(row: PictureSet) -> str | None:
    different = len(set(row.layout_names))
    return f"wants {LEAST} layouts, got {different}" if different < LEAST else None
