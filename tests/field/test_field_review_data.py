"""Siblings of the field's faults that a second look at the data side found."""

import json
import os
import shutil
import unicodedata

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import v2

from factories import mamoe
from mamoe.config.compose import readable
from mamoe.data.dataset import LayoutDataset
from mamoe.data.folder.description import data_folder
from mamoe.data.folder.holdout import holds_files
from mamoe.data.folder.prompts import read_instance_prompts
from mamoe.data.folder.split import index_split
from mamoe.data.geometry.joint import Geometry
from mamoe.errors import ConfigError, DatasetError
from mamoe.evaluation.features.store import list_pictures
from mamoe.prepare.check import check_folder
from mamoe.prepare.coco import import_coco
from mamoe.vocabulary.taxonomy import Taxonomy

CITYSCAPES = Taxonomy.load("cityscapes")


def make_set(root, names=("a_1.png", "a_2.png"), split="train", described="taxonomy: cityscapes\n"):
    """Pictures with maps of one car on a road."""
    colours = np.zeros((16, 16, 3), dtype=np.uint8)
    colours[:, :, 1], colours[:, :, 2] = 1, 0
    colours[:4, :4] = (0, 2, 13)
    for name in names:
        for kind in ("images", "panoptic"):
            path = root / kind / split / name
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(colours).save(path)
    (root / "data.yaml").write_text(described)
    return root


def indexed(root):
    return index_split(
        images=root / "images", panoptic_maps=root / "panoptic", split="train", prompts=None, instance_prompts=None
    )


# What is no file


def test_a_pipe_is_refused_and_never_opened(tmp_path):
    root = make_set(tmp_path)
    os.mkfifo(root / "images/train/b_1.png")
    (problem,) = indexed(root).problems
    assert "b_1.png is a pipe" in problem
    with pytest.raises(DatasetError, match="is a pipe"):
        list_pictures(root / "images/train")


def test_a_link_to_itself_is_named(tmp_path):
    root = make_set(tmp_path)
    (root / "images/train/b_1.png").symlink_to("b_1.png")
    (problem,) = indexed(root).problems
    assert "symbolic links" in problem and "b_1.png" in problem and "no pictures" not in problem


def test_a_missing_folder_above_is_named(tmp_path):
    root = make_set(tmp_path)
    shutil.move(root / "panoptic", root / "maps")
    assert f"there is no {root / 'panoptic'}" in indexed(root).problems[0]


# Empty splits


@pytest.mark.parametrize("litter", [None, "Thumbs.db", "@eaDir/a.png", ".ipynb_checkpoints/a.png", "desktop.ini"])
def test_an_empty_val_is_none_for_check_and_training(tmp_path, litter):
    root = make_set(tmp_path)
    val = root / "images/val"
    val.mkdir()
    if litter is not None:
        (val / litter).parent.mkdir(exist_ok=True)
        (val / litter).write_bytes(b"x")
    assert not holds_files(val)
    report = check_folder(root)
    assert not report.problems and set(report.splits) == {"train"}
    assert any(f"nothing in {val}" in note for note in report.notes)
    assert any("holds out" in note for note in report.notes)


def test_a_val_of_linked_folders_is_one(tmp_path):
    root = make_set(tmp_path / "set")
    elsewhere = make_set(tmp_path / "elsewhere")
    (root / "images/val").mkdir()
    (root / "images/val/aachen").symlink_to(elsewhere / "images/train")
    assert holds_files(root / "images/val")


def test_an_empty_train_is_a_problem(tmp_path):
    root = make_set(tmp_path, split="val")
    (root / "images/train").mkdir()
    assert any("holds no pictures" in problem for problem in check_folder(root).problems)


# data.yaml and what lies beside it


@pytest.mark.parametrize("written", ["sub\\images", ".\\sub\\images", "C:\\sets\\streets\\sub\\images"])
def test_windows_paths_are_read_with_a_word(tmp_path, written):
    root = make_set(tmp_path, described=f"taxonomy: cityscapes\nimages: {written}\n")
    (root / "sub").mkdir()
    shutil.move(root / "images", root / "sub/images")
    found = data_folder(root)
    assert found.images == root / "sub/images"
    assert any("write / between folders" in note for note in found.notes)


@pytest.mark.parametrize("key", ["images", "taxonomy"])
def test_a_home_folder_nobody_has(tmp_path, key):
    root = make_set(tmp_path, described=f"{key}: ~nobody-has-this-name/x.yaml\n")
    outcome = mamoe("check", root)
    assert outcome.code == 3 and f"data.yaml, {key}: nobody's home folder" in outcome.err.replace("\n", " ")


@pytest.mark.parametrize("name", ["data.yml", "DATA.YML", "data.yaml.txt"])
def test_a_description_under_another_name_is_said_not_to_be_read(tmp_path, name):
    root = make_set(tmp_path)
    (root / "data.yaml").rename(root / name)
    assert any(f"{name} is not read" in note for note in data_folder(root).notes)


def test_text_files_under_other_names_are_named(tmp_path):
    root = make_set(tmp_path)
    for name in ("Prompts_train.csv", "instance_prompt_train.json"):
        (root / name).write_text("{}")
    notes = data_folder(root).notes
    assert any("prompts_{split}.csv (Prompts_train.csv there is not read)" in note for note in notes)
    assert any("instance_prompt_train.json there is not read" in note for note in notes)
    assert len(data_folder(make_set(tmp_path / "without")).notes) == 1  # of captions alone, as before


