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
from jaxtyping import Bool, UInt8

from mamoe.prepare.fuse.masks import Mask
from mamoe.prepare.labelled import Labelled
from mamoe.prepare.lookup import looked_up
from mamoe.vocabulary.panoptic import MAX_SEGMENT_ID, PanopticMap, class_pixels
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


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class _Part:
    """What a thing got."""

    thing: Thing
    got: Bool[np.ndarray, "h w"]  # of its box


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
    taken = np.zeros(class_id.shape, dtype=bool)
    dropped: list[Dropped] = []
    kept: dict[int, Bool[np.ndarray, "h w"]] = {}  # what a thing got of its box
    singles = [i for i, t in enumerate(things) if taxonomy.is_thing(t.class_id) and not t.is_group]
    for i in sorted(singles, key=lambda i: (-things[i].score, things[i].mask.area, i)):
        got = _got(taken, class_id, things[i], taxonomy.void_id, rules)
        if isinstance(got, Dropped):
            dropped.append(got)
        else:
            kept[i] = got
            taken[things[i].mask.box] |= got
    crowds: dict[int, Bool[np.ndarray, "h w"]] = {}
    for i, thing in enumerate(things):
        if thing.is_group and taxonomy.is_thing(thing.class_id):
            crowds[i] = thing.mask.inside & ~taken[thing.mask.box]
            class_id[thing.mask.box][crowds[i]] = thing.class_id
            taken[thing.mask.box] |= crowds[i]
    parts = {i: _Part(thing=things[i], got=got) for i, got in sorted((kept | crowds).items())}
    return _numbered(class_id, list(parts.values()), taxonomy, rules, dropped)


def _draw_stuff(class_id: UInt8[np.ndarray, "H W"], things: Sequence[Thing]) -> None:
    for thing in sorted(things, key=lambda thing: -thing.mask.area):
        class_id[thing.mask.box][thing.mask.inside] = thing.class_id


def _got(
    taken: Bool[np.ndarray, "H W"], class_id: UInt8[np.ndarray, "H W"], thing: Thing, void: int, rules: FuseRules
) -> Bool[np.ndarray, "h w"] | Dropped:
    """The pixels of its box that a thing gets, or why it is dropped."""
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
    free = inside & ~taken[box]
    pixels = int(np.count_nonzero(free))
    if pixels < rules.visible * area or not pixels:
        return lost("hidden", pixels / area)
    if rules.agreement > 0:
        said = class_id[box][free]
        known = np.count_nonzero(said != void)
        share = np.count_nonzero(said == thing.class_id) / known if known else 1.0
        if share < rules.agreement:
            return lost("disagrees", share)
    return lost("small", pixels) if pixels < rules.min_area else free


def _numbered(
    class_id: UInt8[np.ndarray, "H W"],
    parts: Sequence[_Part],
    taxonomy: Taxonomy,
    rules: FuseRules,
    dropped: list[Dropped],
) -> Fused:
    """Number the segments: stuff and groups in the order of their classes, then single things as they were listed.

    ``parts`` share no pixel, and groups have their class in ``class_id`` already.
    """
    others = class_pixels(class_id)  # what nobody took
    grouped = np.zeros(256, dtype=np.int64)
    for part in parts:
        others -= np.bincount(class_id[part.thing.mask.box][part.got], minlength=256)
        if part.thing.is_group:
            grouped[part.thing.class_id] += np.count_nonzero(part.got)
    segment_of, klass_of = np.zeros(256, dtype=np.uint8), np.arange(256, dtype=np.uint8)  # at most one a class
    groups: dict[int, int] = {}  # segment by class
    number = 0
    for row in sorted(taxonomy.classes, key=lambda row: row.id):
        pixels = int(others[row.id])
        if not row.is_thing:
            if 0 < pixels < rules.min_stuff:
                klass_of[row.id] = taxonomy.void_id
                dropped.append(_too_little(row.id, pixels))
            elif pixels:
                number += 1
                segment_of[row.id] = number
            continue
        together = int(grouped[row.id]) + (pixels if rules.rest is Rest.GROUP else 0)
        if grouped[row.id] or (together and together >= rules.min_area):
            number += 1
            groups[row.id] = number
            segment_of[row.id] = number if rules.rest is Rest.GROUP else 0
        if rules.rest is Rest.VOID:
            klass_of[row.id] = taxonomy.void_id
    segment = looked_up(class_id, segment_of).astype(np.int32)
    klass = looked_up(class_id, klass_of)
    for part in parts:
        if part.thing.is_group:
            this = groups.get(part.thing.class_id, 0)
        else:
            number += 1
            this = number
        segment[part.thing.mask.box][part.got] = this
        klass[part.thing.mask.box][part.got] = part.thing.class_id
    if number > MAX_SEGMENT_ID:
        raise ValueError(f"{number} segments are more than the {MAX_SEGMENT_ID} a map can hold")
    panoptic = PanopticMap(segment_id=segment, class_id=klass)
    return Fused(labelled=Labelled(panoptic=panoptic, groups=frozenset(groups.values())), dropped=dropped)


def _too_little(class_id: int, pixels: int) -> Dropped:
    return Dropped(
        where="map of classes", class_id=class_id, score=1.0, area=pixels, reason="stuff", figure=float(pixels)
    )
