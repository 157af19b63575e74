import io
import random
import struct
import zlib

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torch.nn import functional as F

from mamoe.errors import DatasetError
from mamoe.vocabulary.colourize import colourize
from mamoe.vocabulary.panoptic import (
    PanopticMap,
    decode_panoptic,
    encode_panoptic,
    read_panoptic,
    resized_panoptic,
    write_panoptic,
)
from mamoe.vocabulary.taxonomy import Taxonomy


def _map(segment, klass):
    return PanopticMap(segment_id=np.array(segment, dtype=np.int32), class_id=np.array(klass, dtype=np.uint8))


@given(st.lists(st.integers(0, 65535), min_size=1, max_size=12, unique=True), st.data())
def test_codec_round_trips_any_ids(ids, data):
    classes = data.draw(st.lists(st.integers(0, 255), min_size=len(ids), max_size=len(ids)))
    panoptic = _map([ids, ids], [classes, classes])
    rgb = encode_panoptic(panoptic)
    again = decode_panoptic(rgb)
    assert np.array_equal(rgb[0, :, 0].astype(int) * 256 + rgb[0, :, 1], ids)
    assert np.array_equal(again.segment_id, panoptic.segment_id)
    assert np.array_equal(again.class_id, panoptic.class_id)


def test_file_round_trip_of_every_bit(tmp_path):
    segment = np.arange(65536, dtype=np.int32).reshape(256, 256)
    panoptic = PanopticMap(segment_id=segment, class_id=(segment * 7 % 256).astype(np.uint8))
    panoptic.write(tmp_path / "map.png")
    again = PanopticMap.read(str(tmp_path / "map.png"))
    assert np.array_equal(again.segment_id, segment) and again.segment_id.dtype == np.int32
    assert np.array_equal(again.class_id, panoptic.class_id)


def test_channels_on_disk(tmp_path):
    write_panoptic(_map([[0x1234]], [[0x56]]), tmp_path / "map.png")
    assert Image.open(tmp_path / "map.png").getpixel((0, 0)) == (0x12, 0x34, 0x56)


def _png(mode):
    stream = io.BytesIO()
    Image.new(mode, (4, 3)).save(stream, "PNG")
    return stream.getvalue()


def _png_16_bit_rgb():
    def chunk(kind, body):
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", 2, 2, 16, 2, 0, 0, 0)
    rows = zlib.compress(b"".join(b"\0" + bytes(12) for _ in range(2)))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def _jpeg():
    stream = io.BytesIO()
    Image.new("RGB", (4, 3)).save(stream, "JPEG")
    return stream.getvalue()


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (_png("L"), "RGB PNG"),
        (_png("P"), "RGB PNG"),
        (_png("RGBA"), "RGB PNG"),
        (_png("I;16"), "RGB PNG"),
        (_png_16_bit_rgb(), "16"),
        (_jpeg(), "JPEG"),
        (b"", "Cannot read"),
        (b"no picture", "Cannot read"),
        (_png("RGB")[:-28], "Cannot read"),
    ],
)
def test_other_files_are_refused_by_name(tmp_path, content, complaint):
    path = tmp_path / "map_7.png"
    path.write_bytes(content)
    with pytest.raises(DatasetError, match=complaint) as caught:
        read_panoptic(path)
    assert "map_7.png" in str(caught.value)


def test_missing_file(tmp_path):
    with pytest.raises(DatasetError, match=r"no panoptic map .*gone\.png"):
        read_panoptic(tmp_path / "gone.png")


def test_segment_of_two_classes_names_the_file(tmp_path):
    path = tmp_path / "map.png"
    Image.fromarray(np.array([[[0, 5, 1], [0, 5, 2]]], dtype=np.uint8)).save(path)
    with pytest.raises(DatasetError, match=r"map\.png.*segments \[5\]"):
        read_panoptic(path)


def test_damaged_files_never_raise_anything_else(tmp_path):
    stream = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 256, (9, 9, 3), dtype=np.uint8)
    Image.fromarray(noise).save(stream, "PNG")
    path, rng = tmp_path / "map.png", random.Random(0)
    outcomes = set()
    for _ in range(300):
        content = bytearray(stream.getvalue())
        for _ in range(rng.randint(1, 3)):
            content[rng.randrange(len(content))] = rng.randrange(256)
        path.write_bytes(content[: rng.choice([len(content), rng.randrange(len(content))])])
        try:
            read_panoptic(path)
            outcomes.add("read")
        except DatasetError:
            outcomes.add("refused")
    assert "refused" in outcomes


def test_colourize():
    taxonomy = Taxonomy.load("cityscapes")
    segment = np.zeros((12, 20), dtype=np.int32)
    klass = np.full((12, 20), 10)
    segment[4:10, 2:8], klass[4:10, 2:8] = 1, 13
    segment[4:10, 10:16], klass[4:10, 10:16] = 2, 13
    klass[11] = 19
    panoptic = _map(segment, klass)
    picture = colourize(panoptic, taxonomy)
    assert picture[0, 0].tolist() == list(taxonomy.palette[10])  # sky keeps its colour
    assert picture[11, 0].tolist() == [0, 0, 0]  # void is black
    assert picture[6, 4].tolist() != picture[6, 12].tolist()  # two cars differ
    assert picture[4, 2, 2] < picture[6, 4, 2]  # the border is darker than the inside
    assert np.array_equal(picture[3, :], picture[0, :])  # and lies inside the instance
    plain = colourize(panoptic, taxonomy, borders=False)
    assert len(np.unique(plain[4:10, 2:8].reshape(-1, 3), axis=0)) == 1


@pytest.mark.parametrize("size", [(7, 5), (16, 40), (33, 61), (90, 121)])
def test_resizing_takes_what_nearest_exact_takes(size):
    rng = np.random.default_rng(3)
    segment_id = rng.integers(0, 500, (33, 61)).astype(np.int32)
    panoptic = PanopticMap(segment_id=segment_id, class_id=(segment_id % 19).astype(np.uint8))
    resized = resized_panoptic(panoptic, size)
    theirs = F.interpolate(torch.from_numpy(segment_id)[None, None].double(), size, mode="nearest-exact")[0, 0]
    assert np.array_equal(resized.segment_id, theirs.numpy())
    assert np.array_equal(resized.class_id, resized.segment_id % 19)