def test_the_ending_of_a_taxonomy_may_be_in_capitals(tmp_path):
    import yaml

    root = make_set(tmp_path, described="taxonomy: own.YAML\n")
    (root / "own.YAML").write_text(yaml.safe_dump({**CITYSCAPES.to_dict(), "name": "own"}))
    assert data_folder(root).taxonomy.name == "own"
    assert readable([f"taxonomy={root}/own.YAML"]) == [f"++data.taxonomy={root}/own.YAML"]


@pytest.mark.parametrize("words", [["data.taxonomy=a.yaml"], ["+data.taxonomy=a.yaml"], ["taxonomy=a.yaml"]])
def test_two_words_about_the_classes_are_refused(words):
    with pytest.raises(ConfigError, match="both say which classes"):
        readable(["taxonomy=cityscapes", *words])
    assert readable(["taxonomy=cityscapes", "data.taxonomy=null"])


# Names


def test_names_that_look_the_same_are_explained(tmp_path):
    names = [unicodedata.normalize(form, "é_1.png") for form in ("NFC", "NFD")]
    root = make_set(tmp_path, names)
    if len(os.listdir(root / "images/train")) < 2:
        pytest.skip("this file system takes them for one")
    assert any("NFC, NFD" in problem for problem in indexed(root).problems)
    plain = make_set(tmp_path / "plain", ("b_1.png", "b_1.webp"))
    assert not any("NFC" in problem for problem in indexed(plain).problems)


def test_two_keys_that_look_the_same_are_explained(tmp_path):
    root = make_set(tmp_path, [unicodedata.normalize("NFC", "é_1.png")])
    rows = "".join(f"{unicodedata.normalize(form, 'é_1.png')},a street\n" for form in ("NFC", "NFD"))
    (root / "prompts_train.csv").write_text("img_name,prompt\n" + rows, encoding="utf-8")
    assert any("NFC, NFD" in problem for problem in check_folder(root).problems)


def coco(root, names, png="{}.png"):
    """A COCO set whose pictures lie in train2017 and are called ``names`` in the JSON."""
    folder = root / "annotations/panoptic_train2017"
    folder.mkdir(parents=True)
    for number, name in enumerate(names):
        place = root / name if name.startswith("train2017/") else root / "train2017" / name
        place.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8)).save(place)
        Image.new("RGB", (8, 8), (1, 0, 0)).save(folder / f"{number}.png")
    table = {
        "categories": [{"id": 3, "name": "car", "isthing": 1}],
        "images": [{"id": i, "file_name": name} for i, name in enumerate(names)],
        "annotations": [
            {"image_id": i, "file_name": png.format(i), "segments_info": [{"id": 1, "category_id": 3}]}
            for i in range(len(names))
        ],
    }
    (root / "annotations/panoptic_train2017.json").write_text(json.dumps(table))
    return root


@pytest.mark.parametrize(
    ("names", "written"),
    [
        (["./x.png"], ["x.png"]),
        (["./a/x.png", "b//x.png"], ["a_x.png", "b_x.png"]),
        (["train2017/x.png"], ["x.png"]),
    ],
)
def test_file_names_of_a_coco_file_that_mean_the_same(tmp_path, names, written):
    summary = import_coco(coco(tmp_path / "in", names, "panoptic_train2017/{}.png"), tmp_path / "out")
    assert sorted(os.listdir(tmp_path / "out/images/train")) == written
    assert not any("not in images" in note for note in summary.notes)


# What changes after the check


def test_a_map_with_an_unknown_class_is_named_by_the_step_that_meets_it(tmp_path):
    root = make_set(tmp_path)
    path = root / "panoptic/train/a_2.png"
    colours = np.array(Image.open(path))
    colours[8:, 8:] = (0, 0, 77)  # pixels of no segment
    Image.fromarray(colours).save(path)
    source = LayoutDataset(
        images=root / "images",
        panoptic_maps=root / "panoptic",
        split="train",
        prompts=None,
        instance_prompts=None,
        taxonomy=CITYSCAPES,
        geometry=Geometry(size=(16, 16)),
        seed=0,
    )
    assert source[0].key == "a_1.png"
    with pytest.raises(DatasetError, match=r"a_2\.png: class id 77 \(64 pixels\) is unknown"):
        source[1]


def test_a_transform_after_one_that_unwraps_moves_the_map_too():
    image = torch.zeros(3, 16, 16, dtype=torch.uint8)
    planes = torch.zeros(3, 16, 16, dtype=torch.uint8)
    image[:, :, :8], planes[2, :, :8] = 200, 13
    geometry = Geometry(size=(16, 16), extra=[v2.ToPureTensor(), v2.RandomHorizontalFlip(p=1.0)])
    shown, moved, _ = geometry(image, planes, CITYSCAPES.void_id)
    assert torch.equal(moved[2] == 13, shown[0] == 200) and (moved[2, :, 8:] == 13).all()


# What is text, and what is a picture


def test_half_an_emoji_is_no_prompt(tmp_path):
    """JSON may hold it; the tokenizer ended a training with a TypeError."""
    (tmp_path / "prompts.json").write_text('{"a_1.png": {"1": "\\ud83d car"}}')
    with pytest.raises(DatasetError, match="a prompt is text"):
        read_instance_prompts(tmp_path / "prompts.json")


def test_a_program_in_a_pictures_clothes_is_not_run(tmp_path):
    """PIL gives PostScript to Ghostscript, whatever the file's name says."""
    root = make_set(tmp_path)
    Image.new("RGB", (16, 16)).save(root / "images/train/a_1.png", format="EPS")
    assert any("a_1.png is EPS inside" in problem for problem in check_folder(root).problems)
