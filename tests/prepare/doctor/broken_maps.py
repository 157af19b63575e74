"""Faults of maps, to be planted in a clean data set; see broken_sets.py."""

import numpy as np
from broken_sets import Where, book, fault, panoptic, picture, with_entries, with_pixels
from PIL import Image

from mamoe.vocabulary.panoptic import read_panoptic_rgb
from mamoe.vocabulary.taxonomy import Taxonomy


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
    for path in (data / "panoptic/train").iterdir():
        with_pixels(path, lambda rgb: Taxonomy.load("scenes").palette[rgb[..., 2]])
    return Where(file=data / "panoptic/train", severity="warning")
