"""COCO's panoptic format of ours: what panopticapi asks of it, and back again."""

import json
from pathlib import Path

import numpy as np
import pytest
from foreign import bdd100k, photo, save
from PIL import Image

from factories import mamoe
from mamoe.errors import DatasetError
from mamoe.prepare.camvid import import_camvid
from mamoe.prepare.cityscapes import import_cityscapes
from mamoe.prepare.coco import import_coco
from mamoe.prepare.export import export_coco_panoptic
from mamoe.prepare.importers import IMPORTERS
from mamoe.prepare.labelled import Manner
from mamoe.storage.staging import DiskFullError
from mamoe.vocabulary.panoptic import PanopticMap, read_panoptic, write_panoptic

REAL = Path(__file__).resolve().parents[3] / "shared" / "data"
NEEDS_REAL = pytest.mark.skipif(not REAL.is_dir(), reason="the real photographs are not beside the checkout")


@pytest.fixture
def camvid(tmp_path):
    """An imported set with all there is: single things, specks without a segment, void."""
    index = np.zeros((40, 64), dtype=np.uint8)
    index[20:], index[22:30, 4:14], index[22:30, 20:30], index[38:] = 3, 8, 8, 11
    index[35:37, 60:62] = 8
    for split in ("train", "val"):
        photo(tmp_path / f"source/{split}/0016E5_00480.png", size=(40, 64))
        save(index, tmp_path / f"source/{split}annot/0016E5_00480.png")
    import_camvid(tmp_path / "source", tmp_path / "data")
    return tmp_path / "data"


def accepted(table: Path, folder: Path) -> None:
    """What panopticapi's evaluation checks of predictions and needs of the truth, by its rules."""
    plain = json.loads(table.read_text())
    categories = {row["id"]: row for row in plain["categories"]}
    assert all(row["isthing"] in (0, 1) and len(row["color"]) == 3 and row["name"] for row in categories.values())
    images = {row["id"]: row for row in plain["images"]}
    assert len(images) == len(plain["images"]) == len(plain["annotations"])
    for annotation in plain["annotations"]:
        image = images[annotation["image_id"]]
        with Image.open(folder / annotation["file_name"]) as picture:
            rgb = np.array(picture, dtype=np.uint32)
        assert rgb.shape == (image["height"], image["width"], 3)
        ids = rgb[..., 0] + 256 * rgb[..., 1] + 65536 * rgb[..., 2]
        rows = {row["id"]: row for row in annotation["segments_info"]}
        assert len(rows) == len(annotation["segments_info"]) and 0 not in rows
        assert set(np.unique(ids).tolist()) - {0} == set(rows)
        for segment, row in rows.items():
            ys, xs = np.nonzero(ids == segment)
            box = [int(xs.min()), int(ys.min()), int(np.ptp(xs)) + 1, int(np.ptp(ys)) + 1]
            assert row["area"] == len(ys) and row["bbox"] == box and row["category_id"] in categories
            assert row["iscrowd"] in (0, 1)


def same(first: Path, second: Path) -> int:
    """The number of maps, which are the same in both, and so are their groups."""
    maps = sorted(path.relative_to(first) for path in (first / "panoptic").rglob("*.png"))
    assert maps == sorted(path.relative_to(second) for path in (second / "panoptic").rglob("*.png"))
    for path in maps:
        one, other = read_panoptic(first / path), read_panoptic(second / path)
        assert (one.segment_id == other.segment_id).all() and (one.class_id == other.class_id).all()
    told = [json.loads((folder / "dataset.json").read_text()) for folder in (first, second)]
    assert told[0] == told[1]  # counts, groups and hashes of pictures and maps
    return len(maps)


def test_there_and_back(camvid, tmp_path):
    outcome = mamoe("prepare", "export", "coco-panoptic", camvid, tmp_path / "coco")
    assert outcome.code == 0 and "train 1 pictures with 5 segments" in outcome.out, outcome.err
    for split in ("train", "val"):
        path = tmp_path / f"coco/annotations/panoptic_{split}.json"
        accepted(path, path.with_suffix(""))
    outcome = mamoe("prepare", "import", "coco", tmp_path / "coco", tmp_path / "back", "--taxonomy", "camvid")
    assert outcome.code == 0, outcome.err
    assert same(camvid, tmp_path / "back") == 2


