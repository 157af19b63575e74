"""Inputs that importers met in the field: foreign categories, crowds, equal names, other labels than the right ones."""

import json

import numpy as np
import pytest
from official import (
    COCO,
    OWN,
    SEGMENTS,
    SIZE,
    _coco_ids,
    _colours,
    _save,
    camvid,
    captions,
    cityscapes,
    coco,
    prompts,
    refused,
)
from PIL import Image

from factories import mamoe, trained_by
from mamoe.errors import ConfigError
from mamoe.prepare.captions import describe
from mamoe.prepare.categories import match_categories, parse_categories
from mamoe.prepare.importers import IMPORTERS, importer_of, next_commands
from mamoe.vocabulary.panoptic import PanopticMap
from mamoe.vocabulary.taxonomy import Taxonomy

# Whose categories they are.


def test_categories_of_its_own_are_not_cocos(tmp_path):
    source = coco(tmp_path / "source", OWN, (1, 2, 3))
    both = ("1 water (stuff), 2 quay (stuff), 3 ConcreteCrack (thing)", "1 person (thing), 2 bicycle (thing)")
    refused("coco", source, tmp_path / "out", *both, "no class 'quay'", "--derive-taxonomy", "--taxonomy")
    outcome = mamoe("prepare", "coco", source, tmp_path / "out")
    assert outcome.code == 3 and "no class 'ConcreteCrack'" in outcome.err


def test_a_derived_taxonomy_is_what_trains(tmp_path):
    source = coco(tmp_path / "source", OWN, (1, 2, 3), pictures=("a.jpg", "b.jpg", "c.jpg"))
    out = tmp_path / "my set"
    outcome = mamoe("prepare", "coco", source, out, "--derive-taxonomy")
    assert outcome.code == 0, outcome.err
    assert captions(out)["a.jpg"] == "a photo with a concrete crack, water and quay"
    assert prompts(out)["a.jpg"] == {"3": "concrete crack"}
    taxonomy, sample = trained_by(outcome)
    assert [(row.id, row.name, row.is_thing, row.colour) for row in taxonomy.classes] == [
        (row["id"], row["name"], bool(row["isthing"]), tuple(row["color"])) for row in OWN
    ]
    assert taxonomy.void_id == 0 and taxonomy.groupings == {"things": {"things": ("ConcreteCrack",)}}
    assert set(sample.panoptic.classes.values()) == {1, 2, 3}
    out.rename(tmp_path / "moved")  # the taxonomy moves with the data set
    assert mamoe("check", tmp_path / "moved").code == 0


def test_names_count_not_ids(tmp_path):
    """Other ids, capitals, hyphens, and COCO's endings left out, all of one meaning."""
    renamed = [
        {"id": 1, "name": "Sky", "isthing": 0},
        {"id": 2, "name": "Road", "isthing": 0},
        {"id": 900, "name": "traffic_light", "isthing": 1},
        {"id": 901, "name": "teapot", "isthing": 1},
    ]
    summary = IMPORTERS["coco"](coco(tmp_path / "source", renamed, (1, 2, 900)), tmp_path / "out", None)
    panoptic = PanopticMap.read(tmp_path / "out/panoptic/train/000263.png")
    assert panoptic.class_id[[0, 31, 20], [0, 0, 10]].tolist() == [187, 149, 10]
    assert any("teapot" in note for note in summary.notes)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (lambda rows: rows[0].update(isthing=0), "3 car (stuff) is 3 car (thing) in the taxonomy"),
        (lambda rows: rows[0].update(isthing="yes"), "isthing must be 0 or 1"),
        (lambda rows: rows[0].update(name=7), "name must be text"),
        (lambda rows: rows[0].update(id="3"), "id must be a whole number"),
        (lambda rows: rows[0].update(color=[1, 2]), "color must be three"),
        (lambda rows: rows.append(dict(rows[0], name="bus")), "the id 3 stands in several categories"),
        (lambda rows: rows.append(dict(rows[0], id=6)), "the name 'car' stands in several categories"),
        (lambda rows: rows[1].update(name="sky"), "sky and sky-other-merged are the same class"),
    ],
)
def test_categories_that_contradict(tmp_path, change, complaint):
    rows = [dict(row) for row in COCO]
    change(rows)
    refused("coco", coco(tmp_path / "source", rows, (187, 149, 3)), tmp_path / "out", complaint)


