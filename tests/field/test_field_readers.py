"""What users' folders hold besides plain RGB files with matching names: read, refused, or left aside with a word."""

import json
import struct
import unicodedata
import zlib

import numpy as np
import pytest
from odd_folders import PIPE, QUADRANTS, SHOWN, csv_of, indexed, make_set, oriented
from PIL import Image

from factories import mamoe
from mamoe.data.check.readings import reading_notes
from mamoe.data.encoded import content_of, content_of_picture
from mamoe.data.folder.split import list_splits
from mamoe.data.reading.looks import look_at_picture
from mamoe.data.reading.pictures import picture_header, picture_size, read_picture
from mamoe.errors import DatasetError
from mamoe.evaluation.features.store import common_size, list_pictures, read_through
from mamoe.evaluation.protocol import picture_hash
from mamoe.sampling.jobs import LayoutFolder, list_jobs
from mamoe.vocabulary.panoptic import read_panoptic

# Orientation.


def said_of(*pictures):
    return reading_notes([(path, look_at_picture(path)) for path in pictures])


@pytest.mark.parametrize("ending", ["png", "jpg", "tif", "webp", "avif"])
@pytest.mark.parametrize("orientation", SHOWN)
def test_pictures_stand_upright_whatever_exif_says(tmp_path, ending, orientation):
    path = tmp_path / f"a.{ending}"
    Image.fromarray(QUADRANTS).save(path, exif=oriented(orientation), quality=95)
    picture, shown = read_picture(path), SHOWN[orientation]
    assert picture.shape == shown.shape and picture_size(path) == shown.shape[:2]
    assert np.abs(picture.astype(int) - shown).mean() < 4
    assert common_size({"a": [path]}) == shown.shape[:2] and read_through(path, None).shape == shown.shape
    assert bool(said_of(path)) == (orientation != 1)


def test_exif_behind_the_pixels_of_a_png_counts_too(tmp_path):
    Image.fromarray(QUADRANTS).save(tmp_path / "a.png")
    content, exif = (tmp_path / "a.png").read_bytes(), oriented(6).tobytes().removeprefix(b"Exif\0\0")
    chunk = struct.pack(">I", len(exif)) + b"eXIf" + exif + struct.pack(">I", zlib.crc32(b"eXIf" + exif))
    end = content.rindex(b"IEND") - 4
    (tmp_path / "a.png").write_bytes(content[:end] + chunk + content[end:])
    assert picture_size(tmp_path / "a.png") == (32, 16)
    assert np.array_equal(read_picture(tmp_path / "a.png"), SHOWN[6])


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
def test_damaged_exif_does_not_spoil_a_picture(tmp_path):
    Image.fromarray(QUADRANTS).save(tmp_path / "a.png", exif=b"Exif\0\0MM\0*\0\0\0\x08\0\x05broken")
    assert np.array_equal(read_picture(tmp_path / "a.png"), QUADRANTS)


def test_a_turned_map_is_refused(tmp_path):
    Image.fromarray(np.zeros((4, 8, 3), dtype=np.uint8)).save(tmp_path / "m.png", exif=oriented(3))
    with pytest.raises(DatasetError, match=r"m\.png.*EXIF says orientation 3"):
        read_panoptic(tmp_path / "m.png")


def test_caches_know_how_a_picture_is_read_and_keep_what_they_have_of_others(tmp_path):
    plain, turned, clear = (tmp_path / f"{name}.png" for name in ("plain", "turned", "clear"))
    Image.fromarray(QUADRANTS).save(plain)
    Image.fromarray(QUADRANTS).save(turned, exif=oriented(8))
    Image.new("RGBA", (8, 8), (200, 0, 0, 0)).save(clear)
    assert content_of_picture(plain) == content_of(plain)
    for path in (turned, clear):
        assert content_of_picture(path) != content_of(path) and picture_hash(path) != picture_hash(plain)


# Transparency, frames, bits, formats.


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "RGB"])
def test_transparency_is_put_on_black_and_said_once(tmp_path, mode):
    picture = Image.new("RGBA", (8, 4), (200, 200, 200, 255))
    picture.paste((200, 200, 200, 0), (0, 0, 4, 4))
    if mode == "RGB":
        picture = Image.new("RGB", (8, 4), (200, 200, 200))
        picture.paste((250, 0, 250), (0, 0, 4, 4))
        picture.save(tmp_path / "a.png", transparency=(250, 0, 250))
    else:
        (picture.quantize() if mode == "P" else picture.convert(mode)).save(tmp_path / "a.png")
    pixels = read_picture(tmp_path / "a.png")
    assert not pixels[:, :4].any() and (np.abs(pixels[:, 4:].astype(int) - 200) < 3).all()
    Image.new("RGBA", (8, 4), (1, 2, 3, 255)).save(tmp_path / "opaque.png")
    (note,) = said_of(tmp_path / "a.png", tmp_path / "opaque.png")
    assert note == "1 pictures are transparent and put on black: a.png"


