"""A clean data set with one fault planted in it: more than fifty kinds, each with where it must be found."""

from __future__ import annotations

import json
import os
import struct
import unicodedata
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from mamoe.vocabulary.panoptic import read_panoptic_rgb


@dataclass(frozen=True, kw_only=True)
class Where:
    """What the check must say about a planted fault."""

    file: Path
    severity: str = "problem"
    line: int | None = None
    segment: int | None = None
    position: tuple[int, int] | None = None


FAULTS: dict[str, tuple[str, Callable[[Path], Where]]] = {}  # name -> (words that must be said, the planting)


def fault(words: str) -> Callable:
    def kept(plant: Callable[[Path], Where]) -> Callable[[Path], Where]:
        FAULTS[plant.__name__] = words, plant
        return plant

    return kept


def picture(data: Path, number: int = 1, split: str = "train") -> Path:
    return sorted((data / "images" / split).glob("scene*"))[number]


def panoptic(data: Path, number: int = 1, split: str = "train") -> Path:
    return sorted((data / "panoptic" / split).glob("scene*"))[number]


def table(data: Path) -> Path:
    return data / "prompts_train.csv"


def book(data: Path) -> Path:
    return data / "instance_prompts_train.json"


def with_line(data: Path, number: int, change: Callable[[str], str]) -> None:
    lines = table(data).read_text(encoding="utf-8").splitlines()
    lines[number - 1] = change(lines[number - 1])
    table(data).write_text("\n".join(lines) + "\n", encoding="utf-8")


def prompt_of_line(text: str) -> Callable[[str], str]:
    return lambda line: f"{line.partition(',')[0]},{text}"


def with_entries(data: Path, change: Callable[[dict], None]) -> None:
    entries = json.loads(book(data).read_text(encoding="utf-8"))
    change(entries)
    book(data).write_text(json.dumps(entries), encoding="utf-8")


def with_pixels(path: Path, change: Callable[[np.ndarray], np.ndarray | None]) -> None:
    rgb = read_panoptic_rgb(path).copy()
    changed = change(rgb)
    Image.fromarray(rgb if changed is None else changed).save(path)


def a_thing(path: Path) -> tuple[int, int]:
    """(segment, class) of the largest car in a map."""
    rgb = read_panoptic_rgb(path).astype(int)
    found = (rgb[..., 0] * 256 + rgb[..., 1])[rgb[..., 2] == 13]
    return int(np.bincount(found).argmax()), 13


# Pictures


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


@fault("trained on twice")
def same_file_twice_in_a_split(data):
    picture(data, 2).write_bytes(picture(data).read_bytes())
    return Where(file=picture(data, 2), severity="warning")


@fault("no split 'val'")
def no_val(data):
    import shutil

    shutil.rmtree(data / "images/val")
    return Where(file=data / "images", severity="note")


# Maps


@fault("has no panoptic map")
def map_missing(data):
    panoptic(data).unlink()
    return Where(file=picture(data))


@fault("belong to no picture")
def map_without_picture(data):
    (data / "panoptic/train/stray.png").write_bytes(panoptic(data).read_bytes())
    return Where(file=data / "panoptic/train", severity="note")


@fault("differs in capitals")
def map_in_capitals(data):
    panoptic(data).rename(panoptic(data).with_name(panoptic(data).name.upper()))
    return Where(file=picture(data))


@fault("but its picture")
def map_of_another_size(data):
    with_pixels(panoptic(data), lambda rgb: rgb[:64])
    return Where(file=panoptic(data))


@fault("palette PNG")
def map_with_a_palette(data):
    blue = Image.fromarray(read_panoptic_rgb(panoptic(data))[..., 2]).convert("P")
    blue.save(panoptic(data))
    return Where(file=panoptic(data))


@fault("one channel")
def map_in_grey(data):
    Image.fromarray(read_panoptic_rgb(panoptic(data))[..., 2]).save(panoptic(data))
    return Where(file=panoptic(data))


@fault("16 bits")
def map_of_16_bits(data):
    Image.fromarray(read_panoptic_rgb(panoptic(data))[..., 2].astype(np.uint16) * 1000).save(panoptic(data))
    return Where(file=panoptic(data))


@fault("alpha channel")
def map_with_alpha(data):
    Image.open(panoptic(data)).convert("RGBA").save(panoptic(data))
    return Where(file=panoptic(data))


@fault("Lossy formats change ids")
def map_that_is_a_jpeg(data):
    Image.open(panoptic(data)).save(panoptic(data), format="JPEG")
    return Where(file=panoptic(data))


@fault("Lossy formats change ids")
def map_called_jpeg(data):
    Image.open(panoptic(data)).save(panoptic(data).with_suffix(".jpg"))
    panoptic(data).with_suffix(".png").unlink()
    return Where(file=picture(data))


@fault("Cannot read the panoptic map")
def map_cut_off(data):
    path = panoptic(data)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    return Where(file=path)


