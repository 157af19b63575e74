"""Data sets in their official formats, a picture or two each, and what an import of them says."""

import csv
import json

import numpy as np
import pytest
from PIL import Image

from mamoe.errors import ConfigError, DatasetError
from mamoe.prepare.importers import importer_of

SIZE = (32, 64)
OWN = [
    {"id": 1, "name": "water", "isthing": 0, "color": [0, 153, 204]},
    {"id": 2, "name": "quay", "isthing": 0, "color": [120, 120, 120]},
    {"id": 3, "name": "ConcreteCrack", "isthing": 1, "color": [200, 0, 0]},
]
COCO = [
    {"id": 3, "name": "car", "isthing": 1},
    {"id": 149, "name": "road", "isthing": 0},
    {"id": 187, "name": "sky-other-merged", "isthing": 0},
]
SEGMENTS = (39372, 70001, 150000)  # sky, road, car in this order, or whatever the categories are


def _save(array, path, **how):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path, **how)
    return path


def _photo(path, seed=0, size=SIZE, **how):
    return _save(np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8), path, **how)


def _colours(ids):
    return np.stack([ids % 256, ids // 256 % 256, ids // 65536], axis=-1).astype(np.uint8)


def _coco_ids():
    ids = np.full(SIZE, SEGMENTS[0])
    ids[16:] = SEGMENTS[1]
    ids[18:28, 8:24] = SEGMENTS[2]
    return ids


def coco(root, categories, classes, *, name="train2017", pictures=("000263.jpg",), crowd=0, change=lambda table: None):
    """A panoptic JSON in which the three segments have these classes, with its pictures and PNGs."""
    table = {"images": [], "annotations": [], "categories": categories}
    for number, picture in enumerate(pictures):
        _photo(root / name / picture, number)
        png = f"{picture.rsplit('.', 1)[0]}.png"
        _save(_colours(_coco_ids()), root / f"annotations/panoptic_{name}" / png)
        segments = [{"id": i, "category_id": c, "iscrowd": 0} for i, c in zip(SEGMENTS, classes, strict=True)]
        segments[-1]["iscrowd"] = crowd
        table["images"].append({"id": number, "file_name": picture})
        table["annotations"].append({"image_id": number, "file_name": png, "segments_info": segments})
    change(table)
    (root / f"annotations/panoptic_{name}.json").write_text(json.dumps(table))
    return root


def cityscapes(root, places=(("train", "aachen", "aachen_000000_000019"),), instances="_gtFine_instanceIds.png"):
    """Pictures with sky, road, a single car and a group of cars; ``instances`` None: without annotations."""
    ids = np.full(SIZE, 23, dtype=np.uint16)
    ids[16:] = 7
    ids[18:28, 8:24] = 26000
    ids[18:28, 40:60] = 26
    for number, (split, city, stem) in enumerate(places):
        _photo(root / f"leftImg8bit/{split}/{city}/{stem}_leftImg8bit.png", number)
        if instances is not None:
            _save(ids, root / f"gtFine/{split}/{city}/{stem}{instances}")
    return root


def camvid(root, pictures=("0016E5_00480.png",), split="train", index=None):
    """Pictures of sky, road and a car, with their class indices."""
    if index is None:
        index = np.zeros(SIZE, dtype=np.uint8)
        index[16:] = 3
        index[18:28, 8:24] = 8
    for number, picture in enumerate(pictures):
        _photo(root / split / picture, number)
        _save(index, root / f"{split}annot" / f"{picture.rsplit('.', 1)[0]}.png")
    return root


def refused(name, source, out, *parts, **options):
    """The importer refuses, says all that, and leaves nothing behind."""
    importer = importer_of(name, options.get("taxonomy"), options.get("derive", False))
    with pytest.raises((DatasetError, ConfigError)) as caught:
        importer(source, out, None)
    for part in parts:
        assert part in str(caught.value), f"{part!r} is not in:\n{caught.value}"
    assert not out.exists() and not list(out.parent.glob(f".{out.name}-*"))


def captions(out, split="train"):
    with (out / f"prompts_{split}.csv").open(newline="") as file:
        return dict(list(csv.reader(file))[1:])


def prompts(out, split="train"):
    return json.loads((out / f"instance_prompts_{split}.json").read_text())
