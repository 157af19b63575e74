"""What a picture was asked to show, as the layout scores read it: class numbers, segments, prompts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import UInt8

from mamoe.evaluation.layout.panoptic_quality import VOID
from mamoe.vocabulary.panoptic import PanopticMap
from mamoe.vocabulary.taxonomy import Taxonomy


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Layout:
    """A map at its picture's size, with the instance prompts of its segments."""

    panoptic: PanopticMap
    prompts: Mapping[int, str]  # segment id -> prompt


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Classes:
    """The classes of a taxonomy by number: their places in its table. Void and what it does not know is ``VOID``."""

    names: tuple[str, ...]
    things: frozenset[int]  # numbers
    number_of_id: UInt8[np.ndarray, "256"]

    @classmethod
    def of(cls, taxonomy: Taxonomy) -> Classes:
        """The classes of ``taxonomy``.

        Raises:
            ValueError: there are more than 255.
        """
        if len(taxonomy.classes) > VOID:
            raise ValueError(f"Layout scores know at most {VOID} classes, {taxonomy.name} has {len(taxonomy.classes)}.")
        table = np.full(256, VOID, dtype=np.uint8)
        for number, row in enumerate(taxonomy.classes):
            table[row.id] = number
        things = frozenset(number for number, row in enumerate(taxonomy.classes) if row.is_thing)
        return cls(names=tuple(row.name for row in taxonomy.classes), things=things, number_of_id=table)

    def __len__(self) -> int:
        return len(self.names)

    def numbers(self, panoptic: PanopticMap) -> UInt8[np.ndarray, "H W"]:
        """The class number of every pixel of a map."""
        return self.number_of_id[panoptic.class_id]


def check_sizes(images: Sequence[np.ndarray], layouts: Sequence[Layout]) -> None:
    """Refuse pictures whose maps are of another size.

    Raises:
        ValueError: names the first ones.
    """
    wrong = [
        f"no. {i} is {image.shape[0]}x{image.shape[1]}, its map {layout.panoptic.size[0]}x{layout.panoptic.size[1]}"
        for i, (image, layout) in enumerate(zip(images, layouts, strict=True))
        if image.shape[:2] != layout.panoptic.size
    ]
    if wrong:
        raise ValueError(f"Pictures and maps differ in size (height x width): {'; '.join(wrong[:4])}.")