@fault("its EXIF says orientation 6")
def map_turned_by_exif(data):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.open(panoptic(data)).save(panoptic(data), exif=exif)
    return Where(file=panoptic(data))


@fault("class id 77 (32 pixels)")
def map_with_an_unknown_class(data):
    with_pixels(panoptic(data), lambda rgb: rgb.__setitem__(np.s_[40:44, 60:68], (0, 0, 77)))
    return Where(file=panoptic(data), position=(40, 60))


@fault("have several")
def map_with_a_segment_of_two_classes(data):
    def paint(rgb):
        rgb[10:20, 10:40], rgb[20:22, 30:40] = (9, 9, 13), (9, 9, 11)

    with_pixels(panoptic(data), paint)
    return Where(file=panoptic(data), segment=9 * 256 + 9, position=(20, 30))


@fault("in 24 pieces")
def map_with_a_scattered_segment(data):
    def paint(rgb):
        for row in range(4):
            for column in range(6):
                rgb[10 + 8 * row : 14 + 8 * row, 20 + 10 * column : 25 + 10 * column] = (7, 7, 13)

    with_pixels(panoptic(data), paint)
    with_entries(data, lambda entries: entries[picture(data).name].update({str(7 * 257): "a red car"}))
    return Where(file=panoptic(data), segment=7 * 257, severity="warning")


@fault("colours between those of their two sides")
def map_resized_smoothly(data):
    def shrink(rgb):
        ids = np.where(rgb[..., 2] == 10, 10, 2).astype(np.uint8)  # sky, building; classes between are known ones
        smooth = (
            Image.fromarray(ids)
            .resize((128, 64), Image.Resampling.BILINEAR)
            .resize((256, 128), Image.Resampling.BICUBIC)
        )
        return np.stack([np.zeros_like(ids), np.zeros_like(ids), np.clip(np.asarray(smooth), 2, 10)], axis=-1)

    with_pixels(panoptic(data), shrink)
    with_entries(data, lambda entries: entries.pop(picture(data).name))
    return Where(file=panoptic(data), severity="warning")


@fault("class id")
def map_saved_with_loss(data):
    path = panoptic(data)
    Image.open(path).save(path.with_suffix(".jpg"), quality=90)
    Image.open(path.with_suffix(".jpg")).save(path)
    path.with_suffix(".jpg").unlink()
    return Where(file=path)


@fault("would fit")
def map_shifted(data):
    with_pixels(panoptic(data), lambda rgb: np.roll(rgb, (6, 12), (0, 1)))
    return Where(file=panoptic(data), severity="warning")


@fault("order BGR")
def maps_as_bgr(data):
    for path in (data / "panoptic/train").iterdir():
        with_pixels(path, lambda rgb: rgb[..., ::-1])
    return Where(file=data / "panoptic/train", severity="warning")


@fault("is the only class")
def maps_of_one_class(data):
    for path in (data / "panoptic/train").iterdir():
        with_pixels(path, np.zeros_like)
    book(data).write_text("{}")
    return Where(file=data / "panoptic/train", severity="warning")


@fault("no segment of one")
def maps_without_instances(data):
    for path in (data / "panoptic/train").iterdir():
        with_pixels(path, lambda rgb: rgb * np.array([0, 0, 1], np.uint8))
    book(data).write_text("{}")
    return Where(file=data / "panoptic/train", severity="warning")


@fault("as many colours as photographs")
def maps_that_are_photographs(data):
    for number in range(8):
        noise = np.random.default_rng(number).integers(0, 256, (128, 256, 3), dtype=np.uint8)
        Image.fromarray(noise).save(panoptic(data, number))
    return Where(file=data / "panoptic/train", severity="warning")


@fault("colour-coded semantic maps")
def maps_in_colours(data):
    from mamoe.vocabulary.taxonomy import Taxonomy

    for path in (data / "panoptic/train").iterdir():
        with_pixels(path, lambda rgb: Taxonomy.load("scenes").palette[rgb[..., 2]])
    return Where(file=data / "panoptic/train", severity="warning")


# Prompts


@fault("there is no such picture")
def prompt_of_no_picture(data):
    with table(data).open("a") as file:
        file.write("scene_nowhere.png,a street\n")
    return Where(file=table(data), line=10)


@fault("has no prompt in")
def picture_without_prompt(data):
    lines = table(data).read_text().splitlines()
    table(data).write_text("\n".join(lines[:-1]) + "\n")
    return Where(file=picture(data, 7))


@fault("empty prompt")
def prompt_empty(data):
    with_line(data, 3, prompt_of_line(""))
    return Where(file=table(data), severity="note")


@fault("the end is cut off")
def prompt_too_long(data):
    with_line(data, 3, prompt_of_line("an extraordinarily " * 60 + "street"))
    return Where(file=table(data), line=3, severity="warning")


