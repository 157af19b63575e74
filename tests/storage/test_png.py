"""PNGs read by another decoder than PIL: the same pixels, the same refusals."""

import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from mamoe.data.reading.pictures import read_picture, shrunk_grey
from mamoe.errors import DatasetError
from mamoe.storage import png
from mamoe.storage.png import decode_png, encode_png
from mamoe.vocabulary.panoptic import colour_numbers, read_panoptic_rgb

RNG = np.random.default_rng(0)
SMOOTH = np.add.outer(np.arange(33) * 3, np.arange(57) * 2).astype(np.uint8)[..., None] + np.uint8([0, 40, 90])
NOISE = RNG.integers(0, 256, (17, 29, 3), dtype=np.uint8)
SIDES = (60, 20, 16)  # factors 1, 2 and 3, of which 2 does not divide the sides of SMOOTH


@pytest.mark.parametrize("pixels", [SMOOTH, NOISE, NOISE[:1, :1]], ids=["smooth", "noise", "one pixel"])
@pytest.mark.parametrize("options", [{}, {"optimize": True}, {"compress_level": 0}, {"icc_profile": b"x" * 200}])
def test_pixels_are_those_that_were_written(tmp_path, pixels, options):
    path = tmp_path / "ä b.png"
    Image.fromarray(pixels).save(path, **options)
    found = decode_png(path)
    assert found is not None and found.dtype == np.uint8 and np.array_equal(found, pixels)
    path.write_bytes(encode_png(pixels))
    assert np.array_equal(decode_png(path), pixels)


def with_chunk(data: bytes, kind: bytes, content: bytes) -> bytes:
    """A further chunk behind the header."""
    chunk = struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
    return data[:33] + chunk + data[33:]


@pytest.mark.parametrize(
    ("kind", "content"),
    [
        (b"gAMA", struct.pack(">I", 220000)),
        (b"sRGB", b"\0"),
        (b"pHYs", struct.pack(">IIB", 1, 2, 0)),
        (b"tEXt", b"a\0b"),
    ],
)
def test_what_a_file_says_of_colours_changes_no_pixel(tmp_path, kind, content):
    path = tmp_path / "a.png"
    path.write_bytes(with_chunk(encode_png(NOISE), kind, content))
    assert np.array_equal(decode_png(path), NOISE) and np.array_equal(read_picture(path), NOISE)


def test_pictures_and_maps_are_the_same_without_it(tmp_path, monkeypatch):
    path = tmp_path / "a.png"
    Image.fromarray(SMOOTH).save(path)
    quick = [read_picture(path), read_panoptic_rgb(path)]
    small = [shrunk_grey(path, side)[0] for side in SIDES]
    monkeypatch.setattr(png, "_read_rgb", None)
    slow = [read_picture(path), read_panoptic_rgb(path)]
    assert all(np.array_equal(a, b) and a.dtype == b.dtype for a, b in zip(quick, slow, strict=True))
    for quick_grey, side in zip(small, SIDES, strict=True):
        slow_grey = shrunk_grey(path, side)[0]
        assert quick_grey.shape == slow_grey.shape and quick_grey.dtype == slow_grey.dtype
        assert np.abs(quick_grey.astype(int) - slow_grey).max() <= 1


def test_a_colour_is_one_number():
    assert colour_numbers(SMOOTH)[3, 4] == SMOOTH[3, 4].astype(int) @ (1 << 16, 1 << 8, 1)


def test_transparent_turned_and_animated_pngs_are_read_as_they_are_shown(tmp_path):
    path = tmp_path / "a.png"
    colour = tuple(map(int, NOISE[0, 0]))
    Image.fromarray(NOISE).save(path, transparency=colour)
    assert read_picture(path)[0, 0].tolist() == [0, 0, 0]  # on black
    exif = Image.Exif()
    exif[274] = 6
    Image.fromarray(NOISE).save(path, exif=exif)
    assert np.array_equal(read_picture(path), np.rot90(NOISE, -1))
    Image.fromarray(NOISE).save(path, save_all=True, append_images=[Image.fromarray(255 - NOISE)])
    assert np.array_equal(read_picture(path), NOISE)


@pytest.mark.parametrize("mode", ["1", "L", "P", "LA", "RGBA", "I;16"])
def test_of_other_kinds_nothing_is_read(tmp_path, mode):
    Image.new(mode, (5, 4)).save(tmp_path / "a.png")
    assert decode_png(tmp_path / "a.png") is None


def test_damage_is_found(tmp_path):
    path, whole = tmp_path / "a.png", encode_png(NOISE)
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 255
    for data in (b"", b"no picture", whole[:-30], whole[: len(whole) // 2], bytes(flipped)):
        path.write_bytes(data)
        assert decode_png(path) is None
        for read in (read_picture, read_panoptic_rgb):
            with pytest.raises(DatasetError, match=r"Cannot read the .*a\.png"):
                read(path)
    assert decode_png(tmp_path / "none.png") is None


def test_a_bomb_is_refused_by_its_header(tmp_path):
    header = struct.pack(">IIBBBBB", 50_000, 50_000, 8, 2, 0, 0, 0)
    kinds = ((b"IHDR", header), (b"IDAT", zlib.compress(bytes(1000))), (b"IEND", b""))
    (tmp_path / "a.png").write_bytes(png._SIGNATURE + b"".join(png._chunk(*one) for one in kinds))
    for read in (read_picture, read_panoptic_rgb):
        with pytest.raises(DatasetError, match="exceeds limit"):
            read(tmp_path / "a.png")
