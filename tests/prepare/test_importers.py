import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from inspecting import inspected
from mamoe.data.dataset import LayoutDataset
from mamoe.data.folder.description import data_folder
from mamoe.data.folder.prompts import read_instance_prompts, read_prompts_csv
from mamoe.data.geometry.joint import Geometry
from mamoe.errors import DatasetError
from mamoe.prepare.camvid import panoptic_from_class_index
from mamoe.prepare.check import check_dataset, check_folder
from mamoe.prepare.cityscapes import TRAIN_IDS
from mamoe.prepare.importers import IMPORTERS
from mamoe.vocabulary.panoptic import PanopticMap
from mamoe.vocabulary.taxonomy import Taxonomy

REAL = Path(__file__).resolve().parents[3] / "shared" / "data"
NEEDS_REAL = pytest.mark.skipif(not REAL.is_dir(), reason="the real photographs are not beside the checkout")


def _save(array, path):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)


def _photo(seed=0, size=(40, 64)):
    return np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)


@pytest.fixture
def cityscapes(tmp_path):
    """Two train pictures and one val picture: road, sky, two cars, a group of persons, the ego vehicle."""
    instance = np.full((40, 64), 23, dtype=np.uint16)
    instance[20:] = 7
    instance[22:30, 4:14] = 26000
    instance[22:30, 20:30] = 26001
    instance[24:34, 40:50] = 24
    instance[36:] = 1
    for split, count in (("train", 2), ("val", 1)):
        for number in range(count):
            stem = f"aachen_{number:06d}_000019"
            _save(_photo(number), tmp_path / f"source/leftImg8bit/{split}/aachen/{stem}_leftImg8bit.png")
            _save(instance, tmp_path / f"source/gtFine/{split}/aachen/{stem}_gtFine_instanceIds.png")
    return tmp_path / "source", instance


@pytest.fixture
def camvid(tmp_path):
    """Two cars, one of them with a speck beside it, a bicyclist, and unlabelled pixels."""
    index = np.full((40, 64), 0, dtype=np.uint8)
    index[20:] = 3
    index[22:30, 4:14] = 8
    index[22:30, 20:30] = 8
    index[35:37, 60:62] = 8
    index[22:32, 40:50] = 10
    index[38:] = 11
    for split in ("train", "val"):
        _save(_photo(), tmp_path / f"source/{split}/0016E5_00480.png")
        _save(index, tmp_path / f"source/{split}annot/0016E5_00480.png")
    return tmp_path / "source", index


@pytest.fixture
def coco(tmp_path):
    """Two persons, grass and unlabelled pixels, with segment ids that use all three channels."""
    ids = {3937500: 1, 4260062: 1, 70000: 193}
    picture = np.zeros((40, 64, 3), dtype=np.uint8)
    for number, segment in enumerate(ids):
        picture[4 + 12 * number : 14 + 12 * number] = segment % 256, segment // 256 % 256, segment // 65536
    _save(picture, tmp_path / "source/annotations/panoptic_val2017/000000142238.png")
    _save(_photo(), tmp_path / "source/val2017/000000142238.jpg")
    table = {
        "images": [{"id": 142238, "file_name": "000000142238.jpg"}],
        "annotations": [
            {
                "image_id": 142238,
                "file_name": "000000142238.png",
                "segments_info": [{"id": i, "category_id": c, "iscrowd": 0} for i, c in ids.items()],
            }
        ],
    }
    (tmp_path / "source/annotations/panoptic_val2017.json").write_text(json.dumps(table))
    return tmp_path / "source", table


