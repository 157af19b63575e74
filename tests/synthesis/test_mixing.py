"""Layouts made of others, on maps small enough to see the answer."""

import numpy as np
import pytest

from mamoe.synthesis.mixing import Scene, cut_out, mirrored, pasted, shifts_of
from mamoe.vocabulary.panoptic import PanopticMap
from mamoe.vocabulary.prompts import RegionPrompts
from mamoe.vocabulary.taxonomy import Taxonomy

TAXONOMY = Taxonomy.load("scenes")
IDS = {row.name: row.id for row in TAXONOMY.classes}
VOID = TAXONOMY.void_id


def scene(things=(), width=20, ground="road", prompts=None, groups=()) -> Scene:
    """Sky over ground from row 5 on, and (segment, class, rows, columns) in front."""
    class_id = np.full((10, width), IDS["sky"], dtype=np.uint8)
    class_id[5:] = IDS[ground]
    segment_id = np.zeros((10, width), dtype=np.int32)
    for segment, name, rows, columns in things:
        segment_id[rows, columns] = segment
        class_id[rows, columns] = IDS[name]
    return Scene(
        panoptic=PanopticMap(segment_id=segment_id, class_id=class_id),
        prompts=RegionPrompts(global_prompt="a street", by_segment=prompts or {}),
        groups=frozenset(groups),
    )


CAR = (7, "car", slice(4, 8), slice(2, 6))
RIDER, BICYCLE = (3, "rider", slice(2, 5), slice(9, 11)), (4, "bicycle", slice(5, 7), slice(8, 12))


def test_mirrored_twice_is_the_same_and_segments_keep_their_prompts():
    given = scene([CAR], prompts={7: "a red car"})
    turned = mirrored(given)
    assert np.flatnonzero((turned.panoptic.segment_id == 7).any(axis=0)).tolist() == [14, 15, 16, 17]
    assert turned.prompts == given.prompts and turned.panoptic.classes == given.panoptic.classes
    assert np.array_equal(mirrored(turned).panoptic.segment_id, given.panoptic.segment_id)


def test_an_instance_moves_sideways_with_its_prompt_under_a_number_of_its_own():
    cutout = cut_out(scene([CAR], prompts={7: "a red car"}), 7, TAXONOMY)
    assert cutout is not None and cutout.ground == IDS["road"] and list(shifts_of(cutout)) == list(range(-2, 15))
    found = pasted(scene([RIDER, BICYCLE], prompts={3: "a rider in blue"}), cutout, 11, TAXONOMY)
    assert found is not None
    together, new = found
    assert new == {7: 5} and together.panoptic.classes == {3: IDS["rider"], 4: IDS["bicycle"], 5: IDS["car"]}
    rows, columns = np.nonzero(together.panoptic.segment_id == 5)
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (4, 7, 13, 16)
    assert together.prompts.by_segment == {3: "a rider in blue", 5: "a red car"}


@pytest.mark.parametrize("shift", [5, 6, 7, 9])
def test_it_covers_no_other_instance(shift):
    cutout = cut_out(scene([CAR]), 7, TAXONOMY)
    assert cutout is not None
    assert pasted(scene([RIDER, BICYCLE]), cutout, shift, TAXONOMY) is None


def test_it_stands_on_the_ground_it_stood_on():
    cutout = cut_out(scene([CAR]), 7, TAXONOMY)
    assert cutout is not None
    assert pasted(scene(), cutout, 0, TAXONOMY) is not None
    assert pasted(scene(ground="sidewalk"), cutout, 0, TAXONOMY) is None


def test_it_covers_no_void():
    cutout, other = cut_out(scene([CAR]), 7, TAXONOMY), scene()
    other.panoptic.class_id[4, 2] = VOID
    assert cutout is not None and pasted(other, cutout, 0, TAXONOMY) is None
    assert pasted(other, cutout, 1, TAXONOMY) is not None


def test_a_rider_takes_the_bicycle_along():
    cutout = cut_out(scene([RIDER, BICYCLE], prompts={4: "a green bicycle"}), 3, TAXONOMY)
    assert cutout is not None and cutout.segments == (3, 4)
    found = pasted(scene([CAR]), cutout, 2, TAXONOMY)
    assert found is not None
    together, new = found
    assert new == {3: 8, 4: 9} and together.prompts.by_segment == {9: "a green bicycle"}
    assert together.panoptic.classes == {7: IDS["car"], 8: IDS["rider"], 9: IDS["bicycle"]}


def test_what_cannot_be_moved():
    edge = (7, "car", slice(4, 8), slice(0, 4))
    assert cut_out(scene([edge]), 7, TAXONOMY) is None
    assert cut_out(scene([(7, "car", slice(6, 10), slice(2, 6))]), 7, TAXONOMY) is None  # nothing is seen under it
    assert cut_out(scene([CAR], groups=[7]), 7, TAXONOMY) is None
    row = [(i, "person", slice(4, 8), slice(2 * i, 2 * i + 2)) for i in range(1, 5)]
    assert cut_out(scene(row), 1, TAXONOMY) is None  # a queue
    assert cut_out(scene([CAR], ground="sidewalk"), 7, TAXONOMY).ground == IDS["sidewalk"]