def test_of_several_frames_or_pages_the_first_is_read_with_a_word(tmp_path):
    first, second = Image.new("RGB", (8, 8), (10, 20, 30)), Image.new("RGB", (8, 8), "white")
    for name in ("a.webp", "b.tiff", "c.png"):
        first.save(tmp_path / name, save_all=True, append_images=[second], lossless=True)
        assert (
            read_picture(tmp_path / name)[0, 0].tolist() == [10, 20, 30] and picture_header(tmp_path / name).frames == 2
        )
    (note,) = said_of(*list_pictures(tmp_path))
    assert note.startswith("3 pictures have several frames or pages")


def test_sixteen_bits_per_colour_are_refused_in_pictures_too(tmp_path):
    def chunk(kind, body):
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", 2, 2, 16, 2, 0, 0, 0)
    rows = zlib.compress(b"".join(b"\0" + bytes(12) for _ in range(2)))
    path = tmp_path / "a.png"
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b""))
    for read in (read_picture, picture_size):
        with pytest.raises(DatasetError, match=r"RGB;16B.*8 bits"):
            read(path)


# Maps that are no panoptic PNG.


@pytest.mark.parametrize(
    ("picture", "form", "says"),
    [
        (Image.new("P", (4, 4)), "PNG", "palette PNG.*prepare camvid"),
        (Image.fromarray(np.full((4, 4), 26001, dtype=np.uint16)), "PNG", r"class \* 1000.*prepare cityscapes"),
        (Image.new("L", (4, 4)), "PNG", "one channel.*labelIds"),
        (Image.new("RGBA", (4, 4)), "PNG", "alpha channel.*without alpha"),
        (Image.new("RGB", (4, 4)), "JPEG", "Lossy formats change ids"),
        (Image.new("RGB", (4, 4)), "WEBP", "Lossy formats change ids"),
        (Image.new("RGB", (4, 4)), "TIFF", "Save it again as PNG"),
    ],
)
def test_a_map_of_another_kind_is_told_what_it_looks_like(tmp_path, picture, form, says):
    picture.save(tmp_path / "m.png", format=form)
    with pytest.raises(DatasetError, match=rf"m\.png must be an 8-bit RGB PNG.*{says}"):
        read_panoptic(tmp_path / "m.png")


@pytest.mark.parametrize(("ending", "says"), [("jpg", "Lossy"), ("tif", "Save it again as PNG")])
def test_maps_with_another_ending_are_explained_and_not_just_missing(tmp_path, ending, says):
    make_set(tmp_path, ["a.png"], maps=[])
    Image.fromarray(QUADRANTS).save(tmp_path / f"panoptic/train/a.{ending}")
    (problem,) = indexed(tmp_path).problems
    assert f"a.{ending} there is no 8-bit RGB PNG" in problem and says in problem
    with pytest.raises(DatasetError, match=says):
        list_jobs(LayoutFolder(panoptic=tmp_path / "panoptic/train"), PIPE)


# Which files are data.


LITTER = (
    "._a.png",
    ".DS_Store",
    "Thumbs.db",
    "desktop.ini",
    ".hidden.png",
    "__MACOSX/a.png",
    "@eaDir/a.png",
    ".t/a.png",
)


@pytest.mark.parametrize("recursive", [False, True])
def test_what_systems_leave_behind_is_no_data_for_any_reader(tmp_path, recursive):
    make_set(tmp_path, ["a.png"])
    (tmp_path / "shown/train").mkdir(parents=True)
    Image.fromarray(QUADRANTS).save(tmp_path / "shown/train/a.png")
    folders = [tmp_path / place / "train" for place in ("images", "panoptic", "shown")]
    for folder in (*folders, tmp_path / "images"):
        for name in LITTER:
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).write_bytes(b"no picture")
    files = indexed(tmp_path, conditions=tmp_path / "shown", recursive=recursive)
    assert [sample.key for sample in files.samples] == ["a.png"] and not files.problems
    assert len(files.notes) == 1 and "no prompts CSV" in files.notes[0]
    assert list_splits(tmp_path / "images") == ["train"]
    assert [path.name for path in list_pictures(folders[0], recursive=recursive)] == ["a.png"]
    assert [job.name for job in list_jobs(LayoutFolder(panoptic=folders[1], recursive=recursive), PIPE)] == ["a.png"]


