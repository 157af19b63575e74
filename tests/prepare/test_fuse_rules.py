"""Masks against COCO's own tools, and every rule of fusing, one at a time."""

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from mamoe.prepare.fuse.masks import cut_out, from_counts, from_polygons
from mamoe.prepare.fuse.rules import AS_ANNOTATED, FuseRules, Rest, Thing, fuse
from mamoe.vocabulary.taxonomy import Taxonomy

CITYSCAPES = Taxonomy.load("cityscapes")
ROAD, SKY, PERSON, CAR, VOID = 0, 10, 11, 13, 19
SIZE = (20, 30)


def whole(mask, size):
    found = np.zeros(size, dtype=bool)
    found[mask.box] = mask.inside
    return found


def ground(**areas):
    """Sky above road, and areas as class=(top, left, bottom, right)."""
    classes = np.full(SIZE, SKY, dtype=np.uint8)
    classes[10:] = ROAD
    for name, (top, left, bottom, right) in areas.items():
        classes[top:bottom, left:right] = {"car": CAR, "person": PERSON, "void": VOID}[name]
    return classes


def thing(top, left, bottom, right, class_id=CAR, **how):
    bitmap = np.zeros(SIZE, dtype=bool)
    bitmap[top:bottom, left:right] = True
    return Thing(mask=cut_out(bitmap), class_id=class_id, where=f"at {top} {left}", **how)


def fused(classes, things, **rules):
    found = fuse(classes, things, CITYSCAPES, FuseRules(**{"min_area": 0, **rules}))
    return found.labelled.panoptic, found.labelled.groups, [drop.reason for drop in found.dropped]


@pytest.mark.parametrize("seed", range(8))
def test_run_lengths_are_cocos(seed):
    rng = np.random.default_rng(seed)
    size = int(rng.integers(1, 40)), int(rng.integers(1, 40))
    bitmap = rng.random(size) < (0.0, 0.02, 0.3, 0.7, 0.98, 1.0, 0.5, 0.1)[seed]
    packed = coco_mask.encode(np.asfortranarray(bitmap, dtype=np.uint8))
    assert (whole(from_counts(packed["counts"].decode(), size), size) == bitmap).all()
    flat = bitmap.T.ravel()
    edges = np.flatnonzero(np.diff(flat)) + 1
    counts = np.diff([0, *edges, flat.size]).tolist()
    counts = [0, *counts] if flat[0] else counts
    assert (whole(from_counts(counts, size), size) == bitmap).all()


@pytest.mark.parametrize("counts", ["", "ü", "5", [3, 4], [-1, 601], [600.5], "0" * 40 + "~", [2**62, 2**62]])
def test_run_lengths_that_make_no_picture(counts):
    with pytest.raises(ValueError):
        from_counts(counts, SIZE)


@pytest.mark.parametrize("seed", range(6))
def test_polygons_are_filled_as_coco_does(seed):
    rng = np.random.default_rng(seed)
    polygons = [(rng.random(2 * int(rng.integers(3, 9))) * [45]).tolist() for _ in range(int(rng.integers(1, 4)))]
    polygons = [[v - 5 for v in polygon] for polygon in polygons]  # some corners lie outside
    oracle = coco_mask.decode(coco_mask.merge(coco_mask.frPyObjects(polygons, *SIZE))).astype(bool)
    assert np.count_nonzero(whole(from_polygons(polygons, SIZE), SIZE) ^ oracle) <= 2  # cut out, it rounds elsewhere


@pytest.mark.parametrize("polygons", [[[1, 2, 3, 4]], [[1, 2, 3, 4, 5]], [["a"] * 6], [[1e9] * 6], [[np.nan] * 6], []])
def test_polygons_that_are_none(polygons):
    with pytest.raises(ValueError):
        from_polygons(polygons, SIZE)


def test_the_better_one_is_in_front_whatever_the_order():
    two = [thing(5, 5, 15, 15, score=0.7), thing(5, 10, 15, 20, score=0.9)]
    for things in (two, two[::-1]):
        panoptic, _, dropped = fused(ground(car=(5, 5, 15, 20)), things)
        assert panoptic.segment_id[6, 12] == panoptic.segment_id[6, 18] != panoptic.segment_id[6, 6] and not dropped


