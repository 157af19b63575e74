"""Draw one picture from a layout made with NumPy.

Shows what a panoptic map is, a segment and a class for every pixel, and that segments may have prompts of their own.

    python examples/street/draw_a_layout.py MODEL --out picture.png

MODEL is a run (runs/demo/latest), one of its checkpoints or an exported folder. Without one, the tiny base model that
ships with the package draws: it knows no layouts, so it is given the caption alone.
"""

import argparse
from pathlib import Path

import numpy as np
import torch

from mamoe import LayoutPipeline, PanopticMap, Taxonomy

HEIGHT, WIDTH = 128, 256  # what the tiny model was trained at
CAR, PERSON = 256, 257  # segment ids: any numbers from 1 to 65535


def street(taxonomy: Taxonomy) -> PanopticMap:
    """A road below the sky, a car on it and a person beside it."""
    class_of = {c.name: c.id for c in taxonomy.classes}
    segment_id = np.zeros((HEIGHT, WIDTH), np.int32)  # 0: no segment, such pixels follow the caption alone
    class_id = np.full((HEIGHT, WIDTH), class_of["sky"], np.uint8)
    class_id[64:] = class_of["road"]
    for segment, name, box in (
        (CAR, "car", np.s_[60:96, 40:120]),
        (PERSON, "person", np.s_[48:100, 180:200]),
    ):
        segment_id[box], class_id[box] = segment, class_of[name]
    return PanopticMap(segment_id=segment_id, class_id=class_id)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", default="package:tiny")
    parser.add_argument("--out", type=Path, default=Path("picture.png"))
    parser.add_argument("--steps", type=int, default=25)
    words = parser.parse_args()

    pipe = LayoutPipeline.from_pretrained(words.model)
    pipe.set_progress_bar_config(disable=True)
    if pipe.settings is None:
        print(f"{words.model} knows no layouts: it draws by the caption alone.")
        layout = {"height": HEIGHT, "width": WIDTH}
    else:
        instance_prompts = {CAR: "a red car", PERSON: "a person in a green coat"}
        layout = {"panoptic": street(pipe.settings.taxonomy), "instance_prompts": instance_prompts}
    picture = pipe(
        prompt="a street at noon with a car and a person",
        **layout,
        num_inference_steps=words.steps,
        generator=torch.Generator().manual_seed(0),
    ).images[0]
    picture.save(words.out)
    print(f"{words.out}: {picture.width}x{picture.height}")


if __name__ == "__main__":
    main()
