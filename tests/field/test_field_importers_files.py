"""Files that importers met in the field: equal names, turned pictures, litter, what is left out."""

import unicodedata

import numpy as np
import pytest
from official import COCO, SIZE, _photo, _save, camvid, captions, cityscapes, coco, prompts, refused
from PIL import Image

from factories import mamoe
from mamoe.data.reading.pictures import read_picture
from mamoe.prepare.importers import IMPORTERS

# Names.


def test_the_same_frame_of_two_cities(tmp_path):
    source = cityscapes(tmp_path / "source", [("train", city, "frame0000") for city in ("201", "202")])
    summary = IMPORTERS["cityscapes"](source, tmp_path / "out", None)
    for kind in ("images", "panoptic"):
        assert {path.name for path in (tmp_path / "out" / kind / "train").iterdir()} == {
            "201_frame0000.png",
            "202_frame0000.png",
        }
    assert (
        set(captions(tmp_path / "out")) == set(prompts(tmp_path / "out")) == {"201_frame0000.png", "202_frame0000.png"}
    )
    assert any("several folders" in note for note in summary.notes)
    for number, city in enumerate(("201", "202")):
        copied = read_picture(tmp_path / f"out/images/train/{city}_frame0000.png")
        assert np.array_equal(copied, np.random.default_rng(number).integers(0, 256, (*SIZE, 3), dtype=np.uint8))


@pytest.mark.parametrize(
    "names", [("a.jpg", "a.png"), ("A.jpg", "a.jpg"), (unicodedata.normalize("NFC", "ä.jpg"), "a\u0308.jpg")]
)
def test_names_that_would_share_a_file(tmp_path, names):
    source = coco(tmp_path / "source", COCO, (187, 149, 3), pictures=names)
    refused("coco", source, tmp_path / "out", *names, "would be one file")
    refused("camvid", camvid(tmp_path / "camvid", names), tmp_path / "out", *names, "would be one file")


def test_names_with_folders(tmp_path):
    source = coco(tmp_path / "source", COCO, (187, 149, 3), pictures=("paris/1.jpg", "paris/2.jpg"))
    IMPORTERS["coco"](source, tmp_path / "out", None)
    assert set(captions(tmp_path / "out")) == {"1.jpg", "2.jpg"}
    same = coco(tmp_path / "same", COCO, (187, 149, 3), pictures=("paris/1.jpg", "london/1.jpg"))
    IMPORTERS["coco"](same, tmp_path / "two", None)
    assert set(captions(tmp_path / "two")) == {"paris_1.jpg", "london_1.jpg"}


@pytest.mark.parametrize("name", ["../x.jpg", "/etc/x.jpg", "a\\x.jpg", "a/../../x.jpg", "C:x.jpg", "", 7, None])
def test_names_that_lead_outside(tmp_path, name):
    source = coco(tmp_path / "source", COCO, (187, 149, 3), change=lambda t: t["images"][0].update(file_name=name))
    refused("coco", source, tmp_path / "out", "stay inside", repr(name))


def test_pictures_no_reader_would_find(tmp_path):
    source = coco(tmp_path / "source", COCO, (187, 149, 3), pictures=(".hidden.jpg", "x.gif"))
    refused("coco", source, tmp_path / "out", "never read", "x.gif is of a kind that is not read")


# Orientation.


@pytest.mark.parametrize("orientation", [1, 3, 6])
def test_annotations_fit_pictures_as_they_are_shown(tmp_path, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    turned = orientation == 6
    source = camvid(tmp_path / "source", ("a.jpg",))
    _photo(source / "train/a.jpg", size=SIZE[::-1] if turned else SIZE, exif=exif)
    summary = IMPORTERS["camvid"](source, tmp_path / "out", None)
    assert any("EXIF orientation" in note for note in summary.notes) == (orientation != 1)
    assert (tmp_path / "out/images/train/a.jpg").read_bytes() == (source / "train/a.jpg").read_bytes()
    if turned:
        _photo(source / "train/a.jpg", exif=exif)
        refused("camvid", source, tmp_path / "other", "as they are stored", "-Orientation=")


# What is not data.


@pytest.mark.parametrize("name", ["camvid", "cityscapes", "coco"])
def test_what_systems_leave_behind_is_not_data(tmp_path, name):
    make = {"camvid": camvid, "cityscapes": cityscapes, "coco": lambda root: coco(root, COCO, (187, 149, 3))}[name]
    source = make(tmp_path / "source")
    for path in [path for path in source.rglob("*") if path.is_file()]:
        (path.parent / f"._{path.name}").write_bytes(b"\0\5\x16\7")
        (path.parent / ".DS_Store").write_bytes(b"x")
        (path.parent / "Thumbs.db").write_bytes(b"x")
        (path.parent / "@eaDir").mkdir(exist_ok=True)
        (path.parent / "@eaDir" / path.name).write_bytes(b"x")
    for folder in [path for path in source.iterdir() if path.is_dir()]:
        (folder / "__MACOSX").mkdir(exist_ok=True)
    summary = IMPORTERS[name](source, tmp_path / "out", None)
    assert summary.pictures == {"train": 1}
    assert any("leave behind" in note and "Thumbs.db" in note for note in summary.notes)


def test_capital_endings_and_other_kinds_of_pictures(tmp_path):
    source = camvid(tmp_path / "camvid", ("a.jpg", "b.PNG"))
    (source / "trainannot/b.png").rename(source / "trainannot/b.PNG")
    assert IMPORTERS["camvid"](source, tmp_path / "out", None).pictures == {"train": 2}
    source = cityscapes(tmp_path / "cityscapes")
    for path in [*source.rglob("*.png")]:
        path.rename(path.with_suffix(".PNG"))
    assert IMPORTERS["cityscapes"](source, tmp_path / "two", None).pictures == {"train": 1}


def test_what_was_left_out_is_said(tmp_path):
    source = camvid(camvid(tmp_path / "camvid", ("a.png", "b.png")), ("c.png",), split="test")
    (source / "train/b.png").unlink()
    (source / "train/list.txt").write_text("a")
    (source / "testannot/c.png").unlink()
    (source / "testannot").rmdir()
    outcome = mamoe("prepare", "camvid", source, tmp_path / "out")
    assert outcome.code == 0
    assert "list.txt" in outcome.out and "without a picture were left out: b" in outcome.out
    assert "1 picture(s) were left out, for there is no" in outcome.out
    source = cityscapes(tmp_path / "cityscapes", [("train", "aachen", "a"), ("test", "berlin", "b")])
    (source / "leftImg8bit/train/aachen/a_rightImg8bit.png").write_bytes(b"x")
    _save(np.zeros(SIZE, np.uint16), source / "gtFine/train/aachen/z_gtFine_instanceIds.png")
    notes = " ".join(IMPORTERS["cityscapes"](source, tmp_path / "two", None).notes)
    assert "leftImg8bit/test" in notes and "a_rightImg8bit.png" in notes and "z_gtfine" in notes.lower()

    def more(table):
        table["images"].append({"id": 99, "file_name": "99.jpg"})
        table["annotations"][0]["segments_info"].append({"id": 5, "category_id": 3, "area": 0})

    source = coco(tmp_path / "coco", COCO, (187, 149, 3), name="holiday", change=more)
    _photo(source / "holiday/98.jpg")
    outcome = mamoe("prepare", "coco", source, tmp_path / "three")
    assert (
        outcome.code == 0
        and "98.jpg" in outcome.out
        and "99.jpg" in outcome.out
        and "no pixel of the PNG" in outcome.out
    )
    assert "a split called train" in outcome.out and "mamoe train" not in outcome.out
