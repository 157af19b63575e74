"""The mean layout of a data set."""

import numpy as np

from mamoe.commands.app.template import mean_layout
from mamoe.vocabulary.panoptic import PanopticMap
from mamoe.vocabulary.taxonomy import Taxonomy

TAXONOMY = Taxonomy.load("scenes")
ROAD, BUILDING, SKY, CAR, VOID = 0, 2, 10, 13, 19


def rows(*classes: int, height: int = 4, width: int = 6) -> PanopticMap:
    """A class for every row, each a segment."""
    class_id = np.repeat(np.array(classes, dtype=np.uint8)[:, None], width, axis=1).repeat(height, axis=0)
    segment = np.repeat(np.arange(1, len(classes) + 1, dtype=np.int32)[:, None], width, axis=1).repeat(height, axis=0)
    return PanopticMap(segment_id=segment, class_id=class_id)


def test_every_pixel_has_the_stuff_of_most_maps():
    maps = [rows(SKY, BUILDING, ROAD), rows(SKY, ROAD, ROAD), rows(BUILDING, ROAD, ROAD)]
    mean = mean_layout(maps, (12, 6), TAXONOMY)
    assert (mean.class_id == rows(SKY, ROAD, ROAD).class_id).all()
    assert mean.classes == {1: ROAD, 2: SKY}  # one segment a class, numbered as the taxonomy names them


def test_things_give_way_and_nothing_is_void():
    mean = mean_layout([rows(SKY, CAR, ROAD), rows(SKY, CAR, CAR), rows(SKY, BUILDING, VOID)], (12, 6), TAXONOMY)
    assert mean.class_id[::4, 0].tolist() == [SKY, BUILDING, ROAD]
    empty = mean_layout([rows(CAR, VOID, CAR)], (12, 6), TAXONOMY)
    assert (empty.class_id == VOID).all() and (empty.segment_id == 0).all()


def test_maps_of_other_sizes_are_brought_to_one():
    mean = mean_layout([rows(SKY, ROAD), rows(SKY, ROAD, height=8, width=3)], (6, 10), TAXONOMY)
    assert mean.size == (6, 10) and mean.class_id[:, 0].tolist() == [SKY] * 3 + [ROAD] * 3


def test_a_tie_goes_to_the_class_named_first():
    assert mean_layout([rows(SKY), rows(ROAD)], (4, 6), TAXONOMY).class_id[0, 0] == ROAD


def test_128_maps_are_counted_without_overflow():
    mean = mean_layout((rows(ROAD if i % 2 else SKY) if i < 2 else rows(SKY) for i in range(128)), (4, 6), TAXONOMY)
    assert (mean.class_id == SKY).all()