def test_of_equal_ones_the_smaller_is_in_front():
    panoptic, _, _ = fused(ground(car=(5, 5, 15, 15)), [thing(5, 5, 15, 15), thing(6, 6, 9, 9)])
    assert panoptic.segment_id[7, 7] != panoptic.segment_id[12, 12] and panoptic.class_id[7, 7] == CAR


def test_segments_are_numbered_stuff_first_then_as_listed():
    panoptic, groups, _ = fused(
        ground(car=(5, 5, 15, 15), person=(2, 20, 9, 25)),
        [thing(5, 5, 15, 10, score=0.6), thing(5, 10, 15, 15, score=0.9)],
    )
    assert panoptic.classes == {1: ROAD, 2: SKY, 3: PERSON, 4: CAR, 5: CAR} and groups == {3}
    assert panoptic.segment_id[6, 6] == 4 and panoptic.segment_id[6, 12] == 5


@pytest.mark.parametrize(
    ("rules", "reason"),
    [
        ({"score": 0.8}, "score"),
        ({"visible": 0.7}, "hidden"),
        ({"agreement": 0.9}, "disagrees"),
        ({"min_area": 61}, "small"),
    ],
)
def test_what_a_rule_drops(rules, reason):
    """A car of 10x10: 0.7 sure, 0.4 hidden by a better one, a half of the rest on what the map calls car."""
    classes = ground(car=(5, 5, 10, 15))
    things = [thing(5, 5, 15, 15, score=0.7), thing(5, 11, 15, 15, CAR, score=0.9)]
    _, _, dropped = fused(classes, things, **{"score": 0.5, "visible": 0.5, "agreement": 0.5} | rules)
    assert dropped == ([reason] * 2 if reason == "disagrees" else [reason])
    kept, _, none = fused(classes, things)
    assert not none and len(kept.classes) == 4


def test_void_neither_agrees_nor_disagrees():
    assert fused(ground(void=(5, 5, 15, 15)), [thing(5, 5, 15, 15)], agreement=1.0)[2] == []
    assert fused(ground(), [thing(5, 5, 15, 15)], agreement=0.01)[2] == ["disagrees"]


@pytest.mark.parametrize("rest", Rest)
def test_what_nobody_claims(rest):
    panoptic, groups, _ = fused(ground(car=(5, 5, 15, 15)), [thing(5, 5, 15, 10)], rest=rest)
    left = panoptic.class_id[6, 12], panoptic.segment_id[6, 12]
    assert left == {"group": (CAR, 3), "class": (CAR, 0), "void": (VOID, 0)}[rest]
    assert groups == ({3} if rest is Rest.GROUP else set())
    slivers, groups, _ = fused(ground(car=(5, 5, 15, 15)), [thing(5, 5, 15, 12)], min_area=32)
    assert not groups and slivers.segment_id[6, 13] == 0 and slivers.class_id[6, 13] == CAR


@pytest.mark.parametrize("rest", Rest)
def test_crowds_are_groups_whatever_the_rest_is(rest):
    things = [thing(5, 5, 15, 15, is_group=True), thing(5, 5, 15, 8)]
    panoptic, groups, _ = fused(ground(), things, agreement=0, rest=rest)
    group, single = panoptic.segment_id[6, 12], panoptic.segment_id[6, 6]
    assert groups == {group} and group != single and panoptic.class_id[6, 12] == CAR


def test_little_stuff_becomes_void():
    classes = ground()
    classes[0, :3] = 8
    panoptic, _, dropped = fused(classes, [], min_stuff=4)
    assert panoptic.class_id[0, 0] == VOID and panoptic.segment_id[0, 0] == 0 and dropped == ["stuff"]


def test_masks_of_stuff_are_drawn_into_the_map():
    things = [thing(0, 0, 20, 30, SKY), thing(10, 0, 20, 30, ROAD), thing(12, 4, 16, 8, CAR)]
    found = fuse(np.full(SIZE, VOID, dtype=np.uint8), things, CITYSCAPES, AS_ANNOTATED).labelled.panoptic
    assert found.classes == {1: ROAD, 2: SKY, 3: CAR} and found.class_id[0, 0] == SKY and found.class_id[19, 0] == ROAD


def test_masks_without_a_pixel_are_dropped():
    assert fused(ground(), [thing(0, 0, 0, 0)])[2] == ["empty"]
