"""Fusing folders: every form of masks gives the same maps, the report says what was dropped, real parts meet."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from foreign import photo, save
from PIL import Image
from pycocotools import mask as coco_mask

from factories import mamoe
from mamoe.errors import DatasetError
from mamoe.prepare.check import check_folder
from mamoe.prepare.cityscapes import TRAIN_IDS, import_cityscapes
from mamoe.prepare.classes import read_class_table, table_of
from mamoe.prepare.fuse.folders import FuseSources, fuse_folders
from mamoe.prepare.fuse.instances import find_instances
from mamoe.prepare.fuse.rules import FuseRules
from mamoe.prepare.labelled import Manner
from mamoe.vocabulary.panoptic import read_panoptic
from mamoe.vocabulary.taxonomy import Taxonomy

REAL = Path(__file__).resolve().parents[3] / "shared" / "data" / "cityscapes"
SIZE = (32, 64)
CAR, PERSON = 13, 11
BOXES = [(CAR, 0.9, (18, 4, 28, 24)), (PERSON, 0.8, (14, 40, 28, 46)), (CAR, 0.3, (2, 2, 8, 8))]  # class, score, box
NAMES = ("town_000001", "town_000002")


@pytest.fixture
def parts(tmp_path):
    """Two pictures, maps of sky, road, a car and a person, and three masks each: the last scores low, in the sky."""
    classes = np.full(SIZE, 10, dtype=np.uint8)
    classes[16:] = 0
    for class_id, _, (top, left, bottom, right) in BOXES[:2]:
        classes[top:bottom, left:right] = class_id
    for number, name in enumerate(NAMES):
        photo(tmp_path / f"images/{name}.jpg", number)
        save(classes, tmp_path / f"semantic/{name}.png")
    return tmp_path


def bitmap(box):
    found = np.zeros(SIZE, dtype=np.uint8)
    found[box[0] : box[2], box[1] : box[3]] = 1
    return found


def corners(box):
    top, left, bottom, right = box
    return [left, top, right, top, right, bottom, left, bottom]


def coco_runs(folder):
    def runs(box):
        packed = coco_mask.encode(np.asfortranarray(bitmap(box)))
        return {"size": list(SIZE), "counts": packed["counts"].decode()}

    found = [
        {"image_id": number, "category_id": c, "segmentation": runs(box), "score": score}
        for number in (1, 2)
        for c, score, box in BOXES
    ]
    images = [{"id": number, "file_name": f"{name}.jpg"} for number, name in enumerate(NAMES, start=1)]
    categories = [{"id": CAR, "name": "Car"}, {"id": PERSON, "name": "person"}]
    path = folder / "masks.json"
    path.write_text(json.dumps({"images": images, "annotations": found, "categories": categories}))
    return path


def coco_polygons(folder):
    found = [
        {"image_id": name, "category_id": c, "segmentation": [corners(box)], "score": score}
        for name in NAMES
        for c, score, box in BOXES
    ]
    path = folder / "detections.json"
    path.write_text(json.dumps(found))
    return path


def yolo(folder):
    (folder / "labels").mkdir()
    for name in NAMES:
        lines = [
            " ".join(map(str, [c, *(v / SIZE[1 - i % 2] for i, v in enumerate(corners(box))), score]))
            for c, score, box in BOXES
        ]
        (folder / "labels" / f"{name}.txt").write_text("\n".join(lines))
    return folder / "labels"


def stacks(folder):
    for name in NAMES:
        for number, (c, score, box) in enumerate(BOXES):
            word = {CAR: "car", PERSON: str(PERSON)}[c]
            save(bitmap(box) * 255, folder / f"stacks/{name}/{number:03}_{word}_{score}.png")
    return folder / "stacks"


def lists(folder):
    for name in NAMES:
        lines = []
        for number, (c, score, box) in enumerate(BOXES):
            save(bitmap(box) * 255, folder / f"lists/masks/{name}_{number}.png")
            lines.append(f"masks/{name}_{number}.png {c} {score}")
        (folder / f"lists/{name}.txt").write_text("\n".join(lines))
    return folder / "lists"


def fuse_all(parts, instances, out, rules=FuseRules(), **how):  # noqa: B008
    sources = FuseSources(images=parts / "images", semantic=parts / "semantic", instances=instances)
    return fuse_folders(sources, out, table_of(Taxonomy.load("cityscapes")), rules, **how)


@pytest.mark.parametrize("form", [coco_runs, coco_polygons, yolo, stacks, lists])
def test_every_form_of_masks_gives_the_same_map(parts, form):
    summary = fuse_all(parts, form(parts), parts / "out")
    for name in NAMES:
        panoptic = read_panoptic(parts / f"out/panoptic/train/{name}.png")
        assert panoptic.classes == {1: 0, 2: 10, 3: CAR, 4: PERSON}
        for segment, (_, _, box) in zip((3, 4), BOXES, strict=False):
            assert ((panoptic.segment_id == segment) == bitmap(box)).all()
    assert check_folder(parts / "out").problems == ()
    report = json.loads((parts / "out/fuse/report.json").read_text())
    assert report["masks"] == 6 and report["dropped"] == [{"reason": "score", "class": "car", "masks": 2}]
    assert report["pictures"]["train/town_000001.jpg"][0]["figure"] == 0.3
    assert any("4 of 6 masks" in note for note in summary.notes) and any("2 scored too low" in n for n in summary.notes)
    with Image.open(parts / "out/fuse/worst_1.png") as worst:
        assert worst.width == 1440 and not (parts / "out/fuse/worst_3.png").exists()


def test_sixteen_bit_ids(parts):
    ids = np.zeros(SIZE, dtype=np.uint16)
    for number, (c, _, (top, left, bottom, right)) in enumerate(BOXES[:2]):
        ids[top:bottom, left:right] = c * 1000 + number
    for name in NAMES:
        save(ids, parts / f"ids/{name}.png")
    fuse_all(parts, parts / "ids", parts / "out")
    assert read_panoptic(parts / "out/panoptic/train/town_000001.png").classes == {1: 0, 2: 10, 3: PERSON, 4: CAR}


def test_two_processes_and_one_write_the_same(parts):
    masks = coco_runs(parts)
    for number in range(40):  # so many that it is worth two processes
        shutil.copy(parts / "images/town_000001.jpg", parts / f"images/more_{number}.jpg")
        shutil.copy(parts / "semantic/town_000001.png", parts / f"semantic/more_{number}.png")
    hashes = []
    for workers in (1, 2):
        fuse_all(parts, masks, parts / f"out{workers}", manner=Manner(workers=workers))
        hashes.append(json.loads((parts / f"out{workers}/dataset.json").read_text())["splits"]["train"]["hash"])
    assert hashes[0] == hashes[1]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda row: row.update(category_id=99), "category_id 99"),
        (lambda row: row.update(segmentation=[]), "segmentation"),
        (lambda row: row.update(segmentation=[[1, 2, 3]]), "polygon"),
        (lambda row: row.update(segmentation={"size": [9, 9], "counts": [81]}), "the picture"),
        (lambda row: row.update(segmentation={"size": [50000, 50000], "counts": [2500000000]}), "the picture"),
        (lambda row: row.update(score="high"), "score"),
        (lambda row: row.update(iscrowd=2), "iscrowd"),
        (lambda row: row.update(image_id=7), "image_id 7"),
    ],
)
def test_wrong_annotations_are_named(parts, change, said):
    path = coco_runs(parts)
    plain = json.loads(path.read_text())
    change(plain["annotations"][0])
    path.write_text(json.dumps(plain))
    with pytest.raises(DatasetError, match=said):
        fuse_all(parts, path, parts / "out")
    assert not (parts / "out").exists()


@pytest.mark.parametrize("name", ["../x.jpg", "/etc/x.jpg", "a\0.jpg", "..\\x.jpg", ""])
def test_names_in_a_json_lead_nowhere_else(parts, name):
    path = coco_runs(parts)
    plain = json.loads(path.read_text())
    plain["images"][0]["file_name"] = name
    path.write_text(json.dumps(plain))
    with pytest.raises(DatasetError, match="file names must be plain"):
        fuse_all(parts, path, parts / "out")


def test_lists_lead_nowhere_else(parts):
    folder = lists(parts)
    save(bitmap(BOXES[0][2]), parts / "outside.png")
    (folder / "town_000001.txt").write_text("../outside.png 13 0.9")
    with pytest.raises(DatasetError, match="leads out of"):
        fuse_all(parts, folder, parts / "out")


@pytest.mark.parametrize("line", ["13 0.1 0.1", "car 0 0 1 1 0 1", "99 0 0 1 1 0 1", "13 nan 1 1 1 1 1"])
def test_wrong_lines_of_yolo_are_named(parts, line):
    folder = yolo(parts)
    (folder / "town_000002.txt").write_text(f"\n13 0 0 1 0 1 1\n{line}\n")
    with pytest.raises(DatasetError, match="line 2"):
        fuse_all(parts, folder, parts / "out")


def test_pictures_without_maps_and_masks_without_pictures(parts):
    (parts / "semantic/town_000002.png").unlink()
    with pytest.raises(DatasetError, match=r"town_000002\.jpg has no map"):
        fuse_all(parts, coco_runs(parts), parts / "out")
    table = table_of(Taxonomy.load("cityscapes"))
    with pytest.raises(DatasetError, match="none of the pictures"):
        find_instances(coco_polygons(parts), ["a.jpg"], table)


def test_the_command(parts):
    words = ("--semantic", parts / "semantic", "--instances", coco_runs(parts), "--classes", "cityscapes")
    outcome = mamoe("prepare", "fuse", parts / "images", parts / "out", *words, "--val", "0.5", "--score", "0.2")
    assert outcome.code == 0, outcome.err
    assert "2 of another class than the map: 2 car" in outcome.out and "val 1 pictures" in outcome.out
    assert "Next: mamoe check" in outcome.out


@pytest.mark.real
@pytest.mark.skipif(not REAL.is_dir(), reason="the real photographs are not beside the checkout")
def test_cityscapes_parts_make_the_imported_maps(tmp_path):
    """The official semantic and instance maps, fused, are the maps of the import: pixels, segments, groups."""
    rows = "\n".join(f"  - {{value: {label}, name: {_name(train)}}}" for label, train in TRAIN_IDS.items())
    void = [label for label in range(34) if label not in TRAIN_IDS]
    table = tmp_path / "classes.yaml"
    table.write_text(f"taxonomy: cityscapes\nvoid: {void}\nclasses:\n{rows}\n")
    for kind, part in (("labelIds", "semantic"), ("instanceIds", "instances")):
        for path in (REAL / "gtFine").rglob(f"*_{kind}.png"):
            target = tmp_path / part / path.relative_to(REAL / "gtFine")
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, target)
    sources = FuseSources(images=REAL / "leftImg8bit", semantic=tmp_path / "semantic", instances=tmp_path / "instances")
    fuse_folders(sources, tmp_path / "fused", read_class_table(str(table)), FuseRules(min_area=0))
    import_cityscapes(REAL, tmp_path / "imported")
    groups = []
    for folder in ("fused", "imported"):
        files = json.loads((tmp_path / folder / "dataset.json").read_text())["files"]
        groups.append([(row["map"], row.get("groups")) for row in files.values()])
    assert groups[0] == groups[1] and len(groups[0]) == 6


def _name(train_id):
    return next(row.name for row in Taxonomy.load("cityscapes").classes if row.id == train_id)


def test_names_that_fit_no_picture_are_said_once(parts, tmp_path):
    (parts / "other").mkdir()
    shutil.copy(next((parts / "semantic").rglob("*.png")), parts / "other/elsewhere.png")
    sources = FuseSources(images=parts / "images", semantic=parts / "other", instances=coco_runs(parts))
    with pytest.raises(DatasetError) as caught:
        fuse_folders(sources, tmp_path / "out", table_of(Taxonomy.load("cityscapes")), FuseRules())
    assert "no map in" in str(caught.value) and "maps elsewhere.png: give folders that fit" in str(caught.value)
    assert len(str(caught.value).splitlines()) == 3
