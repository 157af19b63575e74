"""Faults of pictures and splits, to be planted in a clean data set; see broken_sets.py."""

import os
import shutil
import struct
import unicodedata
import zlib
from pathlib import Path

import numpy as np
from broken_sets import Where, book, fault, panoptic, picture, table
from PIL import Image, ImageEnhance


@fault("convert it to 8 bits")
def picture_of_16_bits(data):
    Image.fromarray(np.zeros((128, 256), np.uint16) + 40000).save(picture(data))
    return Where(file=picture(data))


@fault("Cannot read the picture")
def picture_cut_off(data):
    path = picture(data)
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])
    return Where(file=path)


@fault("Cannot read the picture")
def picture_with_a_flipped_bit(data):
    damaged = bytearray(picture(data).read_bytes())
    damaged[len(damaged) // 2] ^= 16
    picture(data).write_bytes(damaged)
    return Where(file=picture(data))


@fault("Cannot read the picture")
def picture_empty(data):
    picture(data).write_bytes(b"")
    return Where(file=picture(data))


@fault("Cannot read the picture")
def picture_that_is_text(data):
    picture(data).write_text("<html>404</html>")
    return Where(file=picture(data))


@fault("Cannot read the picture")
def picture_bomb(data):
    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", 50_000, 50_000, 8, 2, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 1_000_000)) + chunk(b"IEND", b"")
    picture(data).write_bytes(b"\x89PNG\r\n\x1a\n" + body)
    return Where(file=picture(data))


def _jpeg_of(path: Path, **options) -> Path:
    target = path.with_suffix(".jpg")
    Image.open(path).save(target, **options)
    path.unlink()
    return target


@fault("turned upright")
def picture_turned_by_exif(data):
    exif = Image.Exif()
    exif[0x0112] = 3
    return Where(file=_jpeg_of(picture(data), exif=exif, quality=95), severity="note")


@fault("but its picture")
def picture_on_its_side_by_exif(data):
    exif = Image.Exif()
    exif[0x0112] = 6
    _jpeg_of(picture(data), exif=exif, quality=95)
    return Where(file=panoptic(data))


@fault("transparent and put on black")
def picture_transparent(data):
    rgba = Image.open(picture(data)).convert("RGBA")
    rgba.paste((0, 0, 0, 0), (0, 0, 50, 50))
    rgba.save(picture(data))
    return Where(file=picture(data), severity="note")


@fault("printing colours")
def picture_in_cmyk(data):
    target = picture(data).with_suffix(".jpg")
    Image.open(picture(data)).convert("CMYK").save(target)
    target.with_suffix(".png").unlink()
    return Where(file=target, severity="note")


@fault("a palette")
def picture_with_a_palette(data):
    Image.open(picture(data)).quantize(64).save(picture(data))
    return Where(file=picture(data), severity="note")


@fault("several frames")
def picture_animated(data):
    frames = [Image.open(picture(data)), Image.new("RGB", (256, 128))]
    target = picture(data).with_suffix(".webp")
    frames[0].save(target, save_all=True, append_images=frames[1:], lossless=True)
    target.with_suffix(".png").unlink()
    return Where(file=target, severity="note")


@fault("of one colour")
def picture_blank(data):
    Image.new("RGB", (256, 128), (90, 90, 90)).save(picture(data))
    return Where(file=picture(data), severity="warning")


@fault("not read: phone.heic")
def picture_in_another_format(data):
    (data / "images/train/phone.heic").write_bytes(b"x")
    return Where(file=data / "images/train", severity="note")


@fault("no picture")
def picture_behind_a_broken_link(data):
    path = picture(data)
    path.unlink()
    path.symlink_to(data / "gone.png")
    return Where(file=path)


@fault("a pipe")
def picture_that_is_a_pipe(data):
    os.mkfifo(data / "images/train/scene_pipe.png")
    return Where(file=data / "images/train/scene_pipe.png")


@fault("are called")
def pictures_of_one_stem(data):
    Image.open(picture(data)).save(picture(data).with_suffix(".jpg"))
    return Where(file=data / "images/train")


@fault("look the same")
def pictures_in_two_unicode_forms(data):
    for form, number in (("NFC", 2), ("NFD", 3)):
        name = unicodedata.normalize(form, "caf\u00e9.png")
        Image.open(picture(data, number)).save(data / "images/train" / name)
    return Where(file=data / "images/train")


@fault("folders are not looked into")
def pictures_in_folders(data):
    (data / "images/train/more").mkdir()
    return Where(file=data / "images/train", severity="note")


# Splits


@fault("in the splits")
def same_file_in_two_splits(data):
    target = picture(data, 0, "val")
    target.write_bytes(picture(data).read_bytes())
    panoptic(data, 0, "val").write_bytes(panoptic(data).read_bytes())
    (data / "instance_prompts_val.json").write_text("{}")
    return Where(file=target, severity="warning")


@fault("is the same picture as")
def same_picture_in_two_splits(data):
    source, target = Image.open(picture(data)), picture(data, 0, "val")
    target.unlink()
    source.resize((240, 120)).resize((256, 128)).save(target.with_suffix(".jpg"), quality=80)
    panoptic(data, 0, "val").write_bytes(panoptic(data).read_bytes())
    (data / "instance_prompts_val.json").write_text("{}")
    return Where(file=target.with_suffix(".jpg"), severity="warning")


@fault("is the same picture as")
def brighter_copy_in_two_splits(data):
    brighter = ImageEnhance.Brightness(Image.open(picture(data, 4))).enhance(1.1)
    brighter.resize(brighter.size, Image.Resampling.BICUBIC).save(picture(data, 1, "val"))
    panoptic(data, 1, "val").write_bytes(panoptic(data, 4).read_bytes())
    (data / "instance_prompts_val.json").write_text("{}")
    return Where(file=picture(data, 1, "val"), severity="warning")


@fault("differ in capitals alone")
def pictures_that_differ_in_capitals(data):
    other = picture(data, 6).with_name("SCENE_000005.png")
    picture(data, 6).rename(other)
    panoptic(data, 6).rename(panoptic(data, 6).with_name(other.name))
    for text in (table(data), book(data)):
        text.write_text(text.read_text().replace("scene_000006.png", other.name))
    return Where(file=picture(data, 5), severity="warning")


@fault("trained on twice")
def same_file_twice_in_a_split(data):
    picture(data, 2).write_bytes(picture(data).read_bytes())
    return Where(file=picture(data, 2), severity="warning")


@fault("no split 'val'")
def no_val(data):
    shutil.rmtree(data / "images/val")
    return Where(file=data / "images", severity="note")