def test_a_taxonomy_that_fits_is_named_and_can_be_chosen(tmp_path):
    rows = [{"id": 0, "name": "road", "isthing": 0}, {"id": 1, "name": "vegetation", "isthing": 0}]
    rows += [{"id": 2, "name": "rider", "isthing": 1}]
    source = coco(tmp_path / "source", rows, (1, 0, 2))
    refused("coco", source, tmp_path / "out", "--taxonomy cityscapes")
    outcome = mamoe("prepare", "coco", source, tmp_path / "out", "--taxonomy", "cityscapes")
    assert outcome.code == 0 and f"data=cityscapes data.root={tmp_path / 'out'}" in outcome.out
    panoptic = PanopticMap.read(tmp_path / "out/panoptic/train/000263.png")
    assert panoptic.class_id[[0, 31, 20], [0, 0, 10]].tolist() == [8, 0, 12]


def test_void_is_the_taxonomys(tmp_path):
    def unlabelled(table):
        table["annotations"][0]["segments_info"].pop(0)

    rows = [{"id": 0, "name": "road", "isthing": 0}, {"id": 1, "name": "car", "isthing": 1}]
    source = coco(tmp_path / "source", rows, (0, 0, 1), change=unlabelled)
    ids = np.where(_coco_ids() == SEGMENTS[0], 0, _coco_ids())
    _save(_colours(ids), source / "annotations/panoptic_train2017/000263.png")
    importer_of("coco", None, True)(source, tmp_path / "out", None)
    panoptic = PanopticMap.read(tmp_path / "out/panoptic/train/000263.png")
    assert Taxonomy.load(tmp_path / "out/taxonomy.yaml").void_id == 255
    assert panoptic.class_id[0, 0] == 255 and panoptic.segment_id[0, 0] == 0


def test_what_cannot_be_derived(tmp_path):
    many = [{"id": i, "name": f"class {i}", "isthing": 0} for i in range(1, 257)]
    refused(
        "coco", coco(tmp_path / "many", many, (1, 2, 3)), tmp_path / "out", "256 categories are too many", derive=True
    )
    mute = [{"id": i, "name": f"class {i}"} for i in range(1, 4)]
    refused("coco", coco(tmp_path / "mute", mute, (1, 2, 3)), tmp_path / "out", "does not say isthing", derive=True)
    none = coco(tmp_path / "none", [], (3, 149, 187), change=lambda table: table.pop("categories"))
    refused("coco", none, tmp_path / "out", "no categories to make a taxonomy of", derive=True)
    summary = IMPORTERS["coco"](none, tmp_path / "out", None)
    assert any("no categories" in note for note in summary.notes)
    two = coco(tmp_path / "two", OWN, (1, 2, 3))
    coco(two, [dict(OWN[0], isthing=1), *OWN[1:]], (1, 2, 3), name="val2017")
    refused("coco", two, tmp_path / "other", "1 water (thing) is a stuff in another file", derive=True)


def test_wide_ids_are_numbered_anew_and_colours_spread(tmp_path):
    rows = [{"id": 1000 * i, "name": name, "isthing": 0} for i, name in enumerate(("sky", "road", "grass"), start=1)]
    summary = importer_of("coco", None, True)(coco(tmp_path / "s", rows, (1000, 2000, 3000)), tmp_path / "out", None)
    taxonomy = Taxonomy.load(tmp_path / "out/taxonomy.yaml")
    assert [row.id for row in taxonomy.classes] == [0, 1, 2] and taxonomy.void_id == 255
    assert len({row.colour for row in taxonomy.classes}) == 3
    assert "layout.grouping=per_class" in next_commands(summary)[1]  # there are no things to group


def test_options_of_another_format():
    for options in (("cityscapes", "camvid", False), ("camvid", None, True), ("coco", "camvid", True)):
        with pytest.raises(ConfigError, match="taxonomy"):
            importer_of(*options)


