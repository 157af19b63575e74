"""Objects that people or networks drew: COCO's JSON, YOLO's text files, polygons of IDD."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mamoe.errors import ConfigError, DatasetError
from mamoe.prepare.classes import read_class_table
from mamoe.prepare.folder import import_folder
from mamoe.prepare.fuse.instances import find_instances
from mamoe.prepare.idd import panoptic_from_polygons
from mamoe.prepare.labelled import Manner
from mamoe.vocabulary.panoptic import PanopticMap
from mamoe.vocabulary.taxonomy import Taxonomy

SIZE = (32, 64)
BOX = [[4.0, 4.0, 20.0, 4.0, 20.0, 20.0, 4.0, 20.0]]


@pytest.fixture
def pictures(tmp_path):
    folder = tmp_path / "pictures"
    folder.mkdir()
    for number, name in enumerate(("a.png", "b.png")):
        Image.fromarray(np.full((*SIZE, 3), 40 * number, np.uint8)).save(folder / name)
    return folder


@pytest.fixture
def imported(pictures, tmp_path):
    """Import the pictures with a JSON of one annotation, ``changed`` before it is written."""

    def run(changed=lambda plain: None, **annotation):
        plain = {
            "images": [
                {"id": 1, "file_name": "a.png", "height": SIZE[0], "width": SIZE[1]},
                {"id": 2, "file_name": "b.png"},
            ],
            "categories": [{"id": 1, "name": "car", "isthing": 1}],
            "annotations": [{"id": 5, "image_id": 1, "category_id": 1, "segmentation": BOX, **annotation}],
        }
        changed(plain)
        (tmp_path / "objects.json").write_text(json.dumps(plain))
        return import_folder(
            pictures, tmp_path / "out", None, Manner(workers=1), maps=tmp_path / "objects.json", table=None
        )

    return run


def test_polygons_of_a_picture_that_was_resized_are_refused(imported, tmp_path):
    def resized(plain):
        plain["images"][0] |= {"height": 2 * SIZE[0], "width": 2 * SIZE[1]}

    with pytest.raises(DatasetError, match=r"annotation 5: the JSON says .* \(64, 128\), and it has \(32, 64\)"):
        imported(resized)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("sides", [{"height": 0, "width": 0}, {"height": None}, {"height": 32.0, "width": 64.0}])
def test_a_size_that_is_not_said_or_said_as_a_float_is_no_contradiction(imported, tmp_path, sides):
    imported(lambda plain: plain["images"][0].update(sides))
    assert PanopticMap.read(tmp_path / "out/panoptic/train/a.png").classes == {1: 1}


@pytest.mark.parametrize(
    ("changed", "annotation", "said"),
    [
        (lambda plain: plain["images"][0].update(height="tall"), {}, "must be whole numbers"),
        (lambda plain: plain["images"][1].update(file_name="a.png"), {}, "file_name stands several times"),
        (lambda plain: None, {"segmentation": [[0.1, 0.1, 0.5, 0.1, 0.5, 0.5]]}, "not shares"),
        (lambda plain: None, {"category_id": [1]}, r"category_id \[1\] is not known"),
        (lambda plain: None, {"score": 87}, "score must be a number in 0 to 1"),
        (lambda plain: None, {"score": 10**400}, "score must be a number in 0 to 1"),
        (lambda plain: plain["categories"][0].update(name="\ud800"), {}, "name must be text"),
    ],
)
def test_what_a_json_of_objects_cannot_mean(imported, changed, annotation, said):
    with pytest.raises((DatasetError, ConfigError), match=said):
        imported(changed, **annotation)


def test_an_object_without_a_pixel_is_said(imported):
    outside = [[70.0, 4.0, 80.0, 4.0, 80.0, 20.0]]
    summary = imported(segmentation=outside)
    assert any("without a pixel of their own" in note for note in summary.notes)


def test_uploads_of_one_name_are_not_mixed_up(tmp_path):
    table = read_class_table("cityscapes")
    row = {"category_id": 13, "segmentation": BOX}
    images = [{"id": n, "file_name": f"{n}1234567-{name}"} for n, name in ((1, "a.png"), (2, "a.png"), (3, "b.png"))]
    rows = [{**row, "id": n, "image_id": n} for n in (1, 2, 3)]
    (tmp_path / "studio.json").write_text(json.dumps({"images": images, "annotations": rows}))
    found = find_instances(tmp_path / "studio.json", ["a.png", "b.png"], table)
    assert set(found.of) == {"b.png"}
    assert any("11234567-a.png, 21234567-a.png share a name" in note for note in found.notes)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("13 8 8 40 8 40 20", "are those pixels"),
        ("13 0.1 0.1 0.5 0.1 0.5 -0.3", "lie in 0 to 1"),
        ("13 0.1 0.1 0.5 0.1 0.5 0.5 87", "a score is a number in 0 to 1"),
    ],
)
def test_yolos_corners_are_shares(tmp_path, line, said):
    (tmp_path / "a.txt").write_text(line)
    masks = find_instances(tmp_path, ["a.png"], read_class_table("cityscapes")).of["a.png"]
    with pytest.raises(DatasetError, match=said):
        masks(SIZE)


def test_a_corner_just_outside_is_what_networks_write(tmp_path):
    (tmp_path / "a.txt").write_text("13 0.5 0.5 1.0000001 0.5 1.0000001 1.0")
    (thing,) = find_instances(tmp_path, ["a.png"], read_class_table("cityscapes")).of["a.png"](SIZE)
    assert thing.mask.area > 0


def test_digits_of_other_scripts_are_no_numbers(tmp_path):
    (tmp_path / "a").mkdir()
    Image.fromarray(np.ones(SIZE, np.uint8)).save(tmp_path / "a/1_\u00b2.png")
    masks = find_instances(tmp_path, ["a.png"], read_class_table("cityscapes")).of["a.png"]
    with pytest.raises(DatasetError, match="has no class"):
        masks(SIZE)


@pytest.mark.parametrize(
    ("objects", "said"),
    [
        ([{"label": ["car"], "polygon": [[0, 0], [1, 1]]}], "label must be text"),
        ([{"label": "car", "polygon": [[10**400, 0], [1, 1]]}], "polygon must be a list"),
    ],
)
def test_polygons_of_idd(objects, said):
    with pytest.raises(ValueError, match=said):
        panoptic_from_polygons(objects, SIZE, Taxonomy.load("idd"))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            "classes: [{value: 1, name: Traffic-Sign, thing: false}, {value: 2, name: traffic sign, thing: true}]",
            "differ in capitals, - or _ alone",
        ),
        (
            "taxonomy: cityscapes\nclasses: [{value: 1, name: car, prompt: a red car}]",
            "its prompt is that of the taxonomy",
        ),
        ("name: [harbour]\nclasses: [{value: 1, name: quay, thing: false}]", "name must be text"),
    ],
)
def test_a_class_table_that_would_mean_something_else(tmp_path, text, said):
    (tmp_path / "classes.yaml").write_text(text)
    with pytest.raises(ConfigError, match=said):
        read_class_table(str(tmp_path / "classes.yaml"))


def _mask(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.ones(SIZE, np.uint8)).save(path)


def _yolo(folder: Path, name: str) -> None:
    (folder / f"{name}.txt").write_text("13 0.1 0.1 0.5 0.1 0.5 0.5")


def _stack(folder: Path, name: str) -> None:
    _mask(folder / name / "1_car.png")


def _list(folder: Path, name: str) -> None:
    _mask(folder / "masks" / f"{name}_1.png")
    (folder / f"{name}.txt").write_text(f"masks/{name}_1.png 26 0.9\n")


def _ids(folder: Path, name: str) -> None:
    Image.fromarray(np.full(SIZE, 26001, np.uint16)).save(folder / f"{name}.png")


@pytest.mark.parametrize("written", [_yolo, _stack, _list, _ids])
def test_masks_of_no_picture_are_listed(tmp_path, written):
    for name in ("a", "b", "stranger"):
        written(tmp_path, name)
    found = find_instances(tmp_path, ["a.png", "b.png"], read_class_table("cityscapes"))
    assert set(found.of) == {"a.png", "b.png"}
    (note,) = found.notes
    assert "1 " in note and "without a picture were left out: stranger" in note


def test_what_else_lies_beside_masks_is_listed(tmp_path):
    _yolo(tmp_path, "a")
    _mask(tmp_path / "a.png")
    (tmp_path / "labels.cache").write_bytes(b"")
    found = find_instances(tmp_path, ["a.png"], read_class_table("cityscapes"))
    assert [note.split(": ", 1)[1] for note in found.notes] == [
        "1 file(s) of other kinds were left out: labels.cache.",
        "1 PNG(s) were left out: a.png.",
    ]
