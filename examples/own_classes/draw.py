"""A data set with classes of its own, drawn with NumPy: boats of three colours in front of a quay.

Shows every file a data set has: pictures, panoptic PNGs, captions, instance prompts, data.yaml, taxonomy.yaml.

    python examples/own_classes/draw.py harbour
    mamoe check harbour
    mamoe train data=folder data.root=harbour data.crop=null data.batch_size=4 trainer.max_steps=2
"""

import argparse
import csv
import json
import shutil
from pathlib import Path

import numpy as np
from PIL import Image

from mamoe import PanopticMap

HERE = Path(__file__).parent
HEIGHT, WIDTH = 64, 128
WATER, QUAY, BOAT = 0, 1, 2  # as in taxonomy.yaml
COLOURS = {"red": (200, 40, 40), "white": (235, 235, 230), "green": (40, 140, 70)}
COUNTS = {"train": 8, "val": 2, "test": 2}


def draw(rng: np.random.Generator) -> tuple[Image.Image, PanopticMap, dict[int, str]]:
    """A picture, its map, and the prompt of each of its segments."""
    quay = int(rng.integers(12, 24))
    class_id = np.full((HEIGHT, WIDTH), WATER, np.uint8)
    class_id[:quay] = QUAY
    segment_id = np.zeros((HEIGHT, WIDTH), np.int32)  # water and quay are no segments: the caption tells of them
    pixels = np.where(class_id[..., None] == QUAY, (120, 120, 120), (40, 80, 160))
    prompts = {}
    for segment in range(256, 256 + int(rng.integers(1, 4))):  # any ids from 1 to 65535, one for each boat
        name = str(rng.choice(list(COLOURS)))
        top, left = int(rng.integers(quay, HEIGHT - 16)), int(rng.integers(0, WIDTH - 32))
        hull = np.s_[top : top + 14, left : left + 30]
        segment_id[hull], class_id[hull], pixels[hull] = segment, BOAT, COLOURS[name]
        prompts[segment] = f"a {name} boat"
    in_sight = set(np.unique(segment_id))  # a boat may hide another
    light = rng.normal(0, 6, pixels.shape)
    picture = Image.fromarray((pixels + light).clip(0, 255).astype(np.uint8))
    panoptic = PanopticMap(segment_id=segment_id, class_id=class_id)
    return picture, panoptic, {segment: prompt for segment, prompt in prompts.items() if segment in in_sight}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="a new folder")
    folder = parser.parse_args().folder
    if folder.exists():
        parser.error(f"{folder} is there already, and nothing is overwritten: name a new folder, or remove that one.")

    folder.mkdir(parents=True)
    for name in ("taxonomy.yaml", "data.yaml"):
        shutil.copy(HERE / name, folder / name)
    rng = np.random.default_rng(0)
    for split, count in COUNTS.items():
        (folder / "images" / split).mkdir(parents=True)
        (folder / "panoptic" / split).mkdir(parents=True)
        captions, of_instances = [["img_name", "prompt"]], {}
        for index in range(count):
            name = f"harbour_{index:03}.png"
            picture, panoptic, prompts = draw(rng)
            picture.save(folder / "images" / split / name)
            panoptic.write(folder / "panoptic" / split / name)
            captions.append([name, "a harbour with " + ", ".join(prompts.values())])
            of_instances[name] = prompts
        with (folder / f"prompts_{split}.csv").open("w", encoding="utf-8", newline="") as file:
            csv.writer(file).writerows(captions)
        (folder / f"instance_prompts_{split}.json").write_text(json.dumps(of_instances, indent=1), encoding="utf-8")
    print(f"{folder}: {', '.join(f'{count} pictures of {split}' for split, count in COUNTS.items())}")


if __name__ == "__main__":
    main()