def test_official_categories_match_one_to_one():
    taxonomy = Taxonomy.load("coco_panoptic")
    rows = [{"id": row.id, "name": row.name, "isthing": int(row.is_thing)} for row in taxonomy.classes]
    short = [dict(row, name=row["name"].removesuffix("-merged").removesuffix("-stuff")) for row in rows]
    for table in (rows, short):
        class_of, differences = match_categories(parse_categories(table, "here", []), range(256), taxonomy)
        assert differences == [] and class_of == {row.id: row.id for row in taxonomy.classes}


# Crowds.


def test_a_crowd_is_several(tmp_path):
    summary = IMPORTERS["coco"](coco(tmp_path / "source", COCO, (187, 149, 3), crowd=1), tmp_path / "out", None)
    assert summary.instances == {"train": 0} and summary.groups == {"train": 1}
    assert captions(tmp_path / "out")["000263.jpg"] == "a photo with cars, sky and road"
    assert prompts(tmp_path / "out")["000263.jpg"] == {"3": "a group of cars"}
    odd = coco(tmp_path / "odd", COCO, (187, 149, 3), crowd=2)
    refused("coco", odd, tmp_path / "other", "iscrowd must be 0 or 1")


def test_a_group_of_cityscapes_is_several(tmp_path):
    summary = IMPORTERS["cityscapes"](cityscapes(tmp_path / "source"), tmp_path / "out", None)
    assert summary.instances == {"train": 1} and summary.groups == {"train": 1}
    assert sorted(prompts(tmp_path / "out")["aachen_000000_000019.png"].values()) == ["a group of cars", "car"]


@pytest.mark.parametrize(
    ("prompt", "many"),
    [
        ("boat, ship", "boats"),
        ("a traffic person", "traffic people"),
        ("wine glass", "wine glasses"),
        ("ferry", "ferries"),
    ],
)
def test_groups_in_words(prompt, many):
    plain = {"id": 0, "name": "x", "thing": True, "prompt": prompt, "colour": [1, 2, 3]}
    taxonomy = Taxonomy.from_dict({"name": "t", "void_id": 9, "classes": [plain]})
    ones = PanopticMap(segment_id=np.ones((4, 4), dtype=np.int32), class_id=np.zeros((4, 4), dtype=np.uint8))
    assert describe(ones, taxonomy, "a photo", groups={1}) == f"a photo with {many}"


# Cityscapes' own panoptic JSON.


def _cityscapes_table(root, stem, *, train_ids=False):
    names = {"road": (7, 0), "sky": (23, 10), "car": (26, 13)}
    key = {name: pair[train_ids] for name, pair in names.items()}
    ids = np.full(SIZE, 23)
    ids[16:] = 7
    ids[18:28, 8:24] = 26000
    ids[18:28, 40:60] = 26
    base = root / f"gtFine/cityscapes_panoptic_val{'_trainId' if train_ids else ''}"
    _save(_colours(ids), base / f"{stem}_gtFine_panoptic.png")
    segments = {23: "sky", 7: "road", 26: "car", 26000: "car"}
    rows = [{"id": i, "category_id": key[name], "iscrowd": int(i == 26)} for i, name in segments.items()]
    table = {
        "images": [{"id": stem, "file_name": f"{stem}_gtFine_leftImg8bit.png"}],
        "annotations": [{"image_id": stem, "file_name": f"{stem}_gtFine_panoptic.png", "segments_info": rows}],
        "categories": [{"id": i, "name": name, "isthing": int(name == "car")} for name, i in key.items()],
    }
    base.with_suffix(".json").write_text(json.dumps(table))


@pytest.mark.parametrize("train_ids", [False, True])
def test_cityscapes_own_panoptic_json(tmp_path, train_ids):
    stem = "frankfurt_000000_000294"
    source = cityscapes(tmp_path / "source", [("val", "frankfurt", stem)], instances=None)
    _cityscapes_table(source, stem, train_ids=train_ids)
    summary = IMPORTERS["cityscapes"](source, tmp_path / "out", None)
    assert summary.instances == {"val": 1} and summary.groups == {"val": 1}
    assert any("cityscapes_panoptic_val" in note for note in summary.notes)
    from_ids = cityscapes(tmp_path / "other", [("val", "frankfurt", stem)])
    IMPORTERS["cityscapes"](from_ids, tmp_path / "same", None)
    here, there = (PanopticMap.read(tmp_path / place / f"panoptic/val/{stem}.png") for place in ("out", "same"))
    assert np.array_equal(here.class_id, there.class_id)
    refused("coco", source, tmp_path / "third", "mamoe prepare cityscapes")


