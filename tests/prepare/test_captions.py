import numpy as np

from mamoe.prepare.captions import describe
from mamoe.vocabulary.panoptic import PanopticMap
from mamoe.vocabulary.taxonomy import Taxonomy


def _map(areas):
    """A column per (class, segment, width), 10 pixels high."""
    klass = np.concatenate([np.full(width, c) for c, _, width in areas]).astype(np.uint8)
    segment = np.concatenate([np.full(width, s) for _, s, width in areas]).astype(np.int32)
    return PanopticMap(segment_id=np.tile(segment, (10, 1)), class_id=np.tile(klass, (10, 1)))


def test_captions_count_things_and_name_large_stuff():
    taxonomy = Taxonomy.load("cityscapes")
    street = [(13, 1, 20), (13, 2, 5), (11, 3, 4), (0, 4, 100), (8, 5, 60), (10, 6, 1), (19, 0, 30)]
    assert describe(_map(street), taxonomy, "a street") == "a street with cars, a person, road and vegetation"
    assert describe(_map([(15, 1, 9), (15, 2, 9)]), taxonomy, "a street") == "a street with buses"
    assert describe(_map([(11, 1, 9), (11, 2, 9)]), taxonomy, "a street") == "a street with people"
    assert describe(_map([(19, 0, 9)]), taxonomy, "a street") == "a street"