def test_groups_and_odd_numbers_come_back(tmp_path):
    IMPORTERS["bdd100k"](bdd100k(tmp_path / "source"), tmp_path / "data", None)
    first = tmp_path / "data/panoptic/train/0a.png"
    panoptic = read_panoptic(first)
    numbers = np.array([0, 300, 65535, 2, 7], dtype=np.int32)[: len(panoptic.class_of_segment)]
    write_panoptic(PanopticMap(segment_id=numbers[panoptic.segment_id], class_id=panoptic.class_id), first)
    plain = json.loads((tmp_path / "data/dataset.json").read_text())
    (group,) = plain["files"]["train/0a.jpg"]["groups"]
    plain["files"]["train/0a.jpg"]["groups"] = [int(numbers[group])]
    (tmp_path / "data/dataset.json").write_text(json.dumps(plain))
    export_coco_panoptic(tmp_path / "data", tmp_path / "coco")
    accepted(tmp_path / "coco/annotations/panoptic_train.json", tmp_path / "coco/annotations/panoptic_train")
    import_coco(tmp_path / "coco", tmp_path / "back", taxonomy=str(tmp_path / "coco/taxonomy.yaml"))
    back = read_panoptic(tmp_path / "back/panoptic/train/0a.png")
    assert (back.segment_id == numbers[panoptic.segment_id]).all() and (back.class_id == panoptic.class_id).all()
    groups = json.loads((tmp_path / "back/dataset.json").read_text())["files"]["train/0a.jpg"]["groups"]
    assert groups == [int(numbers[group])]


def test_an_export_is_whole_or_not_there(camvid, tmp_path, monkeypatch):
    monkeypatch.setattr(Image.Image, "save", lambda *a, **k: (_ for _ in ()).throw(OSError(28, "No space left")))
    with pytest.raises(DiskFullError):
        export_coco_panoptic(camvid, tmp_path / "coco")
    monkeypatch.undo()
    assert not (tmp_path / "coco").exists()
    assert not export_coco_panoptic(camvid, tmp_path / "coco", manner=Manner(dry_run=True)).done
    assert export_coco_panoptic(camvid, tmp_path / "coco", manner=Manner(link=True)).done
    assert (tmp_path / "coco/train/0016E5_00480.png").is_symlink()
    with pytest.raises(DatasetError, match="give --overwrite"):
        export_coco_panoptic(camvid, tmp_path / "coco")


def test_a_faulty_set_is_not_exported(camvid, tmp_path):
    (camvid / "panoptic/train/0016E5_00480.png").unlink()
    with pytest.raises(DatasetError, match="0016E5_00480"):
        export_coco_panoptic(camvid, tmp_path / "coco")


@pytest.mark.parametrize("number", [-1, 70000, "1", 1.5])
def test_wrong_numbers_are_refused(camvid, tmp_path, number):
    export_coco_panoptic(camvid, tmp_path / "coco")
    path = tmp_path / "coco/annotations/panoptic_train.json"
    plain = json.loads(path.read_text())
    plain["annotations"][0]["segments_info"][0]["mamoe_segment"] = number
    path.write_text(json.dumps(plain))
    with pytest.raises(DatasetError, match="mamoe_segment"):
        import_coco(tmp_path / "coco", tmp_path / "back", taxonomy="camvid")


def test_panopticapi_reads_it(camvid, tmp_path, monkeypatch):
    """Where it is installed (it wants an older numpy): compared with itself, everything is right."""
    evaluation = pytest.importorskip("panopticapi.evaluation")
    monkeypatch.setattr(evaluation.multiprocessing, "cpu_count", lambda: 1)
    export_coco_panoptic(camvid, tmp_path / "coco")
    table = str(tmp_path / "coco/annotations/panoptic_train.json")
    found = evaluation.pq_compute(table, table)
    assert found["All"]["pq"] == found["Things"]["pq"] == 1.0 and found["All"]["n"] == 3


@pytest.mark.real
@NEEDS_REAL
def test_real_sets_there_and_back(tmp_path):
    """Cityscapes and COCO's own pictures: their export has the official counts and comes back as it was."""
    import_cityscapes(REAL / "cityscapes", tmp_path / "streets")
    export_coco_panoptic(tmp_path / "streets", tmp_path / "coco")
    import_coco(tmp_path / "coco", tmp_path / "streets_back", taxonomy="cityscapes")
    assert same(tmp_path / "streets", tmp_path / "streets_back") == 6
    import_coco(REAL / "coco_panoptic", tmp_path / "photos")
    export_coco_panoptic(tmp_path / "photos", tmp_path / "again")
    import_coco(tmp_path / "again", tmp_path / "photos_back")
    assert same(tmp_path / "photos", tmp_path / "photos_back") == 2
    official = json.loads((REAL / "coco_panoptic/panoptic_examples.json").read_text())
    ours = json.loads((tmp_path / "again/annotations/panoptic_examples.json").read_text())
    for theirs in official["annotations"]:
        (row,) = [a for a in ours["annotations"] if a["file_name"] == theirs["file_name"]]
        told = [
            sorted((s["category_id"], s["area"], tuple(s["bbox"]), s["iscrowd"]) for s in rows["segments_info"])
            for rows in (theirs, row)
        ]
        assert told[0] == told[1]
