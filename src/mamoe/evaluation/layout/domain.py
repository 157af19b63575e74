"""The `domain` segmenter: learned once from a data set's own training split and kept beside the data.

Beside the weights stands what they were learned from (hash of pictures, maps and settings), and the colours of words. A
manifest of other data, or weights that do not match it, and the network is learned again. Nobody can read a store
half-written: weights and manifest are replaced whole, the manifest last and with the weights' hash.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float64, UInt8

from mamoe.data.reading.pictures import SUFFIXES
from mamoe.evaluation.layout.asked import Classes, Layout
from mamoe.evaluation.layout.attributes import fit_vocabulary, named_colours
from mamoe.evaluation.layout.panoptic_quality import Reading
from mamoe.evaluation.protocol import picture_hash
from mamoe.models.segmenter import MULTIPLE, Segmenter, train_segmenter
from mamoe.models.segmenter_files import read_segmenter, write_segmenter
from mamoe.prepare.annotations import connected_components
from mamoe.storage.hashing import file_hash

MOST_PICTURES = 1000  # of the training split, spread evenly; more make it slower, hardly better
_VERSION = 1  # of what is learned from the same data


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Domain:
    """What the training split teaches: its classes, and the colours of words."""

    segmenter: Segmenter
    classes: Classes
    vocabulary: Mapping[str, Float64[np.ndarray, "3"]]  # colour word -> mean RGB; empty where fewer than two are named
    learned_from: str  # hash

    @property
    def identity(self) -> str:
        """For protocols."""
        return f"domain segmenter learned from {self.learned_from}"

    def read(self, images: Sequence[UInt8[np.ndarray, "_ _ 3"]]) -> list[Reading]:
        """Classes, and the connected areas of every thing class as its instances."""
        return [
            Reading(
                labels=labels,
                class_id=labels,
                segment_id=connected_components(labels, sorted(self.classes.things)),
            )
            for labels in self.segmenter.predict(images)
        ]


def domain_of(
    store: Path,
    *,
    learned_from: str,
    examples: Callable[[], Iterable[tuple[np.ndarray, Layout]]],
    classes: Classes,
    words: Sequence[str],
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> Domain:
    """The domain segmenter in ``store``; learned anew when it is not there, damaged, or of other data.

    Args:
        store: a folder; made if needed.
        learned_from: hash of the training pictures and maps and of what is done to them; see :func:`data_hash`.
        examples: the training pictures u8 [H W 3] with their layouts; called only when there is something to learn.
        classes: of the data set.
        words: colour words to look for in instance prompts.
        seed: of the network.
        progress: called with (steps done, steps in all).

    Raises:
        ValueError: the pictures are smaller than the network's coarsest cell.
        OSError: the store cannot be written.
    """
    about = {"version": _VERSION, "learned_from": learned_from, "seed": seed, "classes": list(classes.names)}
    kept = _kept(store, about)
    if kept is None:
        images, layouts = _stacked(list(examples()))
        network = train_segmenter(
            images,
            np.stack([classes.numbers(layout.panoptic) for layout in layouts]),
            num_classes=len(classes),
            seed=seed,
            progress=progress,
        )
        write_segmenter(store, network, {**about, "vocabulary": _vocabulary(list(images), layouts, words)})
        kept = _kept(store, about)
        assert kept is not None, f"{store} was written and cannot be read"
    network, manifest = kept
    vocabulary = {word: np.array(colour) for word, colour in manifest["vocabulary"].items()}
    return Domain(segmenter=network, classes=classes, vocabulary=vocabulary, learned_from=learned_from)


def data_hash(files: Iterable[Path], *how: str) -> str:
    """Sixteen hex digits for files (names and contents, in order) and what is done to them."""
    digest = hashlib.sha256("\n".join(how).encode())
    for path in files:
        content = picture_hash(path) if path.suffix.lower() in SUFFIXES else file_hash(path)
        digest.update(f"\n{path.name} {content}".encode())
    return digest.hexdigest()[:16]


def _vocabulary(images: list[np.ndarray], layouts: Sequence[Layout], words: Sequence[str]) -> dict[str, list[float]]:
    colours = [named_colours(layout.prompts, words) for layout in layouts]
    try:
        fitted = fit_vocabulary(images, [layout.panoptic for layout in layouts], colours)
    except ValueError:  # fewer than two words: there is nothing to tell apart
        return {}
    return {word: colour.tolist() for word, colour in fitted.items()}


def _stacked(examples: Sequence[tuple[np.ndarray, Layout]]) -> tuple[np.ndarray, list[Layout]]:
    """All pictures and maps cut at their centres to the largest size all have that the network takes."""
    if not examples:
        raise ValueError("The domain segmenter needs training pictures, got none.")
    sides = [min(image.shape[axis] for image, _ in examples) // MULTIPLE * MULTIPLE for axis in (0, 1)]
    if not all(sides):
        raise ValueError(f"The domain segmenter needs pictures of at least {MULTIPLE}x{MULTIPLE} pixels.")
    images, layouts = [], []
    for image, layout in examples:
        cut = tuple(
            slice((image.shape[axis] - side) // 2, (image.shape[axis] - side) // 2 + side)
            for axis, side in enumerate(sides)
        )
        panoptic = type(layout.panoptic)(
            segment_id=layout.panoptic.segment_id[cut], class_id=layout.panoptic.class_id[cut]
        )
        images.append(image[cut])
        layouts.append(Layout(panoptic=panoptic, prompts=layout.prompts))
    return np.stack(images), layouts


def _kept(store: Path, about: Mapping[str, Any]) -> tuple[Segmenter, dict[str, Any]] | None:
    """What was learned from the same data; None: it is to be learned."""
    kept = read_segmenter(store)
    if kept is None or any(kept[1].get(key) != value for key, value in about.items()) or "vocabulary" not in kept[1]:
        return None
    return kept
