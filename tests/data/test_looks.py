"""What a file is, found out in less than decoding it takes."""

import io
import random

import numpy as np
import pytest
from PIL import Image

from mamoe.data.reading.looks import look_at_map, look_at_map_closely, look_at_picture, look_at_picture_closely
from mamoe.data.reading.pictures import read_picture
from mamoe.errors import DatasetError
from mamoe.scenes.scene import draw_scene
from mamoe.vocabulary.panoptic import colour_numbers, read_panoptic_rgb


def refused(read, path) -> bool:
    try:
        read(path)
    except DatasetError:
        return True
    return False


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"restart_marker_rows": 1}], ids=str)
@pytest.mark.parametrize("mode", ["RGB", "CMYK"])
def test_a_jpeg_read_small_is_as_sure_to_be_found_damaged(tmp_path, options, mode):
    drawn = Image.fromarray(draw_scene(0, height=64, width=128).image).convert(mode)
    drawn.save(whole := io.BytesIO(), "JPEG", **options)
    data, draw, path = whole.getvalue(), random.Random(0), tmp_path / "picture.jpg"
    damaged = [data[: len(data) * part // 10] for part in range(1, 10)] + [data[:-end] for end in (1, 2, 3, 40)]
    for _ in range(20):
        flipped = bytearray(data)
        flipped[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
        damaged.append(bytes(flipped))
    found = 0
    for number, content in enumerate(damaged):
        path.write_bytes(content)
        wanted = refused(read_picture, path)
        assert refused(look_at_picture, path) == refused(look_at_picture_closely, path) == wanted, number
        found += wanted
    assert found >= 10


@pytest.mark.parametrize("size", [(3000, 2), (1, 900), (1, 1)])
def test_a_jpeg_of_any_form_is_looked_at(tmp_path, size):
    Image.new("RGB", size, (90, 20, 20)).save(tmp_path / "picture.jpg")
    look = look_at_picture_closely(tmp_path / "picture.jpg")
    assert look.look.size == look_at_picture(tmp_path / "picture.jpg").size == size[::-1]


@pytest.mark.parametrize("noisy", [False, True])
def test_colours_of_a_map_are_counted(tmp_path, noisy):
    rgb = np.random.default_rng(0).integers(0, 256 if noisy else 2, (40, 60, 3), dtype=np.uint8)
    rgb[10:30, 5:50] = (1, 44, 13)
    Image.fromarray(rgb).save(tmp_path / "map.png")
    look, close = look_at_map(tmp_path / "map.png"), look_at_map_closely(tmp_path / "map.png")
    coded = read_panoptic_rgb(tmp_path / "map.png").astype(np.int64) @ (1 << 16, 1 << 8, 1)
    assert np.array_equal(colour_numbers(close.rgb), coded) and look.size == (40, 60)
    colours, counts = np.unique(coded, return_counts=True)
    assert np.array_equal(look.colours, colours) and np.array_equal(look.counts, counts)
    assert look.segments[300] == [13] and look.class_pixels.sum() == 2400
