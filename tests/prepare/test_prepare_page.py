"""Every command of docs/prepare.md's sections Import, Segment, Fuse and Export, run on drawn trees."""

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from foreign import ade20k, bdd100k, idd, kitti360, mapillary, photo, save

import mamoe as mamoe_package
from factories import mamoe
from mamoe.models.segmenter import Segmenter
from mamoe.models.segmenter_files import write_segmenter
from mamoe.prepare.check import check_folder
from tiny_segmenters import mask2former, tiny_segmenter

PAGE = (Path(__file__).parents[2] / "docs" / "prepare.md").read_text(encoding="utf-8")


def commands(heading: str) -> list[list[str]]:
    """The words after `mamoe` of every command in a section."""
    section = PAGE.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    blocks = re.findall(r"^```sh\n(.*?)^```", section, re.MULTILINE | re.DOTALL)
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    found = [shlex.split(line, comments=True) for line in lines]
    return [words[1:] for words in found if words and words[0] == "mamoe"]


@pytest.fixture(scope="module")
def material(tmp_path_factory):
    """What the page calls raw/."""
    root = tmp_path_factory.mktemp("page")
    raw = root / "raw"
    for name, tree in (("ade20k", ade20k), ("vistas", mapillary), ("kitti360", kitti360), ("idd", idd)):
        tree(raw / name)
    bdd100k(raw / "bdd100k")
    ids = np.full((32, 64), 7, dtype=np.uint16)
    ids[18:26, 8:20] = 26000
    photo(raw / "cityscapes/leftImg8bit/train/aachen/aachen_000000_000019_leftImg8bit.png")
    save(ids, raw / "cityscapes/gtFine/train/aachen/aachen_000000_000019_gtFine_instanceIds.png")
    photo(raw / "camvid/train/a.png")
    save(np.zeros((32, 64), dtype=np.uint8), raw / "camvid/trainannot/a.png")
    photo(raw / "coco/train2017/1.jpg")
    colours = np.zeros((32, 64, 3), dtype=np.uint8)
    colours[..., 0] = 5
    save(colours, raw / "coco/annotations/panoptic_train2017/1.png")
    table = {
        "images": [{"id": 1, "file_name": "1.jpg"}],
        "annotations": [{"image_id": 1, "file_name": "1.png", "segments_info": [{"id": 5, "category_id": 1}]}],
        "categories": [{"id": 1, "name": "person", "isthing": 1}],
    }
    (raw / "coco/annotations/panoptic_train2017.json").write_text(json.dumps(table))
    (raw / "classes.yaml").write_text(re.search(r"```yaml\n(name: harbour.*?)```", PAGE, re.DOTALL)[1])
    numbers = np.full((32, 64), 1, dtype=np.uint8)
    numbers[20:] = 2
    masks = []
    (raw / "yolo").mkdir()
    for i in range(4):
        name = f"pier{i // 2}_{i}"
        photo(raw / f"photos/{name}.jpg", i)
        save(numbers, raw / f"maps/{name}.png")
        (raw / f"yolo/{name}.txt").write_text("2 0 0.7 0.5 0.7 0.5 1 0 1 0.9\n")
        masks.append({"image_id": name, "category_id": 2, "segmentation": [[0, 20, 32, 20, 32, 32, 0, 32]]})
    (raw / "masks.json").write_text(json.dumps(masks))
    tiny_segmenter(mask2former, raw / "mask2former")
    write_segmenter(raw / "segmenter", Segmenter(2), {"classes": ["road", "car"]})
    return root


def test_the_page_has_commands():
    assert len(commands("Import")) == 9 and len(commands("Segment")) == 5
    assert len(commands("Fuse")) == 2 and len(commands("Export")) == 2


def test_every_command_works(material, monkeypatch):
    monkeypatch.chdir(material)
    for words in [*commands("Import"), *commands("Segment"), *commands("Fuse"), *commands("Export")]:
        outcome = mamoe(*words)
        assert outcome.code == 0, (words, outcome.err)
    for folder in sorted((material / "data").iterdir()):
        assert check_folder(folder).problems == (), folder
    told = [json.loads((material / f"data/{name}/dataset.json").read_text()) for name in ("harbour", "again")]
    assert told[0]["splits"] == told[1]["splits"]


@pytest.mark.slow  # 24 commands
def test_tasks_of_an_array_do_parts_of_one_set(material):
    """Each is a process of its own, whose sets have another order."""
    table = {
        "images": [{"id": i, "file_name": f"pier{i // 2}_{i}.jpg", "height": 32, "width": 64} for i in range(4)],
        "annotations": [
            {"id": i + 1, "image_id": i, "category_id": 1, "segmentation": [[0, 0, 9, 0, 9, 9]]} for i in range(4)
        ],
        "categories": [{"id": 1, "name": "car"}, {"id": 2, "name": "boat"}, {"id": 3, "name": "tram"}],
    }
    (material / "raw/objects.json").write_text(json.dumps(table))
    own = ["prepare", "import", "folder", "raw/photos", "data/objects", "--maps", "raw/objects.json"]
    words = [
        [word.replace("data/", "array/") for word in line] for line in (*commands("Import"), *commands("Fuse"), own)
    ]
    code = "import json, sys; from mamoe.cli import app; [app(w, standalone_mode=False) for w in json.load(sys.stdin)]"
    for task in ("0", "1"):
        array = {"SLURM_ARRAY_TASK_ID": task, "SLURM_ARRAY_TASK_COUNT": "2", "SLURM_ARRAY_TASK_MIN": "0"}
        ended = subprocess.run(
            [sys.executable, "-c", code],
            input=json.dumps([[*line, "--workers", "1"] for line in words]),
            env={
                **os.environ,
                **array,
                "PYTHONHASHSEED": task,
                "PYTHONPATH": str(Path(mamoe_package.__file__).parents[1]),
            },
            cwd=material,
            text=True,
            capture_output=True,
        )
        assert ended.returncode == 0, ended.stderr
    assert len(words) == 12 and all(
        (material / line[4] / "dataset.json").is_file() for line in words if line[1] == "import"
    )
    assert all((material / line[3] / "dataset.json").is_file() for line in words if line[1] == "fuse")
