"""Tiny drawn trees in the layouts of other data sets."""

import json

import numpy as np
from PIL import Image

SIZE = (32, 64)


def save(array, path, **how):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path, **how)
    return path


def photo(path, seed=0, size=SIZE):
    return save(np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8), path)


def ade20k(root):
    """Sky, a wall, two cars of which one has no instance, a person that overlaps the wall."""
    semantic = np.full(SIZE, 3, dtype=np.uint8)
    semantic[16:] = 1
    semantic[18:24, 4:12] = semantic[18:24, 30:40] = 21
    semantic[30:] = 0
    instances = np.zeros((*SIZE, 3), dtype=np.uint8)
    instances[18:24, 4:12] = (9, 7, 0)  # ninth of the things: car
    instances[14:28, 50:54] = (4, 8, 0)  # person
    for folder, number in (("training", 1), ("training", 2), ("validation", 1)):
        stem = f"ADE_{folder[:5]}_{number:08}"
        photo(root / f"images/{folder}/{stem}.jpg", number)
        save(semantic, root / f"annotations/{folder}/{stem}.png")
        save(instances, root / f"annotations_instance/{folder}/{stem}.png")
    return root


def kitti360(root, lists=True):
    """Road, a building with a number, a garage, a car with a number, one without, unlabelled rest."""
    ids = np.zeros(SIZE, dtype=np.uint16)
    ids[16:30] = 7000
    ids[:16, :32] = 11001
    ids[:16, 32:48] = 34002
    ids[18:24, 4:12], ids[18:24, 20:30] = 26003, 26000
    listed = {"train": [], "val": []}
    for split, drive, frames in (("train", "0000", (250, 251)), ("val", "0002", (250,))):
        name = f"2013_05_28_drive_{drive}_sync"
        for frame in frames:
            picture = f"data_2d_raw/{name}/image_00/data_rect/{frame:010}.png"
            semantic = f"data_2d_semantics/train/{name}/image_00/semantic/{frame:010}.png"
            photo(root / picture, frame)
            save(ids, root / semantic.replace("/semantic/", "/instance/"))
            listed[split].append(f"{picture} {semantic}\n")
    for split, lines in listed.items() if lists else ():
        path = root / f"data_2d_semantics/train/2013_05_28_drive_{split}_frames.txt"
        path.write_text("".join(lines))
    return root


def bdd100k(root):
    """Road in two polygons, a car, a crowd of persons, an ignored bus, unlabelled rest."""
    rgba = np.zeros((*SIZE, 4), dtype=np.uint8)
    rgba[16:30, :32], rgba[16:30, 32:] = (7, 0, 0, 1), (7, 0, 0, 2)
    rgba[18:24, 4:12] = (35, 0, 1, 4)  # instance 260
    rgba[18:24, 20:30] = (31, 2, 0, 5)
    rgba[18:24, 40:50] = (34, 1, 0, 6)
    for split, name in (("train", "0a"), ("train", "0b"), ("val", "0c")):
        photo(root / f"images/10k/{split}/{name}.jpg")
        save(rgba, root / f"labels/pan_seg/bitmasks/{split}/{name}.png")
    photo(root / "images/10k/test/0d.jpg")
    return root


def idd(root):
    """Sky, road, two cars of which one hides a part of the other, a group of riders, a deleted bus."""
    box = lambda t, left, b, r: [[left, t], [r, t], [r, b], [left, b]]  # noqa: E731
    objects = [
        {"label": "sky", "polygon": box(0, 0, 15, 63)},
        {"label": "road", "polygon": box(16, 0, 29, 63)},
        {"label": "car", "polygon": box(18, 4, 23, 15)},
        {"label": "car", "polygon": box(18, 10, 23, 19)},
        {"label": "ridergroup", "polygon": box(18, 30, 23, 39)},
        {"label": "bus", "polygon": box(18, 50, 23, 59), "deleted": 1},
        {"label": "animal", "polygon": box(25, 50, 27, 55)},
    ]
    plain = {"imgHeight": SIZE[0], "imgWidth": SIZE[1], "objects": objects}
    for split, drive, frame, suffix in (("train", "0", "frame0029", "png"), ("val", "7", "frame0800", "jpg")):
        photo(root / f"leftImg8bit/{split}/{drive}/{frame}_leftImg8bit.{suffix}")
        path = root / f"gtFine/{split}/{drive}/{frame}_gtFine_polygons.json"
        path.parent.mkdir(parents=True)
        path.write_text(json.dumps(plain))
    return root


def mapillary(root, version="v2.0/panoptic/panoptic_2020.json"):
    """Sky, a bird, a crowd of persons, a segment called unlabeled, and pixels of no segment."""
    ids = np.zeros(SIZE, dtype=np.int32)
    ids[:16], ids[20:24, 4:12], ids[20:24, 20:30], ids[28:30] = 8097, 300, 70000, 5
    categories = [
        {"id": 1, "name": "animal--bird", "supercategory": "animal", "isthing": 1, "color": [165, 42, 42]},
        {"id": 2, "name": "nature--sky", "supercategory": "nature", "isthing": 0, "color": [70, 130, 180]},
        {"id": 3, "name": "human--person", "supercategory": "human", "isthing": 1, "color": [220, 20, 60]},
        {"id": 4, "name": "void--unlabeled", "supercategory": "void", "isthing": 0, "color": [0, 0, 0]},
    ]
    segments = [
        {"id": 8097, "category_id": 2, "iscrowd": 0},
        {"id": 300, "category_id": 1, "iscrowd": 0},
        {"id": 70000, "category_id": 3, "iscrowd": 1},
        {"id": 5, "category_id": 4, "iscrowd": 0},
    ]
    for folder in ("training", "validation"):
        photo(root / folder / "images/_aBc-1.jpg")
        table = root / folder / version
        save(np.stack([ids % 256, ids // 256 % 256, ids // 65536], -1).astype(np.uint8), table.parent / "_aBc-1.png")
        image = {"id": "_aBc-1", "file_name": "_aBc-1.jpg", "height": SIZE[0], "width": SIZE[1]}
        annotation = {"image_id": "_aBc-1", "file_name": "_aBc-1.png", "segments_info": segments}
        table.write_text(json.dumps({"images": [image], "annotations": [annotation], "categories": categories}))
    return root
