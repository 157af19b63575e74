"""Any folder of pictures with any maps: palettes, indices, colours, 16-bit ids, COCO's JSON as tools export it."""

import json

import numpy as np
import pytest
from foreign import photo, save
from PIL import Image

from factories import mamoe
from mamoe.errors import ConfigError, DatasetError
from mamoe.prepare.check import check_folder
from mamoe.prepare.classes import read_class_table
from mamoe.prepare.folder import import_folder
from mamoe.prepare.pairing import paired, split_of
from mamoe.vocabulary.panoptic import read_panoptic

SIZE = (32, 64)
TABLE = """
name: harbour
void: [9, "#000000"]
classes:
  - {values: [1, [0, 0, 200]], name: water, thing: false}
  - {values: [2, 3, "#808080"], name: quay, thing: false}
  - {values: [4, [200, 40, 40]], name: boat, thing: true, prompt: "a boat, a ship"}
"""
COLOURS = {1: (0, 0, 200), 2: (128, 128, 128), 3: (128, 128, 128), 4: (200, 40, 40), 9: (0, 0, 0)}


@pytest.fixture
def table(tmp_path):
    path = tmp_path / "classes.yaml"
    path.write_text(TABLE)
    return read_class_table(str(path))


@pytest.fixture
def numbers():
    """Water, quay of two values, two boats, void."""
    found = np.full(SIZE, 1, dtype=np.uint8)
    found[20:26], found[26:30], found[30:] = 2, 3, 9
    found[4:12, 4:16] = found[4:12, 30:44] = 4
    return found


def pictures(root, names=("a_1.jpg", "a_2.jpg")):
    for number, name in enumerate(names):
        photo(root / "images" / name, number)
    return root / "images"


def index(numbers):
    return Image.fromarray(numbers)


def palette(numbers):
    found = Image.fromarray(numbers, "P")
    found.putpalette(np.random.default_rng(0).integers(0, 256, 768).tolist())
    return found


def colours(numbers):
    rgb = np.zeros((*SIZE, 3), dtype=np.uint8)
    for value, colour in COLOURS.items():
        rgb[numbers == value] = colour
    return Image.fromarray(rgb)


def ids(numbers):
    found = numbers.astype(np.uint16)
    found[4:12, 4:16], found[4:12, 30:44] = 4001, 4000
    return Image.fromarray(found)


@pytest.mark.parametrize("form", [index, palette, colours, ids])
def test_every_form_of_label_pictures(tmp_path, table, numbers, form):
    images = pictures(tmp_path)
    (tmp_path / "maps").mkdir()
    for stem in ("a_1", "a_2"):
        form(numbers).save(tmp_path / f"maps/{stem}.png")
    summary = import_folder(images, tmp_path / "out", maps=tmp_path / "maps", table=table)
    assert check_folder(tmp_path / "out").problems == () and summary.instances == {"train": 4}
    panoptic = read_panoptic(tmp_path / "out/panoptic/train/a_1.png")
    assert sorted(panoptic.classes.values()) == [0, 1, 2, 2] and panoptic.class_id[31, 0] == 255
    assert panoptic.segment_id[5, 5] != panoptic.segment_id[5, 35] and panoptic.segment_id[31, 0] == 0
    assert panoptic.segment_id[21, 0] == panoptic.segment_id[27, 0]  # two values, one class
    assert any("connected areas" in note for note in summary.notes) == (form is not ids)


@pytest.mark.parametrize("form", [index, colours])
def test_values_the_table_does_not_know_are_listed(tmp_path, table, numbers, form):
    images = pictures(tmp_path, ["a.jpg"])
    found = np.array(form(numbers))
    found[0, :3] = 77
    save(found, tmp_path / "maps/a.png")
    with pytest.raises(DatasetError, match=r"(77|#4d4d4d) \(3 pixels\).*under void"):
        import_folder(images, tmp_path / "out", maps=tmp_path / "maps", table=table)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("classes: 5", "list of classes"),
        ("classes: [{name: a, thing: false, value: 1}, {name: b, thing: true, value: 1}]", "another class's"),
        ("classes: [{name: a, value: 1}]", "thing must be said"),
        ("classes: [{name: a, thing: 1, value: 1}]", "true or false"),
        ("classes: [{name: a, thing: true, valeu: 1}]", "did you mean value"),
        ("classes: [{name: a, thing: true, value: red}]", "a value is a number"),
        ("classes: [{name: a, thing: true, value: [1, 2, 300]}]", "a value is a number"),
        ("clases: []\nclasses: [{name: a, thing: true}]", "did you mean classes"),
        ("taxonomy: cityscapes\nclasses: [{name: cat, value: 1}]", "no class 'cat', did you mean car"),
        ("taxonomy: cityscapes\nclasses: [{name: car, thing: false, value: 1}]", "thing in the taxonomy"),
        ("divisor: 1\nclasses: [{name: a, thing: true}]", "divisor"),
        ("classes: [{thing: true}]", "with a name"),
    ],
)
def test_wrong_class_tables(tmp_path, text, said):
    (tmp_path / "classes.yaml").write_text(text)
    with pytest.raises(ConfigError, match=said):
        read_class_table(str(tmp_path / "classes.yaml"))


