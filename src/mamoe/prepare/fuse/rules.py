"""A map of classes and masks of single things become one panoptic map. The same input gives the same map.

1. Masks of stuff classes are drawn into the map of classes, the largest first.
2. Single things below ``score`` are dropped. The others come by score, the best first; of equal ones the smaller first,
   which is likelier to be in front; then as they were listed. Each takes the pixels nobody took before.
3. A thing is dropped if less than ``visible`` of it is left to take; if of these pixels, void aside, less than
   ``agreement`` have its class in the map of classes; or if they are fewer than ``min_area``.
4. Groups (COCO's iscrowd) take the pixels of no single thing.
5. What the map calls a thing and nobody took is the ``rest``: a group a class; or without a segment; or void. Fewer
   pixels than ``min_area`` keep their class and have no segment.
6. Every stuff class is one segment; with fewer pixels than ``min_stuff`` it becomes void.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum

import numpy as np
from jaxtyping import Int32, UInt8

from mamoe.prepare.fuse.masks import Mask
from mamoe.prepare.labelled import Labelled
from mamoe.vocabulary.panoptic import MAX_SEGMENT_ID, PanopticMap
from mamoe.vocabulary.taxonomy import Taxonomy


class Rest(StrEnum):
    """What becomes of thing pixels that no mask claims."""

    GROUP = "group"
    CLASS = "class"
    VOID = "void"


@dataclass(frozen=True, kw_only=True, slots=True)
class FuseRules:
    """See the module; shares in [0, 1], areas in pixels."""

    score: float = 0.5
    visible: float = 0.5
    agreement: float = 0.5
    min_area: int = 32
    min_stuff: int = 0
    rest: Rest = Rest.GROUP


AS_ANNOTATED = FuseRules(score=0.0, visible=0.0, agreement=0.0, min_area=0)  # for what people drew


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Thing:
    """A mask with what is said of it."""

    mask: Mask
    class_id: int
    score: float = 1.0
    is_group: bool = False
    where: str = ""  # for the report: what it is called in its file


@dataclass(frozen=True, kw_only=True, slots=True)
class Dropped:
    """A mask that is not in the map, or a stuff class that became void."""

    where: str
    class_id: int
    score: float
    area: int  # pixels of the mask
    reason: str  # score, empty, hidden, disagrees, small, stuff
    figure: float  # what the rule looked at: score, or share, or pixels


@dataclass(kw_only=True, slots=True)
class Fused:
    """A panoptic map, and what did not make it into it."""

    labelled: Labelled
    dropped: list[Dropped] = field(default_factory=list)


def fuse(class_id: UInt8[np.ndarray, "H W"], things: Sequence[Thing], taxonomy: Taxonomy, rules: FuseRules) -> Fused:
    """See the module.

    Args:
        class_id: the map of classes; void where nothing is known.
        things: masks inside the picture; those of stuff classes are drawn into the map of classes.
        taxonomy: of the classes.
        rules: what is dropped.

    Raises:
        ValueError: there are more segments than a map can hold.
    """
    class_id = class_id.copy()
    _draw_stuff(class_id, [thing for thing in things if not taxonomy.is_thing(thing.class_id)])
    owner = np.zeros(class_id.shape, dtype=np.int32)  # number of the thing that has the pixel, from 1
    dropped = []
    singles = [i for i, t in enumerate(things) if taxonomy.is_thing(t.class_id) and not t.is_group]
    kept = []
    for i in sorted(singles, key=lambda i: (-things[i].score, things[i].mask.area, i)):
        lost = _taken(owner, class_id, things[i], i + 1, taxonomy.void_id, rules)
        if lost is None:
            kept.append(i)
        else:
            dropped.append(lost)
    for thing in things:
        if thing.is_group and taxonomy.is_thing(thing.class_id):
            free = thing.mask.inside & (owner[thing.mask.box] == 0)
            class_id[thing.mask.box][free] = thing.class_id
            owner[thing.mask.box][free] = -1  # a group, whatever becomes of the rest
    return _numbered(class_id, owner, things, sorted(kept), taxonomy, rules, dropped)


def _draw_stuff(class_id: UInt8[np.ndarray, "H W"], things: Sequence[Thing]) -> None:
    for thing in sorted(things, key=lambda thing: -thing.mask.area):
        class_id[thing.mask.box][thing.mask.inside] = thing.class_id


def _taken(
    owner: Int32[np.ndarray, "H W"],
    class_id: UInt8[np.ndarray, "H W"],
    thing: Thing,
    number: int,
    void: int,
    rules: FuseRules,
) -> Dropped | None:
    """Let a thing take its pixels, or say why not."""
    area, inside, box = thing.mask.area, thing.mask.inside, thing.mask.box

    def lost(reason: str, figure: float) -> Dropped:
        return Dropped(
            where=thing.where,
            class_id=thing.class_id,
            score=thing.score,
            area=area,
            reason=reason,
            figure=round(float(figure), 4),
        )

    if thing.score < rules.score:
        return lost("score", thing.score)
    if not area:
        return lost("empty", 0)
    free = inside & (owner[box] == 0)
    pixels = np.count_nonzero(free)
    if pixels < rules.visible * area or not pixels:
        return lost("hidden", pixels / area)
    if rules.agreement > 0:
        said = class_id[box][free]
        known = np.count_nonzero(said != void)
        share = np.count_nonzero(said == thing.class_id) / known if known else 1.0
        if share < rules.agreement:
            return lost("disagrees", share)
    if pixels < rules.min_area:
        return lost("small", pixels)
    owner[box][free] = number
    return None


def _numbered(
    class_id: UInt8[np.ndarray, "H W"],
    owner: Int32[np.ndarray, "H W"],
    things: Sequence[Thing],
    kept: Sequence[int],
    taxonomy: Taxonomy,
    rules: FuseRules,
    dropped: list[Dropped],
) -> Fused:
    """Number the segments: stuff and groups in the order of their classes, then single things as they were listed."""
    # One table for all pixels: those of things by number, then 256 for groups' classes, then 256 for the other classes.
    many = len(things) + 1
    place = class_id.astype(np.int32)
    place += np.where(owner < 0, many, many + 256).astype(np.int32)
    np.copyto(place, owner, where=owner > 0)
    pixels = np.bincount(place.ravel(), minlength=many + 512)
    grouped, others = pixels[many : many + 256], pixels[many + 256 :]
    segment = np.zeros(many + 512, dtype=np.int32)
    klass = np.concatenate([np.zeros(many), np.arange(256), np.arange(256)]).astype(np.uint8)
    groups, number = set[int](), 0
    for row in sorted(taxonomy.classes, key=lambda row: row.id):
        as_group, rest = many + row.id, many + 256 + row.id
        if not row.is_thing:
            if others[row.id] and others[row.id] >= rules.min_stuff:
                number += 1
                segment[rest] = number
            elif others[row.id]:
                klass[rest] = taxonomy.void_id
                count = int(others[row.id])
                dropped.append(
                    Dropped(
                        where="map of classes", class_id=row.id, score=1.0, area=count, reason="stuff", figure=count
                    )
                )
            continue
        together = int(grouped[row.id]) + (int(others[row.id]) if rules.rest is Rest.GROUP else 0)
        if together and (together >= rules.min_area or grouped[row.id]):
            number += 1
            groups.add(number)
            segment[as_group] = number
            if rules.rest is Rest.GROUP:
                segment[rest] = number
        if rules.rest is Rest.VOID:
            klass[rest] = taxonomy.void_id
    for i in kept:
        if pixels[i + 1]:
            number += 1
            segment[i + 1], klass[i + 1] = number, things[i].class_id
    if number > MAX_SEGMENT_ID:
        raise ValueError(f"{number} segments are more than the {MAX_SEGMENT_ID} a map can hold")
    panoptic = PanopticMap(segment_id=segment[place], class_id=klass[place])
    return Fused(labelled=Labelled(panoptic=panoptic, groups=frozenset(groups)), dropped=dropped)