@fault("pictures have the prompt")
def prompt_repeated(data):
    for line in range(2, 10):
        with_line(data, line, prompt_of_line("a street"))
    return Where(file=table(data), severity="warning")


@fault("already has a prompt")
def prompt_row_twice(data):
    lines = table(data).read_text().splitlines()
    table(data).write_text("\n".join([*lines, lines[2]]) + "\n")
    return Where(file=table(data), line=10)


@fault("3 cells")
def prompt_with_a_bare_comma(data):
    with_line(data, 4, prompt_of_line("a street, at dusk"))
    return Where(file=table(data), line=4)


@fault("check the quotes")
def prompt_with_an_open_quote(data):
    with_line(data, 9, prompt_of_line('"a street'))
    return Where(file=table(data), line=9)


@fault("the header must be")
def prompts_without_header(data):
    with_line(data, 1, lambda line: "file,text")
    return Where(file=table(data), line=1)


@fault("is not UTF-8")
def prompts_in_latin_1(data):
    with_line(data, 3, prompt_of_line("a caf\u00e9"))
    table(data).write_bytes(table(data).read_text(encoding="utf-8").encode("latin-1"))
    return Where(file=table(data))


@fault("is not UTF-8")
def prompts_in_utf_16(data):
    table(data).write_text(table(data).read_text(encoding="utf-8"), encoding="utf-16")
    return Where(file=table(data))


@fault("byte order mark")
def prompts_with_a_byte_order_mark(data):
    table(data).write_text(table(data).read_text(encoding="utf-8"), encoding="utf-8-sig")
    return Where(file=table(data), line=1, severity="note")


@fault("read as another encoding")
def prompt_garbled(data):
    with_line(data, 3, prompt_of_line("a caf\u00e9".encode().decode("latin-1")))
    return Where(file=table(data), line=3, severity="warning")


@fault("'\\x07'")
def prompt_with_a_bell(data):
    with_line(data, 3, prompt_of_line("a street\x07"))
    return Where(file=table(data), line=3, severity="warning")


@fault("quoted twice")
def prompt_quoted_twice(data):
    with_line(data, 3, prompt_of_line('"""a street"""'))
    return Where(file=table(data), line=3, severity="warning")


@fault("without . and ..")
def prompt_of_a_path_outside(data):
    with_line(data, 3, lambda line: "../../secret.png,a street")
    return Where(file=table(data), line=3)


@fault("without . and ..")
def prompt_of_an_absolute_path(data):
    with_line(data, 3, lambda line: "/etc/passwd,a street")
    return Where(file=table(data), line=3)


@fault("separated by /")
def prompt_of_a_windows_path(data):
    with_line(data, 3, lambda line: "train\\scene.png,a street")
    return Where(file=table(data), line=3)


@fault("no such picture")
def prompt_of_a_name_with_nul(data):
    with_line(data, 3, lambda line: "scene\0.png,a street")
    return Where(file=table(data), line=3)


# Instance prompts


@fault("not valid JSON")
def instance_prompts_cut_off(data):
    book(data).write_text(book(data).read_text()[:-20])
    return Where(file=book(data))


@fault("stands twice")
def instance_prompts_with_a_key_twice(data):
    name = picture(data).name
    book(data).write_text(f'{{"{name}": {{}}, "{name}": {{}}}}')
    return Where(file=book(data))


@fault("there is no such picture")
def instance_prompts_of_no_picture(data):
    with_entries(data, lambda entries: entries.update({"nowhere.png": {"1": "a car"}}))
    return Where(file=book(data))


@fault("no such segment")
def instance_prompt_of_no_segment(data):
    with_entries(data, lambda entries: entries[picture(data).name].update({"4321": "a car"}))
    return Where(file=book(data), segment=4321)


@fault("text that is not empty")
def instance_prompt_empty(data):
    segment, _ = a_thing(panoptic(data))
    with_entries(data, lambda entries: entries[picture(data).name].update({str(segment): " "}))
    return Where(file=book(data), segment=segment)


@fault("a whole number in 1..65535")
def instance_prompt_of_no_number(data):
    with_entries(data, lambda entries: entries[picture(data).name].update({"car": "a car"}))
    return Where(file=book(data))


@fault("things without a prompt")
def thing_without_prompt(data):
    segment, _ = a_thing(panoptic(data))
    with_entries(data, lambda entries: entries[picture(data).name].pop(str(segment)))
    return Where(file=panoptic(data), segment=segment, severity="warning")


@fault("the end is cut off")
def instance_prompt_too_long(data):
    segment, _ = a_thing(panoptic(data))
    with_entries(data, lambda entries: entries[picture(data).name].update({str(segment): "a red car " * 30}))
    return Where(file=book(data), segment=segment, severity="warning")


# The description


@fault("is not read")
def description_misnamed(data):
    (data / "data.yaml").rename(data / "data.yml")
    return Where(file=data / "data.yml", severity="note")
