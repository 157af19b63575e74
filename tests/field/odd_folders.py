"""Folders of pictures and maps, and what readers make of them."""

from types import SimpleNamespace

import numpy as np
from PIL import Image

from mamoe.data.folder.split import index_split
from mamoe.vocabulary.panoptic import PanopticMap
from mamoe.vocabulary.taxonomy import Taxonomy

TAXONOMY = Taxonomy.load("cityscapes")
VOID = TAXONOMY.void_id
PIPE = SimpleNamespace(
    side_multiple=8,
    vae_scale_factor=8,
    settings=None,
    unet=SimpleNamespace(config={"in_channels": 4, "out_channels": 4}),
)  # of it a list of jobs needs no more
QUADRANTS = np.zeros((16, 32, 3), dtype=np.uint8)
QUADRANTS[:8, :16], QUADRANTS[:8, 16:], QUADRANTS[8:, :16], QUADRANTS[8:, 16:] = 20, 90, 160, 230
SHOWN = {  # what EXIF's orientations mean, after the specification: where row 0 and column 0 of the file are shown
    1: QUADRANTS,
    2: QUADRANTS[:, ::-1],
    3: QUADRANTS[::-1, ::-1],
    4: QUADRANTS[::-1],
    5: QUADRANTS.transpose(1, 0, 2),
    6: QUADRANTS.transpose(1, 0, 2)[:, ::-1],
    7: QUADRANTS.transpose(1, 0, 2)[::-1, ::-1],
    8: QUADRANTS.transpose(1, 0, 2)[::-1],
}


def oriented(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


def panoptic(height=16, width=32) -> PanopticMap:
    return PanopticMap(
        segment_id=np.ones((height, width), dtype=np.int32), class_id=np.zeros((height, width), np.uint8)
    )


def make_set(root, names, maps=None, split="train"):
    """Pictures of these names, with maps of these (by default of the same with .png)."""
    for name in names:
        path = root / "images" / split / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(QUADRANTS).save(path)
    (root / "panoptic" / split).mkdir(parents=True, exist_ok=True)
    for name in maps if maps is not None else [f"{name.rsplit('.', 1)[0]}.png" for name in names]:
        path = root / "panoptic" / split / name
        path.parent.mkdir(parents=True, exist_ok=True)
        panoptic().write(path)
    return root


def indexed(root, **changes):
    given = {"images": root / "images", "panoptic_maps": root / "panoptic", "split": "train"}
    return index_split(**{**given, "prompts": None, "instance_prompts": None, **changes})


def csv_of(path, *rows):
    path.write_text("img_name,prompt\n" + "".join(f"{row}\n" for row in rows), encoding="utf-8")
    return path
