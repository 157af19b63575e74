"""What a model is shown of an object."""

import io

import numpy as np
import pytest
from PIL import Image

from mamoe.prepare.captioning.crops import jpeg, object_crop, shrunk
from mamoe.vocabulary.panoptic import PanopticMap

PICTURE = np.random.default_rng(0).integers(1, 256, (20, 30, 3), dtype=np.uint8)


def map_with(rows: slice, columns: slice, segment: int = 5) -> PanopticMap:
    ids = np.zeros((20, 30), dtype=np.int32)
    ids[rows, columns] = segment
    return PanopticMap(segment_id=ids, class_id=np.where(ids > 0, 13, 0).astype(np.uint8))


def test_the_box_alone():
    crop = object_crop(PICTURE, map_with(slice(4, 8), slice(10, 20)), 5, 0.0)
    assert np.array_equal(crop, PICTURE[4:8, 10:20])


def test_margin_and_black():
    crop = object_crop(PICTURE, map_with(slice(4, 8), slice(10, 20)), 5, 0.5)
    assert crop.shape == (8, 20, 3)  # two rows and five columns more on each side
    assert np.array_equal(crop[2:6, 5:15], PICTURE[4:8, 10:20])
    crop[2:6, 5:15] = 0
    assert not crop.any()


def test_it_ends_at_the_border():
    crop = object_crop(PICTURE, map_with(slice(0, 8), slice(20, 30)), 5, 0.5)
    assert crop.shape == (12, 15, 3)


def test_an_object_in_two_parts_keeps_both_and_nothing_between():
    panoptic = map_with(slice(4, 8), slice(2, 6))
    ids = panoptic.segment_id.copy()
    ids[4:8, 12:16] = 5
    panoptic = PanopticMap(segment_id=ids, class_id=np.where(ids > 0, 13, 0).astype(np.uint8))
    crop = object_crop(PICTURE, panoptic, 5, 0.0)
    assert crop.shape == (4, 14, 3)
    assert not crop[:, 4:10].any() and crop[:, :4].all() and crop[:, 10:].all()


def test_what_does_not_fit():
    with pytest.raises(ValueError, match="no segment 6"):
        object_crop(PICTURE, map_with(slice(4, 8), slice(2, 6)), 6, 0.0)
    with pytest.raises(ValueError, match=r"\(19, 30\)"):
        object_crop(PICTURE[:19], map_with(slice(4, 8), slice(2, 6)), 5, 0.0)


def test_only_large_pictures_shrink():
    assert shrunk(PICTURE, 30) is PICTURE
    assert shrunk(PICTURE, 15).shape == (10, 15, 3)
    assert shrunk(np.zeros((1, 400, 3), np.uint8), 32).shape == (1, 32, 3)
    assert Image.open(io.BytesIO(jpeg(PICTURE))).size == (30, 20)