def test_capitals_in_endings_do_not_matter(tmp_path):
    make_set(tmp_path, ["a.JPG", "b.TIF", "c.Png"], maps=["a.PNG", "b.Png", "c.png"])
    files = indexed(tmp_path)
    assert not files.problems and [s.panoptic.name for s in files.samples] == ["a.PNG", "b.Png", "c.png"]
    assert [job.name for job in list_jobs(LayoutFolder(panoptic=tmp_path / "panoptic/train"), PIPE)] == [
        "a.png",
        "b.png",
        "c.png",
    ]


def test_what_is_left_aside_is_counted_and_named(tmp_path):
    make_set(tmp_path, ["a.png", "b.png"], maps=["a.png", "b.png", "c.png", "d.png"])
    (tmp_path / "images/train/x.heic").touch()
    (tmp_path / "images/train/notes.txt").touch()
    (tmp_path / "data.yaml").write_text(
        f"taxonomy: cityscapes\nimages: {tmp_path}/images\npanoptic_maps: {tmp_path}/panoptic\n"
        f"prompts: {tmp_path}/p_{{split}}.csv\n"
    )
    csv_of(tmp_path / "p_train.csv", "a.png,a street", "b.png,")
    outcome = mamoe("check", tmp_path)
    assert outcome.code == 0
    for part in (
        "2 maps belong to no picture in",
        "c.png, d.png",
        "1 files are not read: x.heic; convert them",
        "1 files are not read: notes.txt",
        "1 pictures have an empty prompt: b.png",
    ):
        assert part in outcome.out


# Names.


@pytest.mark.parametrize(("picture", "other"), [("NFC", "NFD"), ("NFD", "NFC")])
def test_names_match_however_their_accents_are_written(tmp_path, picture, other):
    ours, theirs = (unicodedata.normalize(form, "straße_löwe_é") for form in (picture, other))
    make_set(tmp_path, [f"{ours}.png"], maps=[f"{theirs}.png"])
    prompts = csv_of(tmp_path / "p.csv", f"{theirs}.png,a street")
    (tmp_path / "i.json").write_text(json.dumps({theirs: {"1": "a road"}}))
    files = indexed(tmp_path, prompts=prompts, instance_prompts=tmp_path / "i.json")
    assert not files.problems and files.samples[0].key == f"{ours}.png"
    assert files.samples[0].prompts.global_prompt == "a street" and files.samples[0].prompts.by_segment == {1: "a road"}
    make_set(tmp_path, [f"{theirs}.png"], maps=[])
    assert any("2 pictures are called" in problem for problem in indexed(tmp_path).problems)


def test_a_name_in_other_capitals_is_explained_once_per_file(tmp_path):
    make_set(tmp_path, ["A.jpg"], maps=["a.png"])
    prompts = csv_of(tmp_path / "p.csv", "a.jpg,a street")
    (tmp_path / "i.json").write_text('{"a.jpg": {"1": "x"}}')
    files = indexed(tmp_path, prompts=prompts, instance_prompts=tmp_path / "i.json")
    assert len(files.problems) == 3 and all("differs in capitals" in problem for problem in files.problems)
    assert not [note for note in files.notes if "no picture" in note]


def test_spaces_around_a_key_are_explained(tmp_path):
    make_set(tmp_path, ["a.png", "b.png"])
    problems = indexed(tmp_path, prompts=csv_of(tmp_path / "p.csv", "a.png ,x", " b.png,y")).problems
    assert len(problems) == 2 and all("differs in capitals or spaces" in problem for problem in problems)


def test_keys_are_file_names_or_names_without_ending_for_every_reader(tmp_path):
    make_set(tmp_path, ["a.jpg", "b.1.png", "c.png", "d.jpg"])
    prompts = csv_of(tmp_path / "p.csv", "a,one", "b.1,two", "c.png,three", "d.png,four")
    (tmp_path / "i.json").write_text('{"a": {"1": "x"}, "b.1": {"1": "y"}, "c.png": {"1": "z"}}')
    files = indexed(tmp_path, prompts=prompts, instance_prompts=tmp_path / "i.json")
    jobs = list_jobs(
        LayoutFolder(panoptic=tmp_path / "panoptic/train", prompts=prompts, instance_prompts=tmp_path / "i.json"), PIPE
    )
    assert not files.problems
    for found in ([sample.prompts for sample in files.samples], [job.prompts for job in jobs]):
        assert {p.global_prompt: dict(p.by_segment) for p in found} == {
            "one": {1: "x"}, "two": {1: "y"}, "three": {1: "z"}, "four": {}
        }  # fmt: skip
    prompts = csv_of(tmp_path / "p.csv", "a,one", "a.jpg,again", "b.1.png,x", "c,x", "d,x")
    assert "already named by the key 'a'" in indexed(tmp_path, prompts=prompts).problems[0]
    with pytest.raises(DatasetError, match="already named by the key 'a'"):
        list_jobs(LayoutFolder(panoptic=tmp_path / "panoptic/train", prompts=prompts), PIPE)
