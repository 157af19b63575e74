"""Layouts made of others: mirrored, or with an instance of another map where the ground allows.

An instance keeps its height in the picture, and with it its distance and size, and moves sideways alone. It may stand
where what is under its lowest pixels is the class that was under them in its own map, and where it covers no other
instance and no void.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Bool, Int

from mamoe.vocabulary.panoptic import MAX_SEGMENT_ID, PanopticMap
from mamoe.vocabulary.prompts import RegionPrompts
from mamoe.vocabulary.taxonomy import Taxonomy

_FOOT = 0.1  # of an instance's height: its lowest pixels, those it stands on


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Scene:
    """A map with what is said of its segments."""

    panoptic: PanopticMap
    prompts: RegionPrompts
    groups: frozenset[int] = frozenset()  # segments that hold several things


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Cutout:
    """An instance taken out of its map."""

    mask: Bool[np.ndarray, "H W"]
    class_id: int
    prompt: str | None
    under: tuple[Int[np.ndarray, "n"], Int[np.ndarray, "n"]]  # rows and columns of the pixels right under its foot
    ground: int  # class id of most of them


def mirrored(scene: Scene) -> Scene:
    """The scene with left and right exchanged; segments keep their ids."""
    ids, classes = scene.panoptic.segment_id, scene.panoptic.class_id
    turned = PanopticMap(segment_id=np.ascontiguousarray(ids[:, ::-1]), class_id=np.ascontiguousarray(classes[:, ::-1]))
    return replace(scene, panoptic=turned)


def cut_out(scene: Scene, segment: int, taxonomy: Taxonomy) -> Cutout | None:
    """An instance of the scene; None: it stands on no stuff of one class, so nobody knows where else it could stand.

    Args:
        scene: whose.
        segment: which; it does not touch the lower edge.
        taxonomy: of the scene.
    """
    mask = scene.panoptic.segment_id == segment
    rows, columns = _under(mask)
    below = scene.panoptic.class_id[rows, columns]
    if not len(below):
        return None
    ids, counts = np.unique(below, return_counts=True)
    ground = int(ids[counts.argmax()])
    if counts.max() <= len(below) / 2 or ground == taxonomy.void_id or taxonomy.is_thing(ground):
        return None
    return Cutout(
        mask=mask,
        class_id=int(scene.panoptic.class_of_segment[segment]),
        prompt=scene.prompts.by_segment.get(segment),
        under=(rows, columns),
        ground=ground,
    )


def shifts_of(cutout: Cutout) -> range:
    """How far, in pixels, an instance can move to the left (negative) and to the right without being cut."""
    columns = np.flatnonzero(cutout.mask.any(axis=0))
    return range(-int(columns[0]), cutout.mask.shape[1] - int(columns[-1]))


def pasted(scene: Scene, cutout: Cutout, shift: int, taxonomy: Taxonomy) -> tuple[Scene, int] | None:
    """The scene with an instance more, and the instance's segment id there; None: it cannot stand there.

    Args:
        scene: of the size of the instance's own map.
        cutout: the instance.
        shift: one of :func:`shifts_of`.
        taxonomy: of both.
    """
    panoptic = scene.panoptic
    mask = np.roll(cutout.mask, shift, axis=1)
    rows, columns = cutout.under
    stuff = _stuff_ids(taxonomy)
    covered, below = panoptic.class_id[mask], panoptic.class_id[rows, columns + shift]
    segment = len(panoptic.class_of_segment)
    if segment > MAX_SEGMENT_ID or not stuff[covered].all() or (below != cutout.ground).any():
        return None
    together = PanopticMap(
        segment_id=np.where(mask, np.int32(segment), panoptic.segment_id),
        class_id=np.where(mask, np.uint8(cutout.class_id), panoptic.class_id),
    )
    kept: Mapping[int, str] = scene.prompts.by_segment
    if cutout.prompt is not None:
        kept = {**kept, segment: cutout.prompt}
    visible = {i: text for i, text in kept.items() if i in together.classes}
    return replace(scene, panoptic=together, prompts=replace(scene.prompts, by_segment=visible)), segment


def _under(mask: Bool[np.ndarray, "H W"]) -> tuple[np.ndarray, np.ndarray]:
    """Rows and columns of the pixels right under the lowest pixels of ``mask``."""
    rows = np.flatnonzero(mask.any(axis=1))
    columns = np.flatnonzero(mask.any(axis=0))
    lowest = mask.shape[0] - 1 - mask[::-1, columns].argmax(axis=0)
    foot = lowest >= rows[-1] - _FOOT * len(rows)
    below = lowest[foot] + 1
    inside = below < mask.shape[0]
    return below[inside], columns[foot][inside]


def _stuff_ids(taxonomy: Taxonomy) -> Bool[np.ndarray, "256"]:
    found = np.zeros(256, dtype=bool)
    found[[row.id for row in taxonomy.classes if not row.is_thing]] = True
    return found
