"""Importers of public data sets against their official layouts: classes, void, groups, single things."""

import json
import shutil
import struct
import zlib

import numpy as np
import pytest
from foreign import ade20k, bdd100k, idd, kitti360, mapillary, photo, save
from PIL import Image

from factories import mamoe, trained_by
from mamoe.errors import DatasetError
from mamoe.prepare.check import check_folder
from mamoe.prepare.idd import LEVEL3
from mamoe.prepare.importers import IMPORTERS
from mamoe.vocabulary.panoptic import read_panoptic
from mamoe.vocabulary.taxonomy import Taxonomy


def imported(name, source, out):
    """What the importer wrote, once its check found nothing: the summary, and map, groups and class names by file."""
    summary = IMPORTERS[name](source, out, None)
    assert check_folder(out).problems == ()
    files = json.loads((out / "dataset.json").read_text())["files"]
    maps = {key: read_panoptic(out / "panoptic" / f"{key.rsplit('.', 1)[0]}.png") for key in files}
    return summary, maps, {key: set(row.get("groups", ())) for key, row in files.items()}


def named(panoptic, taxonomy, y, x):
    """(class name, segment) of a pixel."""
    names = {row.id: row.name for row in taxonomy.classes} | {taxonomy.void_id: "void"}
    return names[int(panoptic.class_id[y, x])], int(panoptic.segment_id[y, x])


def test_ade20k(tmp_path):
    summary, maps, groups = imported("ade20k", ade20k(tmp_path / "ADEChallengeData2016"), tmp_path / "out")
    assert summary.pictures == {"train": 2, "val": 1} and summary.groups == {"train": 0, "val": 0}
    taxonomy = Taxonomy.load("ade20k")
    first = maps["train/ADE_train_00000001.jpg"]
    assert named(first, taxonomy, 0, 0)[0] == "sky" and named(first, taxonomy, 17, 0)[0] == "wall"
    assert named(first, taxonomy, 20, 5)[0] == "car" and named(first, taxonomy, 20, 35) == ("void", 0)
    assert named(first, taxonomy, 15, 51)[0] == named(first, taxonomy, 26, 51)[0] == "person"  # on sky and wall
    assert named(first, taxonomy, 31, 0) == ("void", 0)
    assert any("no instance covers" in note for note in summary.notes) and not any(groups.values())
    assert sum(row.is_thing for row in taxonomy.classes) == 100


def test_ade20k_without_instances_says_what_serves(tmp_path):
    source = ade20k(tmp_path / "source")
    shutil.rmtree(source / "annotations_instance")
    with pytest.raises(DatasetError, match=r"annotations_instance\.tar.*import folder"):
        IMPORTERS["ade20k"](source, tmp_path / "out", None)
    words = ("--maps", source / "annotations/training", "--classes", "ade20k")
    outcome = mamoe("prepare", "import", "folder", source / "images/training", tmp_path / "out", *words)
    assert outcome.code == 0 and "connected areas" in outcome.out, outcome.err


@pytest.mark.parametrize("lists", [True, False])
def test_kitti360(tmp_path, lists):
    summary, maps, groups = imported("kitti360", kitti360(tmp_path / "source", lists), tmp_path / "out")
    assert summary.pictures == ({"train": 2, "val": 1} if lists else {"train": 3})
    key = next(key for key in maps if key.startswith("train/") and "0000_sync" in key and "250" in key)
    first, taxonomy = maps[key], Taxonomy.load("cityscapes")
    (building, one), (garage, other) = named(first, taxonomy, 0, 0), named(first, taxonomy, 0, 40)
    assert building == garage == "building" and one == other != 0  # stuff, whatever numbers it has
    car, single = named(first, taxonomy, 20, 5)
    rest, group = named(first, taxonomy, 20, 25)
    assert car == rest == "car" and single != group and groups[key] == {group}
    assert named(first, taxonomy, 31, 0) == ("void", 0)


def test_kitti360s_lists_lead_nowhere_else(tmp_path):
    source = kitti360(tmp_path / "source")
    path = source / "data_2d_semantics/train/2013_05_28_drive_train_frames.txt"
    path.write_text("data_2d_raw/../../../x/image_00/data_rect/1.png data_2d_semantics/1.png\n")
    with pytest.raises(DatasetError, match="line 1"):
        IMPORTERS["kitti360"](source, tmp_path / "out", None)


