"""One instance of a picture drawn anew: does it show its new colour, and does all else stay?

    mamoe demo --out demo
    python perf/edits.py demo [--instances 40]

Takes the pictures the demo drew of its test layouts and gives, one at a time, the instances that its score counts the
colour of its swapped prompts. The yardstick beside the colours is the demo's own rate where a whole picture is drawn
with swapped prompts; that beside the pixels is what the autoencoder alone changes.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import numpy as np
import torch

from mamoe import LayoutPipeline, PanopticMap
from mamoe.data.folder.prompts import read_instance_prompts
from mamoe.data.reading.pictures import read_picture
from mamoe.evaluation.layout.attributes import MIN_AREA, colour_hits, fit_vocabulary, named_colours
from mamoe.models.autoencoder import decoded, posterior_of
from mamoe.sampling.editing import BORDER, weights_of
from mamoe.scenes import COLOURS
from mamoe.vocabulary.selection import spread

STEPS, SCALE, BATCH = 12, 3.0, 8  # the demo's


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("demo", type=Path)
    parser.add_argument("--instances", type=int, default=None, help="at most so many, spread evenly")
    asked = parser.parse_args()
    data, drawn = asked.demo / "data", asked.demo / "drawn"
    vocabulary = fit_vocabulary(*real(data))
    pipe = LayoutPipeline.from_pretrained(asked.demo / "runs/demo/latest")
    pipe.set_progress_bar_config(disable=True)

    before, after = (
        read_instance_prompts(path)
        for path in (data / "instance_prompts_test.json", drawn / "instance_prompts_swapped.json")
    )
    edits = []
    for key, prompts in after.items():
        panoptic = PanopticMap.read(data / "panoptic/test" / f"{Path(key).stem}.png")
        for segment in named_colours(prompts, tuple(COLOURS)):
            if (panoptic.segment_id == segment).sum() >= MIN_AREA:
                edits.append((key, panoptic, segment, prompts[segment]))
    edits = spread(edits, asked.instances)

    images, floors, outside, began = [], [], [], time.perf_counter()
    for start in range(0, len(edits), BATCH):
        batch = edits[start : start + BATCH]
        sources = [read_picture(drawn / "mamoe" / f"{Path(key).stem}.png") for key, *_ in batch]
        pictures = pipe(
            panoptic=[panoptic for _, panoptic, _, _ in batch],
            instance_prompts=[{**before[key], segment: text} for key, _, segment, text in batch],
            image=sources,
            only_instances=[[segment] for _, _, segment, _ in batch],
            generator=[torch.Generator().manual_seed(start + i) for i in range(len(batch))],
            num_inference_steps=STEPS,
            guidance_scale=SCALE,
            return_dict=False,
        )[0]
        for picture, source, (_, panoptic, segment, _) in zip(pictures, sources, batch, strict=True):
            images.append(np.asarray(picture))
            within = weights_of(torch.from_numpy(panoptic.segment_id == segment)[None], BORDER)[0, 0].numpy() > 0
            outside.append(np.abs(images[-1].astype(int) - source)[~within].max())
            floors.append(np.abs(rebuilt(pipe, source).astype(int) - source)[~within].max())
    seconds = (time.perf_counter() - began) / len(edits)
    asked_for = [named_colours({segment: text}, tuple(COLOURS)) for _, _, segment, text in edits]
    rate = colour_hits(images, [panoptic for _, panoptic, _, _ in edits], asked_for, vocabulary)
    whole = json.loads((asked.demo / "scores.json").read_text())["colour_swapped"]
    print(f"{rate.n} instances, {seconds:.2f} s each: {rate.hits / rate.n:.3f} show their new colour")
    print(f"the demo, all of a picture drawn with swapped prompts: {whole:.3f}")
    print(f"largest change outside the border: {max(outside)} of 255; by the autoencoder alone: {max(floors)}")


def real(data: Path):
    """Training pictures, their maps and the colour words of their instances."""
    prompts = read_instance_prompts(data / "instance_prompts_train.json")
    files = sorted((data / "images/train").iterdir())
    maps = [PanopticMap.read(data / "panoptic/train" / f"{path.stem}.png") for path in files]
    colours = [named_colours(prompts.get(path.name, {}), tuple(COLOURS)) for path in files]
    return [read_picture(path) for path in files], maps, colours


@torch.no_grad()
def rebuilt(pipe: LayoutPipeline, picture: np.ndarray) -> np.ndarray:
    """What the autoencoder makes of a picture."""
    pixels = torch.from_numpy(picture).permute(2, 0, 1)[None].float() / 127.5 - 1
    again = decoded(pipe.vae, posterior_of(pipe.vae, pixels).mean)[0]
    return ((again / 2 + 0.5).clamp(0, 1) * 255).round().byte().permute(1, 2, 0).numpy()


if __name__ == "__main__":
    main()
