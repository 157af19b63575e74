"""Layouts made of others: mirrored, or with an instance of another map where the ground allows.

An instance takes along the things it touches: a rider is not parted from the bicycle. It keeps its height in the
picture, and with it its distance and size, and moves sideways alone. It may stand where what is under its lowest pixels
is the class that was under them in its own map, and where it covers no other instance and no void.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Bool, Int

from mamoe.vocabulary.panoptic import MAX_SEGMENT_ID, PanopticMap
from mamoe.vocabulary.prompts import RegionPrompts
from mamoe.vocabulary.taxonomy import Taxonomy

_TOGETHER = 3  # things that touch each other and are moved as one
_FOOT = 0.1  # of an instance's height: its lowest pixels, those it stands on


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Scene:
    """A map with what is said of its segments."""

    panoptic: PanopticMap
    prompts: RegionPrompts
    groups: frozenset[int] = frozenset()  # segments that hold several things


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Cutout:
    """An instance taken out of its map, with the things it touches."""

    mask: Bool[np.ndarray, "H W"]
    scene: Scene  # its own
    segments: tuple[int, ...]  # there
    under: tuple[Int[np.ndarray, "n"], Int[np.ndarray, "n"]]  # rows and columns of the pixels right under its foot
    ground: int  # class id of most of them


def mirrored(scene: Scene) -> Scene:
    """The scene with left and right exchanged; segments keep their ids."""
    ids, classes = scene.panoptic.segment_id, scene.panoptic.class_id
    turned = PanopticMap(segment_id=np.ascontiguousarray(ids[:, ::-1]), class_id=np.ascontiguousarray(classes[:, ::-1]))
    return replace(scene, panoptic=turned)


def cut_out(scene: Scene, segment: int, taxonomy: Taxonomy) -> Cutout | None:
    """An instance of the scene; None: nobody knows where else it could stand.

    That is so where it stands on no stuff of one class, touches more than two other things, or where it, or one of
    those, is cut by the edge of the picture or holds several things.

    Args:
        scene: whose.
        segment: which.
        taxonomy: of the scene.
    """
    panoptic = scene.panoptic
    segments = _touching(panoptic, segment, taxonomy)
    if segments is None or not scene.groups.isdisjoint(segments):
        return None
    mask = np.isin(panoptic.segment_id, segments)
    if any(edge.any() for edge in (mask[0], mask[-1], mask[:, 0], mask[:, -1])):
        return None
    rows, columns = _under(mask)
    ids, counts = np.unique(panoptic.class_id[rows, columns], return_counts=True)
    ground = int(ids[counts.argmax()])
    if counts.max() <= len(rows) / 2 or ground == taxonomy.void_id or taxonomy.is_thing(ground):
        return None
    return Cutout(mask=mask, scene=scene, segments=segments, under=(rows, columns), ground=ground)


def shifts_of(cutout: Cutout) -> range:
    """How far, in pixels, an instance can move to the left (negative) and to the right without being cut."""
    columns = np.flatnonzero(cutout.mask.any(axis=0))
    return range(-int(columns[0]), cutout.mask.shape[1] - int(columns[-1]))


def pasted(scene: Scene, cutout: Cutout, shift: int, taxonomy: Taxonomy) -> tuple[Scene, dict[int, int]] | None:
    """The scene with an instance more, and its segments' ids there by those they had; None: it cannot stand there.

    Args:
        scene: of the size of the instance's own map.
        cutout: the instance.
        shift: one of :func:`shifts_of`.
        taxonomy: of both.
    """
    panoptic, other = scene.panoptic, cutout.scene
    mask = np.roll(cutout.mask, shift, axis=1)
    rows, columns = cutout.under
    covered, below = panoptic.class_id[mask], panoptic.class_id[rows, columns + shift]
    first = len(panoptic.class_of_segment)
    new = {segment: first + i for i, segment in enumerate(cutout.segments)}
    if max(new.values()) > MAX_SEGMENT_ID or not _stuff_ids(taxonomy)[covered].all() or (below != cutout.ground).any():
        return None
    renamed = np.zeros(len(other.panoptic.class_of_segment), dtype=np.int32)
    renamed[list(new)] = list(new.values())
    together = PanopticMap(
        segment_id=np.where(mask, np.roll(renamed[other.panoptic.segment_id], shift, axis=1), panoptic.segment_id),
        class_id=np.where(mask, np.roll(other.panoptic.class_id, shift, axis=1), panoptic.class_id),
    )
    given = {**scene.prompts.by_segment}
    given |= {new[i]: text for i, text in other.prompts.by_segment.items() if i in new}
    visible = {i: text for i, text in given.items() if i in together.classes}
    return replace(scene, panoptic=together, prompts=replace(scene.prompts, by_segment=visible)), new


def _touching(panoptic: PanopticMap, segment: int, taxonomy: Taxonomy) -> tuple[int, ...] | None:
    """The segment and the things it touches, directly or over others; None: too many."""
    found = {segment}
    while True:
        near = _grown(np.isin(panoptic.segment_id, list(found)))
        touched = {int(i) for i in np.unique(panoptic.segment_id[near])} - {0}
        things = {i for i in touched if taxonomy.is_thing(int(panoptic.class_of_segment[i]))} | {segment}
        if len(things) > _TOGETHER:
            return None
        if things == found:
            return tuple(sorted(found))
        found = things


def _grown(mask: Bool[np.ndarray, "H W"]) -> Bool[np.ndarray, "H W"]:
    """The mask with the pixels above, below, left and right of it."""
    grown = mask.copy()
    grown[1:] |= mask[:-1]
    grown[:-1] |= mask[1:]
    grown[:, 1:] |= mask[:, :-1]
    grown[:, :-1] |= mask[:, 1:]
    return grown


def _under(mask: Bool[np.ndarray, "H W"]) -> tuple[np.ndarray, np.ndarray]:
    """Rows and columns of the pixels right under the lowest pixels of ``mask``, which is not at the lower edge."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    lowest = mask.shape[0] - 1 - mask[::-1, columns].argmax(axis=0)
    foot = lowest >= rows[-1] - _FOOT * len(rows)
    return lowest[foot] + 1, columns[foot]


def _stuff_ids(taxonomy: Taxonomy) -> Bool[np.ndarray, "256"]:
    found = np.zeros(256, dtype=bool)
    found[[row.id for row in taxonomy.classes if not row.is_thing]] = True
    return found
