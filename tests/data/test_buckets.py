"""Bucket sizes: the distortion is bounded, and few sizes serve many aspects."""

import math

import pytest

from mamoe.data.geometry.buckets import STRETCH, bucket_size
from mamoe.data.geometry.joint import Geometry
from mamoe.errors import ConfigError

ASPECTS = [math.exp(x / 50) for x in range(-70, 71)]  # 1:4 to 4:1


@pytest.mark.parametrize("size", [(64, 64), (256, 256), (512, 512), (1024, 1024), (128, 256), (768, 512)])
def test_distortion_and_area_are_bounded(size):
    for aspect in ASPECTS:
        height, width = 4000, round(4000 * aspect)
        h, w = bucket_size((height, width), size, 8)
        assert h % 8 == w % 8 == 0
        stretch = (w / h) / (width / height)
        bound = STRETCH * (1 + 8 / (2 * max(h, w) - 8)) * 1.0001
        assert 1 / bound <= stretch <= bound
        assert abs(math.log(h * w / (size[0] * size[1]))) <= 8 / (min(h, w) - 4) + 4 / (max(h, w) - 4)


def test_at_512_the_documented_figure_holds_and_is_nearly_reached():
    sizes = [(4000, round(4000 * aspect)) for aspect in ASPECTS]
    stretches = [abs(math.log(b[1] / b[0] * h / w)) for h, w in sizes for b in [bucket_size((h, w), (512, 512), 8)]]
    assert 1.045 < math.exp(max(stretches)) <= 1.059


def test_few_sizes_serve_all_aspects_and_turning_a_picture_turns_its_bucket():
    sizes = {bucket_size((4000, round(4000 * aspect)), (512, 512), 8) for aspect in ASPECTS}
    assert len(sizes) <= 2 * math.log(4) / (2 * math.log(STRETCH)) + 2
    assert {(w, h) for h, w in sizes} == sizes


@pytest.mark.parametrize("size", [(512, 512), (256, 512), (128, 256), (88, 40)])
def test_the_wanted_size_is_a_bucket_itself(size):
    assert bucket_size((3 * size[0], 3 * size[1]), size, 8) == size


def test_nonsense_is_refused():
    with pytest.raises(ValueError, match="positive"):
        bucket_size((0, 5), (64, 64), 8)


def test_geometry_squeezes_and_never_crops():
    geometry = Geometry(size=64, buckets=True)
    placement = geometry.draw(100, 300)
    assert placement.size == placement.resized == geometry.size_of(100, 300) == bucket_size((100, 300), (64, 64), 8)
    assert placement.corner == (0, 0)
    assert Geometry(size=(32, 128), buckets=True).size_of(100, 400) == (32, 128)
    with pytest.raises(ConfigError, match="nothing is cropped"):
        Geometry(size=64, crop="center", buckets=True)