def test_bdd100k(tmp_path):
    summary, maps, groups = imported("bdd100k", bdd100k(tmp_path / "source"), tmp_path / "out")
    assert summary.pictures == {"train": 2, "val": 1}
    first, taxonomy = maps["train/0a.jpg"], Taxonomy.load("bdd100k")
    assert named(first, taxonomy, 17, 0) == named(first, taxonomy, 17, 60) and named(first, taxonomy, 17, 0)[1]
    assert named(first, taxonomy, 20, 5)[0] == "car"
    person, group = named(first, taxonomy, 20, 25)
    assert person == "person" and groups["train/0a.jpg"] == {group}
    assert named(first, taxonomy, 20, 45) == named(first, taxonomy, 0, 0) == ("void", 0)  # ignored; unlabelled
    assert any("ignored" in note for note in summary.notes)
    save(np.zeros((32, 64, 3), dtype=np.uint8), tmp_path / "source/labels/pan_seg/bitmasks/train/0a.png")
    with pytest.raises(DatasetError, match="four channels"):
        IMPORTERS["bdd100k"](tmp_path / "source", tmp_path / "again", None)


def test_idd(tmp_path):
    summary, maps, groups = imported("idd", idd(tmp_path / "source"), tmp_path / "out")
    assert summary.pictures == {"train": 1, "val": 1}
    (key,) = [key for key in maps if key.startswith("train/")]
    first, taxonomy = maps[key], Taxonomy.load("idd")
    assert named(first, taxonomy, 0, 0)[0] == "sky" and named(first, taxonomy, 17, 0)[0] == "road"
    left, right = named(first, taxonomy, 20, 5), named(first, taxonomy, 20, 12)
    assert left[0] == right[0] == "car" and left[1] != right[1]  # the later one is in front
    rider, group = named(first, taxonomy, 20, 35)
    assert rider == "rider" and groups[key] == {group}
    assert named(first, taxonomy, 20, 55)[0] == "road"  # the bus was deleted
    assert named(first, taxonomy, 26, 52)[0] == "person"  # persons and animals are one class of level 3
    assert named(first, taxonomy, 31, 0) == ("void", 0)
    assert {row.id for row in taxonomy.classes} == set(LEVEL3.values()) - {255}


def test_idds_json_cannot_swell(tmp_path):
    source = idd(tmp_path / "source")
    path = next(source.glob("gtFine/train/*/*.json"))
    path.write_text(json.dumps({"imgHeight": 50000, "imgWidth": 50000, "objects": []}))
    with pytest.raises(DatasetError, match="50000"):
        IMPORTERS["idd"](source, tmp_path / "out", None)
    path.write_text(json.dumps({"imgHeight": 32, "imgWidth": 64, "objects": [{"label": "cow", "polygon": []}]}))
    with pytest.raises(DatasetError, match="no label 'cow'"):
        IMPORTERS["idd"](source, tmp_path / "out", None)


@pytest.mark.parametrize("version", ["v2.0/panoptic/panoptic_2020.json", "v1.2/panoptic/panoptic_2018.json"])
def test_mapillary(tmp_path, version):
    summary, maps, groups = imported("mapillary", mapillary(tmp_path / "source", version), tmp_path / "out")
    assert summary.pictures == {"train": 1, "val": 1}
    first, taxonomy = maps["train/_aBc-1.jpg"], summary.taxonomy
    assert [row.name for row in taxonomy.classes] == ["animal--bird", "nature--sky", "human--person"]
    assert named(first, taxonomy, 0, 0)[0] == "nature--sky" and named(first, taxonomy, 21, 5)[0] == "animal--bird"
    person, group = named(first, taxonomy, 21, 25)
    assert person == "human--person" and groups["train/_aBc-1.jpg"] == {group}
    assert named(first, taxonomy, 29, 0) == named(first, taxonomy, 31, 0) == ("void", 0)


@pytest.mark.parametrize(
    ("name", "tree", "lists"),
    [("ade20k", ade20k, {}), ("bdd100k", bdd100k, {}), ("idd", idd, {}), ("kitti360", kitti360, {"lists": False})],
)
def test_what_systems_leave_behind_is_not_data(tmp_path, name, tree, lists):
    source = tree(tmp_path / "source", **lists)
    for folder in [path for path in source.rglob("*") if path.is_dir()]:
        (folder / "._1.png").write_bytes(b"x")
        (folder / "Thumbs.db").write_bytes(b"x")
        (folder / "@eaDir").mkdir()
    IMPORTERS[name](source, tmp_path / "out", None)
    assert check_folder(tmp_path / "out").problems == ()