def test_cityscapes(cityscapes, tmp_path):
    source, instance = cityscapes
    steps = []
    summary = IMPORTERS["cityscapes"](source, tmp_path / "out", lambda done, total: steps.append((done, total)))
    assert steps == [(1, 3), (2, 3), (3, 3)]
    assert summary.pictures == {"train": 2, "val": 1} and summary.instances == {"train": 4, "val": 2}
    assert summary.groups == {"train": 2, "val": 1}
    panoptic = PanopticMap.read(tmp_path / "out/panoptic/train/aachen_000000_000019.png")
    expected = {7: 0, 23: 10, 24: 11, 1: 19, 26000: 13, 26001: 13}
    for value, klass in expected.items():
        assert (panoptic.class_id[instance == value] == klass).all()
        assert len(np.unique(panoptic.segment_id[instance == value])) == 1
    assert (panoptic.segment_id[instance == 1] == 0).all()
    assert sorted(panoptic.classes.values()) == [0, 10, 11, 13, 13]
    copied = (tmp_path / "out/images/train/aachen_000001_000019.png").read_bytes()
    assert copied == (source / "leftImg8bit/train/aachen/aachen_000001_000019_leftImg8bit.png").read_bytes()


def test_what_an_import_writes_is_a_data_set(cityscapes, tmp_path):
    IMPORTERS["cityscapes"](cityscapes[0], tmp_path / "out", None)
    parts = data_folder(tmp_path / "out")
    assert parts.size is not None and parts.notes == ()
    for split, count in (("train", 2), ("val", 1)):
        dataset = LayoutDataset(
            images=parts.images,
            panoptic_maps=parts.panoptic_maps,
            prompts=parts.prompts,
            instance_prompts=parts.instance_prompts,
            taxonomy=parts.taxonomy,
            geometry=Geometry(size=parts.size),
            split=split,
            seed=0,
        )
        assert len(dataset) == count
        inspected(dataset)
        sample = dataset[0]
        assert sample.prompts.global_prompt == "a street with cars, people, sky and road"
        assert sorted(sample.prompts.by_segment.values()) == ["a group of people", "car", "car"]
    prompts = read_prompts_csv(tmp_path / "out/prompts_train.csv")
    assert list(prompts) == ["aachen_000000_000019.png", "aachen_000001_000019.png"]
    assert set(read_instance_prompts(tmp_path / "out/instance_prompts_train.json")) == set(prompts)


def test_camvid(camvid, tmp_path):
    source, index = camvid
    summary = IMPORTERS["camvid"](source, tmp_path / "out", None)
    assert summary.pictures == {"train": 1, "val": 1} and summary.instances == {"train": 3, "val": 3}
    panoptic = PanopticMap.read(tmp_path / "out/panoptic/val/0016E5_00480.png")
    assert np.array_equal(panoptic.class_id, index)
    assert sorted(panoptic.classes.values()) == [0, 3, 8, 8, 10]
    assert panoptic.segment_id[25, 5] != panoptic.segment_id[25, 25]
    assert panoptic.segment_id[35, 60] == 0 and panoptic.class_id[35, 60] == 8  # the speck
    assert (panoptic.segment_id[38:] == 0).all()
    check_folder(tmp_path / "out")


def test_a_thing_of_exactly_the_least_size_is_an_instance():
    taxonomy = Taxonomy.load("camvid")
    index = np.zeros((8, 16), dtype=np.int32)
    index[:4, :8] = 8
    assert sorted(panoptic_from_class_index(index, taxonomy).classes.values()) == [0, 8]
    index[0, 0] = 0
    assert sorted(panoptic_from_class_index(index, taxonomy).classes.values()) == [0]


def test_coco(coco, tmp_path):
    source, _ = coco
    summary = IMPORTERS["coco"](source, tmp_path / "out", None)
    assert summary.pictures == {"val": 1} and summary.instances == {"val": 2}
    panoptic = PanopticMap.read(tmp_path / "out/panoptic/val/000000142238.png")
    assert panoptic.class_id[[0, 5, 20, 30], 0].tolist() == [0, 1, 1, 193]
    assert panoptic.segment_id[[0, 5, 20, 30], 0].tolist() == [0, 1, 2, 3]
    assert check_folder(tmp_path / "out").problems == ()


