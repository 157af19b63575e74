"""The two scores of the demo: do the pictures show the colours and the layout they were asked for?"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float64, UInt8

from mamoe.evaluation.layout.attributes import Colours, HitRate, caption_chance, colour_hits, fit_vocabulary
from mamoe.evaluation.layout.confusion import confusion, pixel_accuracy
from mamoe.evaluation.layout.segmenter import Segmenter, train_segmenter
from mamoe.vocabulary.panoptic import PanopticMap

Images = Sequence[UInt8[np.ndarray, "_ _ 3"]]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Judges:
    """What generated pictures are measured with, learned from real training pictures alone."""

    vocabulary: Mapping[str, Float64[np.ndarray, "3"]]  # colour word -> mean RGB
    segmenter: Segmenter
    num_classes: int


@dataclass(frozen=True, kw_only=True, slots=True)
class DemoScores:
    """Colour hits of four kinds of pictures of the same test layouts, and pixel accuracy of two."""

    real: HitRate
    mamoe: HitRate
    swapped: HitRate  # drawn with, and measured against, swapped colours
    base: HitRate  # the base model, told the prompt but no layout
    chance: float  # 1 / number of colour words
    caption_chance: float  # of one who knows the caption's colours but not what wears them: the base model's yardstick
    accuracy_real: float  # of the segmenter, on real test pictures
    accuracy_mamoe: float

    @property
    def colour_share(self) -> float:
        """MaMoE's hit rate as a share of the real pictures'."""
        return self.mamoe.rate / self.real.rate

    @property
    def swapped_share(self) -> float:
        """The hit rate with swapped prompts as a share of the real pictures'."""
        return self.swapped.rate / self.real.rate

    @property
    def layout_share(self) -> float:
        """The segmenter's accuracy on MaMoE's pictures as a share of that on real ones."""
        return self.accuracy_mamoe / self.accuracy_real

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers for the demo's last line."""
        rates = {name: getattr(self, name) for name in ("real", "mamoe", "swapped", "base")}
        return {
            **{f"colour_{name}": round(rate.rate, 4) for name, rate in rates.items()},
            "colour_instances": self.real.n,
            "colour_chance": round(self.chance, 4),
            "colour_caption_chance": round(self.caption_chance, 4),
            "colour_mamoe_to_real": round(self.colour_share, 4),
            "colour_swapped_to_real": round(self.swapped_share, 4),
            "layout_accuracy_real": round(self.accuracy_real, 4),
            "layout_accuracy_mamoe": round(self.accuracy_mamoe, 4),
            "layout_mamoe_to_real": round(self.layout_share, 4),
        }


def fit_judges(
    images: Images,
    maps: Sequence[PanopticMap],
    colours: Sequence[Colours],
    *,
    num_classes: int,
    seed: int,
    progress: Callable[[int, int], None] | None = None,
) -> Judges:
    """Learn the vocabulary and the segmenter from real training pictures, all of one size.

    Args:
        images: pictures u8.
        maps: their panoptic maps.
        colours: per picture, segment id -> colour word.
        num_classes: class ids from this on are void.
        seed: of the segmenter.
        progress: called with (steps done, steps in all) of the segmenter.
    """
    vocabulary = fit_vocabulary(images, maps, colours)
    segmenter = train_segmenter(
        np.stack(list(images)),
        np.stack([panoptic.class_id for panoptic in maps]),
        num_classes=num_classes,
        seed=seed,
        progress=progress,
    )
    return Judges(vocabulary=vocabulary, segmenter=segmenter, num_classes=num_classes)


def score(
    judges: Judges,
    maps: Sequence[PanopticMap],
    colours: Sequence[Colours],
    swapped_colours: Sequence[Colours],
    captions: Sequence[str],
    *,
    real: Images,
    mamoe: Images,
    swapped: Images,
    base: Images,
) -> DemoScores:
    """Measure four pictures of every test layout.

    Args:
        judges: from :func:`fit_judges`.
        maps: the test layouts.
        colours: per layout, segment id -> the colour word of its prompt.
        swapped_colours: the same after the swap.
        captions: the prompts of the layouts, before the swap.
        real: the real test pictures u8.
        mamoe: drawn from layouts and prompts.
        swapped: drawn from layouts and swapped prompts.
        base: drawn by the base model without layout.

    Raises:
        ValueError: the lists differ in length, or pictures and maps in size.
    """

    def hits(images: Images, asked: Sequence[Colours]) -> HitRate:
        return colour_hits(images, maps, asked, judges.vocabulary)

    def accuracy(images: Images) -> float:
        classes = [panoptic.class_id for panoptic in maps]
        return pixel_accuracy(confusion(judges.segmenter.predict(images), classes, judges.num_classes))

    return DemoScores(
        real=hits(real, colours),
        mamoe=hits(mamoe, colours),
        swapped=hits(swapped, swapped_colours),
        base=hits(base, colours),
        chance=1 / len(judges.vocabulary),
        caption_chance=caption_chance(maps, colours, captions, judges.vocabulary),
        accuracy_real=accuracy(real),
        accuracy_mamoe=accuracy(mamoe),
    )