def coco(path, names, **more):
    """Water as one polygon, a boat as runs with iscrowd as CVAT says it, another as a polygon."""
    boat = np.zeros(SIZE, dtype=np.uint8)
    boat[4:12, 4:16] = 1
    flat = boat.T.ravel()
    edges = [0, *(np.flatnonzero(np.diff(flat)) + 1).tolist(), flat.size]
    runs = {"size": list(SIZE), "counts": np.diff(edges).tolist()}
    shapes = [
        {"category_id": 1, "segmentation": [[0, 0, 64, 0, 64, 20, 0, 20]], "iscrowd": 0},
        {"category_id": 3, "segmentation": runs, "iscrowd": 1, "attributes": {"occluded": False}},
        {"category_id": 3, "segmentation": [[30, 4, 44, 4, 44, 12, 30, 12]], "iscrowd": 0},
    ]
    categories = [{"id": 1, "name": "Water", "supercategory": ""}, {"id": 3, "name": "boat", "supercategory": ""}]
    images = [{"id": i, "file_name": name, "height": 32, "width": 64} for i, name in enumerate(names, 1)]
    annotations = [
        {"id": 10 * i + k, "image_id": i, **s} for i in range(1, len(names) + 1) for k, s in enumerate(shapes)
    ]
    path.write_text(json.dumps({"images": images, "annotations": annotations, "categories": categories, **more}))
    return path


@pytest.mark.parametrize(
    "names",
    [
        ("a_1.jpg", "a_2.jpg"),  # CVAT
        ("images\\a_1.jpg", "images\\a_2.jpg"),  # Label Studio, on Windows too
        ("images/0f3c9a1b-a_1.jpg", "images/7e21d0aa-a_2.jpg"),  # Label Studio, uploaded
        ("JPEGImages/a_1.jpg", "JPEGImages/a_2.jpg"),  # labelme2coco
    ],
)
def test_json_as_tools_export_it(tmp_path, table, names):
    images = pictures(tmp_path)
    summary = import_folder(images, tmp_path / "out", maps=coco(tmp_path / "a.json", names), table=table)
    panoptic = read_panoptic(tmp_path / "out/panoptic/train/a_2.png")
    assert panoptic.class_id[5, 5] == panoptic.class_id[5, 35] == 2 and panoptic.class_id[0, 0] == 0
    assert panoptic.class_id[31, 0] == 255 and panoptic.segment_id[5, 5] != panoptic.segment_id[5, 35]
    assert summary.groups == {"train": 2} and any("--crowd single" in note for note in summary.notes)


def test_cvats_masks_are_single_things_if_one_says_so(tmp_path, table):
    images, maps = pictures(tmp_path), coco(tmp_path / "a.json", ("a_1.jpg", "a_2.jpg"))
    (tmp_path / "classes.yaml").write_text(TABLE)
    words = ("--maps", maps, "--classes", tmp_path / "classes.yaml", "--crowd", "single")
    outcome = mamoe("prepare", "import", "folder", images, tmp_path / "out", *words)
    assert outcome.code == 0 and "4 instances and 0 groups" in outcome.out, outcome.err


def test_a_json_without_a_table_makes_its_own_classes(tmp_path):
    images, maps = pictures(tmp_path), coco(tmp_path / "a.json", ("a_1.jpg", "a_2.jpg"))
    summary = import_folder(images, tmp_path / "out", maps=maps)
    assert [(row.name, row.is_thing) for row in summary.taxonomy.classes] == [("Water", True), ("boat", True)]
    assert any("isthing" in note for note in summary.notes) and (tmp_path / "out/taxonomy.yaml").exists()
    with pytest.raises(ConfigError, match="--classes"):
        import_folder(images, tmp_path / "again", maps=images)


def test_labelmes_own_files_are_named(tmp_path, table):
    (tmp_path / "a.json").write_text(json.dumps({"version": "5.0", "shapes": []}))
    with pytest.raises(DatasetError, match="labelme2coco"):
        import_folder(pictures(tmp_path), tmp_path / "out", maps=tmp_path / "a.json", table=table)


def test_folders_are_splits(tmp_path, table, numbers):
    images = pictures(tmp_path, ["training/a/1.jpg", "training/b/2.jpg", "validation/a/3.jpg"])
    for name in ("a/1", "b/2", "a/3"):
        save(numbers, tmp_path / f"maps/{name}.png")
    summary = import_folder(images, tmp_path / "out", maps=tmp_path / "maps", table=table)
    assert summary.pictures == {"train": 2, "val": 1}


def test_pairs():
    assert split_of("Train/x/1.jpg") == ("train", "x/1.jpg") and split_of("x/1.jpg") == ("train", "x/1.jpg")
    assert paired(["a/1.jpg", "b/1.jpg"], ["a/1.png", "b/1.png"]) == {"a/1.jpg": "a/1.png", "b/1.jpg": "b/1.png"}
    assert paired(["train/1.jpg"], ["1.png", "2.png"]) == {"train/1.jpg": "1.png"}
    cities = paired(["c_1_leftImg8bit.png", "c_2_leftImg8bit.png"], ["x/c_1_gtFine.png", "x/c_2_gtFine.png"])
    assert cities == {"c_1_leftImg8bit.png": "x/c_1_gtFine.png", "c_2_leftImg8bit.png": "x/c_2_gtFine.png"}
    assert paired(["a/1.jpg", "b/1.jpg"], ["1.png"]) == {}  # whose it is, nobody can tell
    assert paired(["1.jpg", "2.jpg"], ["1.png"]) == {"1.jpg": "1.png"}