def test_cityscapes_panoptic_json_without_its_pictures(tmp_path):
    source = cityscapes(tmp_path / "source", [("val", "frankfurt", "frankfurt_0")], instances=None)
    _cityscapes_table(source, "munster_0")
    parts = ("munster_0_leftImg8bit.png, got none", "frankfurt_0_leftImg8bit.png has no annotation")
    refused("cityscapes", source, tmp_path / "out", *parts)


# Labels that are other labels.


@pytest.mark.parametrize(
    ("kind", "values", "complaint"),
    [
        ("_gtFine_labelIds.png", None, "holds *_labelIds.png"),
        ("_gtFine_color.png", None, "holds *_color.png"),
        ("_gtFine_instanceIds.png", np.array([[7, 26]], np.uint8), "8 bits, which cannot hold"),
        ("_gtFine_instanceIds.png", np.array([[0, 255]], np.uint8), "255 is void in *_labelTrainIds.png"),
        ("_gtFine_instanceIds.png", np.array([[7, 44000]], np.uint16), "44000 (1024 pixels)"),
        ("_gtFine_instanceIds.png", np.array([[[128, 64, 128], [0, 0, 142]]], np.uint8), "in Cityscapes' colours"),
    ],
)
def test_other_labels_of_cityscapes(tmp_path, kind, values, complaint):
    source = cityscapes(tmp_path / "source", instances=kind)
    if values is not None:
        whole = np.repeat(np.repeat(values, SIZE[0], axis=0), SIZE[1] // 2, axis=1)
        _save(whole, source / f"gtFine/train/aachen/aachen_000000_000019{kind}")
    refused("cityscapes", source, tmp_path / "out", complaint, "instanceIds.png")


def test_other_labels_of_camvid(tmp_path):
    index = np.zeros(SIZE, dtype=np.uint8)
    index[:2, :3] = 255
    refused(
        "camvid", camvid(tmp_path / "a", index=index), tmp_path / "out", "255 (6 pixels)", "trainannot/0016E5_00480.png"
    )
    colours = np.zeros((*SIZE, 3), dtype=np.uint8)
    colours[16:] = 128, 64, 128
    colours[:16] = 192, 192, 128
    refused("camvid", camvid(tmp_path / "b", index=colours), tmp_path / "out", "CamVid's 32 classes")
    refused("camvid", cityscapes(tmp_path / "c"), tmp_path / "out", "mamoe prepare cityscapes")
    lossy = camvid(tmp_path / "d")
    Image.fromarray(index).save(lossy / "trainannot/0016E5_00480.png", format="JPEG")
    refused("camvid", lossy, tmp_path / "out", "Lossy")


def test_index_pictures_that_were_made_smaller(tmp_path):
    """Fewer bits hold the same numbers; a palette of greys leaves open which numbers are meant."""
    source = camvid(tmp_path / "source")
    path = source / "trainannot/0016E5_00480.png"
    index = np.asarray(Image.open(path))
    packed = Image.fromarray(index, mode="P")
    packed.putpalette([v for i in range(16) for v in (16 * i, 255 - 16 * i, 7)])
    packed.save(path, bits=4)
    IMPORTERS["camvid"](source, tmp_path / "out", None)
    assert np.array_equal(PanopticMap.read(tmp_path / "out/panoptic/train/0016E5_00480.png").class_id, index)
    packed.putpalette([v for i in range(16) for v in (15 - i,) * 3])
    packed.save(path)
    refused("camvid", source, tmp_path / "other", "palette of greys")


def test_ids_are_never_converted(tmp_path):
    source = coco(tmp_path / "source", COCO, (187, 149, 3))
    path = source / "annotations/panoptic_train2017/000263.png"
    right = Image.open(path).convert("RGB")
    right.convert("P", palette=Image.Palette.ADAPTIVE, colors=3).save(path)  # exact, for there are three colours
    IMPORTERS["coco"](source, tmp_path / "out", None)
    assert PanopticMap.read(tmp_path / "out/panoptic/train/000263.png").class_id[20, 10] == 3
    for wrong in (right.convert("RGBA"), right.convert("L"), Image.fromarray(np.zeros(SIZE, np.uint16))):
        wrong.save(path)
        refused("coco", source, tmp_path / "other", "would change ids", str(path))
    right.save(path, format="JPEG")
    refused("coco", source, tmp_path / "other", "Lossy", str(path))


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (lambda t: t["annotations"][0]["segments_info"].append({"id": 39372, "category_id": 3}), "several times"),
        (lambda t: t["annotations"].append(t["annotations"][0]), "image_id stands several times"),
        (lambda t: t["images"].append(t["images"][0]), "id stands several times in images"),
        (lambda t: t["annotations"].clear(), "has no annotations"),
        (lambda t: t["annotations"][0].update(image_id=5), "no such id in images"),
        (lambda t: t["annotations"][0]["segments_info"][0].update(category_id=[3]), "(39372, [3])"),
        (lambda t: t["annotations"][0].pop("segments_info"), "is it a COCO panoptic file?"),
    ],
)
def test_tables_that_contradict_themselves(tmp_path, change, complaint):
    refused("coco", coco(tmp_path / "source", COCO, (187, 149, 3), change=change), tmp_path / "out", complaint)