@pytest.mark.parametrize(("name", "tree"), [("ade20k", ade20k), ("bdd100k", bdd100k), ("kitti360", kitti360)])
def test_a_neighbouring_folder_is_pointed_to(tmp_path, name, tree):
    tree(tmp_path / "there")
    with pytest.raises(DatasetError, match=f"looks like {name}: mamoe prepare import {name}"):
        IMPORTERS["idd"](tmp_path / "there", tmp_path / "out", None)


@pytest.mark.parametrize(
    ("name", "tree", "path"),
    [
        ("ade20k", ade20k, "annotations/training/ADE_train_00000002.png"),
        ("bdd100k", bdd100k, "labels/pan_seg/bitmasks/train/0b.png"),
        ("idd", idd, "gtFine/val/7/frame0800_gtFine_polygons.json"),
        ("mapillary", mapillary, "training/v2.0/panoptic/_aBc-1.png"),
        (
            "kitti360",
            kitti360,
            "data_2d_semantics/train/2013_05_28_drive_0000_sync/image_00/instance/0000000251.png",
        ),
    ],
)
def test_missing_annotations_are_named(tmp_path, name, tree, path):
    source = tree(tmp_path / "source")
    (source / path).unlink()
    with pytest.raises(DatasetError) as caught:
        IMPORTERS[name](source, tmp_path / "out", None)
    assert path in str(caught.value) and not (tmp_path / "out").exists()


def test_a_picture_bomb_is_refused_from_its_header(tmp_path):
    source = bdd100k(tmp_path / "source")
    Image.new("1", (20_000, 20_000)).save(source / "images/10k/train/0a.png")
    assert (source / "images/10k/train/0a.png").stat().st_size < 1_000_000
    (source / "images/10k/train/0a.jpg").unlink()
    with pytest.raises(DatasetError, match=r"0a\.png"):
        IMPORTERS["bdd100k"](source, tmp_path / "out", None)
    photo(source / "images/10k/train/0a.jpg")
    (source / "images/10k/train/0a.png").replace(source / "labels/pan_seg/bitmasks/train/0a.png")
    with pytest.raises(DatasetError, match=r"0a\.png"):
        IMPORTERS["bdd100k"](source, tmp_path / "out", None)


@pytest.mark.parametrize(
    ("name", "tree", "taxonomy"),
    [
        ("ade20k", ade20k, "ade20k"),
        ("bdd100k", bdd100k, "bdd100k"),
        ("idd", idd, "idd"),
        ("kitti360", kitti360, "cityscapes"),
        ("mapillary", mapillary, "mapillary_vistas"),
    ],
)
def test_the_next_commands_run_as_they_stand(tmp_path, name, tree, taxonomy):
    out = tmp_path / "out"
    outcome = mamoe("prepare", "import", name, tree(tmp_path / "source"), out, "--val", "0.5")
    if outcome.code == 2:  # the set has a val of its own
        outcome = mamoe("prepare", "import", name, tmp_path / "source", out)
    assert trained_by(outcome)[0].name == taxonomy
    assert f"mamoe train data={name} data.root={out}" in outcome.out


@pytest.mark.parametrize("behind", [False, True])
@pytest.mark.parametrize(
    ("name", "tree", "labels"),
    [
        ("ade20k", ade20k, "annotations/training/*.png"),
        ("kitti360", kitti360, "data_2d_semantics/train/*/image_00/instance/*.png"),
        ("bdd100k", bdd100k, "labels/pan_seg/bitmasks/train/*.png"),
        ("mapillary", mapillary, "training/v2.0/panoptic/*.png"),
    ],
)
def test_field_labels_that_exif_turns_are_refused(tmp_path, name, tree, labels, behind):
    """Wherever in the file it says so."""
    path = sorted(tree(tmp_path / "raw").glob(labels))[0]
    exif = Image.Exif()
    exif[0x0112] = 6
    if behind:
        content = exif.tobytes().removeprefix(b"Exif\0\0")
        chunk = struct.pack(">I", len(content)) + b"eXIf" + content + struct.pack(">I", zlib.crc32(b"eXIf" + content))
        path.write_bytes(path.read_bytes()[:-12] + chunk + path.read_bytes()[-12:])
    else:
        Image.open(path).save(path, exif=exif)
    with pytest.raises(DatasetError, match=r"EXIF orientation \(6\)"):
        IMPORTERS[name](tmp_path / "raw", tmp_path / "out")
    assert not (tmp_path / "out").exists()