@pytest.mark.parametrize("name", sorted(IMPORTERS))
def test_a_folder_without_such_data(name, tmp_path):
    with pytest.raises(DatasetError, match="holds no"):
        IMPORTERS[name](tmp_path, tmp_path / "out", None)
    assert not (tmp_path / "out").exists()


def test_nothing_is_overwritten(camvid, tmp_path):
    (tmp_path / "out").mkdir()
    IMPORTERS["camvid"](camvid[0], tmp_path / "out", None)  # an empty folder will do
    before = sorted((tmp_path / "out").rglob("*"))
    with pytest.raises(DatasetError, match="give --overwrite"):
        IMPORTERS["camvid"](camvid[0], tmp_path / "out", None)
    assert sorted((tmp_path / "out").rglob("*")) == before


def test_a_failed_import_names_all_files_and_leaves_nothing(camvid, tmp_path):
    source, index = camvid
    (source / "train/0016E5_00480.png").write_bytes(b"x")
    _save(index[:20], source / "valannot/0016E5_00480.png")
    with pytest.raises(DatasetError) as caught:
        IMPORTERS["camvid"](source, tmp_path / "out", None)
    assert "train/0016E5_00480.png" in str(caught.value) and "val/0016E5_00480.png" in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["source"]


@pytest.mark.parametrize("name", ["camvid", "cityscapes"])
def test_missing_annotations_are_all_named(name, tmp_path, request):
    source, _ = request.getfixturevalue(name)
    names = [path.relative_to(source).as_posix() for path in source.rglob("*.png")]
    gone = [source / name for name in names if "annot/" in name or "instanceIds" in name]
    for path in gone:
        path.unlink()
    with pytest.raises(DatasetError) as caught:
        IMPORTERS[name](source, tmp_path / "out", None)
    assert all(str(path) in str(caught.value) for path in gone)


def test_camvid_indices_out_of_range(camvid, tmp_path):
    source, index = camvid
    index[0, 0] = 12
    _save(index, source / "trainannot/0016E5_00480.png")
    with pytest.raises(DatasetError, match="0 to 11, got 0 to 12"):
        IMPORTERS["camvid"](source, tmp_path / "out", None)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (lambda t: t["annotations"][0]["segments_info"].pop(), "not listed in segments_info"),
        (lambda t: t["annotations"][0]["segments_info"][0].update(category_id=12), r"\(3937500, 12\)"),
        (lambda t: t["annotations"][0]["segments_info"][0].update(id="7"), r"\('7', 1\)"),
        (lambda t: t["images"][0].update(file_name="../../secret.jpg"), "plain names"),
        (lambda t: t["annotations"][0].update(file_name="/etc/passwd"), "plain names"),
        (lambda t: t["annotations"][0].update(file_name="other.png"), "no file"),
        (lambda t: t.pop("images"), "'images'"),
    ],
)
def test_coco_tables_that_do_not_fit(coco, tmp_path, change, complaint):
    source, table = coco
    change(table)
    (source / "annotations/panoptic_val2017.json").write_text(json.dumps(table))
    with pytest.raises(DatasetError, match=complaint):
        IMPORTERS["coco"](source, tmp_path / "out", None)


def test_check_reports_contents_and_problems(camvid, tmp_path):
    out = tmp_path / "out"
    IMPORTERS["camvid"](camvid[0], out, None)
    seen = []
    report = check_folder(out, progress=lambda *step: seen.append(step))
    assert report.problems == () and seen == [(1, 1, "train"), (1, 1, "val")]
    assert report.splits["train"].pixels[8] == (camvid[1] == 8).sum()
    assert "bicyclist" in report.text() and "pedestrian" not in report.text()
    (out / "panoptic/train/0016E5_00480.png").unlink()
    (out / "images/val/0016E5_00480.png").write_bytes(b"x")
    broken = check_folder(out)
    problems = broken.problems
    assert all(f"- {problem}" in broken.text() for problem in problems) and "problem" not in report.text()
    assert len(problems) == 2 and "no panoptic map" in problems[0] and "Cannot read the picture" in problems[1]
    named = check_dataset(images=out / "images", panoptic_maps=out / "panoptic", taxonomy=Taxonomy.load("camvid"))
    assert named.problems == problems