def test_a_table_without_its_pngs_or_pictures(tmp_path):
    source = coco(tmp_path / "source", COCO, (187, 149, 3))
    refused("coco", source / "annotations/panoptic_train2017.json", tmp_path / "out", "That is a file")
    (source / "train2017").rename(source / "photos")
    refused("coco", source, tmp_path / "out", "wanted its pictures in")
    (source / "annotations/panoptic_train2017").rename(source / "annotations/pngs")
    refused("coco", source, tmp_path / "out", ".zip")
    refused("coco", tmp_path, tmp_path / "out", "looks like coco", str(source))


# What to type next.


@pytest.mark.parametrize("name", ["camvid", "cityscapes", "coco"])
def test_the_next_commands_run_as_they_stand(tmp_path, name):
    make = {"camvid": camvid, "cityscapes": cityscapes, "coco": lambda root: coco(root, COCO, (187, 149, 3))}[name]
    source = make(tmp_path / "source")
    for path in [path for path in source.rglob("*") if path.is_file() and path.suffix != ".json"]:
        (path.parent / f"b{path.name}").write_bytes(path.read_bytes())  # one picture cannot train and validate
    if name == "coco":
        coco(source, COCO, (187, 149, 3), pictures=("000263.jpg", "b000263.jpg"))
    outcome = mamoe("prepare", name, source, tmp_path / "out")
    taxonomy, _ = trained_by(outcome)
    assert taxonomy.name == {"coco": "coco_panoptic"}.get(name, name)
    assert f"mamoe train data={name} data.root={tmp_path / 'out'}\n" in outcome.out


@pytest.mark.parametrize("folder", ["123", "null", "a b,c", "ü (1)", "it's", 'say "x"'])
def test_folders_are_quoted_where_they_must_be(tmp_path, folder, monkeypatch):
    monkeypatch.chdir(tmp_path)
    outcome = mamoe("prepare", "camvid", camvid(tmp_path / "source", ("a.png", "b.png")), folder)
    assert trained_by(outcome)[0].name == "camvid"


def test_a_taxonomy_without_things_trains_too(tmp_path):
    rows = [{"id": i, "name": name, "isthing": 0} for i, name in enumerate(("sky", "road", "grass"), start=1)]
    source = coco(tmp_path / "source", rows, (1, 2, 3), pictures=("a.jpg", "b.jpg"))
    outcome = mamoe("prepare", "coco", source, tmp_path / "out", "--derive-taxonomy")
    assert [row.name for row in trained_by(outcome)[0].classes] == ["sky", "road", "grass"]


def test_a_linked_folder_is_followed_when_that_is_said(tmp_path):
    source = camvid(tmp_path / "source")
    (source / "train").rename(tmp_path / "elsewhere")
    (source / "train").symlink_to(tmp_path / "elsewhere")
    outcome = mamoe("prepare", "camvid", source, tmp_path / "out")
    assert outcome.code != 0 and "--follow-links" in outcome.err
    outcome = mamoe("prepare", "camvid", source, tmp_path / "out", "--follow-links")
    assert outcome.code == 0, outcome.err