def test_check_without_a_data_yaml(camvid, tmp_path):
    IMPORTERS["camvid"](camvid[0], tmp_path / "out", None)
    (tmp_path / "out/data.yaml").unlink()
    assert "cityscapes's are taken" in check_folder(tmp_path / "out").text()
    report = check_folder(tmp_path / "out", Taxonomy.load("camvid"))
    assert report.splits["val"].with_prompt == 1 and report.splits["val"].instance_prompts == 3
    with pytest.raises(DatasetError, match="no folder"):
        check_folder(tmp_path / "nowhere")


@pytest.mark.real
@NEEDS_REAL
def test_real_cityscapes(tmp_path):
    IMPORTERS["cityscapes"](REAL / "cityscapes", tmp_path / "out", None)
    assert check_folder(tmp_path / "out").problems == ()
    labels = sorted((REAL / "cityscapes/gtFine").glob("*/*/*_gtFine_labelIds.png"))
    assert len(labels) == 6
    table = np.full(256, 19, dtype=np.uint8)
    table[list(TRAIN_IDS)] = list(TRAIN_IDS.values())
    for path in labels:
        name = path.name.replace("_gtFine_labelIds", "")
        panoptic = PanopticMap.read(tmp_path / "out/panoptic" / path.parts[-3] / name)
        instance = np.asarray(Image.open(str(path).replace("labelIds", "instanceIds"))).astype(np.int64)
        assert np.array_equal(panoptic.class_id, table[np.asarray(Image.open(path))])
        pairs = np.flatnonzero(np.bincount((instance * 256 + panoptic.segment_id).ravel()))
        labelled = pairs[pairs % 256 > 0]
        assert len(labelled) == len(np.unique(labelled // 256)) == len(np.unique(labelled % 256)) < 256
        assert np.array_equal(panoptic.segment_id == 0, panoptic.class_id == 19)


@pytest.mark.real
@NEEDS_REAL
def test_real_camvid(tmp_path):
    summary = IMPORTERS["camvid"](REAL / "camvid", tmp_path / "out", None)
    assert summary.pictures == {"train": 120, "val": 40}
    report = check_folder(tmp_path / "out")
    assert report.problems == () and report.splits["train"].images == 120
    annotations = sorted((REAL / "camvid/valannot").glob("*.png"))
    counted = sum(np.bincount(np.asarray(Image.open(path)).ravel(), minlength=256) for path in annotations)
    assert np.array_equal(report.splits["val"].pixels, counted)


@pytest.mark.real
@NEEDS_REAL
def test_real_coco_to_the_pixel(tmp_path):
    IMPORTERS["coco"](REAL / "coco_panoptic", tmp_path / "out", None)
    assert check_folder(tmp_path / "out").problems == ()
    table = json.loads((REAL / "coco_panoptic/panoptic_examples.json").read_text())
    for annotation in table["annotations"]:
        name = annotation["file_name"]
        panoptic = PanopticMap.read(tmp_path / "out/panoptic/examples" / name)
        assert len(panoptic.classes) == len(annotation["segments_info"])
        for number, segment in enumerate(annotation["segments_info"], start=1):
            mask = panoptic.segment_id == number
            rows, columns = np.nonzero(mask)
            left, top, width, height = segment["bbox"]
            assert mask.sum() == segment["area"]
            assert (columns.min(), rows.min()) == (left, top)
            assert (columns.max() - left + 1, rows.max() - top + 1) == (width, height)
            assert (panoptic.class_id[mask] == segment["category_id"]).all()
        two_channels = np.asarray(Image.open(REAL / "coco_panoptic/panoptic_examples_2ch_format" / name))
        assert np.array_equal(panoptic.class_id, two_channels[..., 0])
