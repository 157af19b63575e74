"""Export a run and use it in diffusers' own pipeline, without any class of this package.

Shows what leaves the package: a folder of safetensors in diffusers' layout. Stock diffusers reads the UNet as its dense
self, that is the expert of all that is no thing, without region attention: it follows the caption. What follows the
map, with all experts, is mamoe.LayoutPipeline.from_pretrained of the same folder.

    python examples/use_in_diffusers/draw.py runs/demo/latest exported --out picture.png
"""

import argparse
from pathlib import Path

import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from transformers import CLIPTextModel, CLIPTokenizer

from mamoe.commands.export import export_run


def stock_pipeline(folder: Path) -> StableDiffusionPipeline:
    """The exported parts, each by the stock class that reads it."""
    return StableDiffusionPipeline(
        unet=UNet2DConditionModel.from_pretrained(folder / "unet"),  # says that it leaves the other experts aside
        vae=AutoencoderKL.from_pretrained(folder / "vae"),
        text_encoder=CLIPTextModel.from_pretrained(folder / "text_encoder"),
        tokenizer=CLIPTokenizer.from_pretrained(folder / "tokenizer"),
        scheduler=DDIMScheduler.from_pretrained(folder / "scheduler", steps_offset=1),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="a run of one text encoder: Stable Diffusion 1 or 2, or the tiny base")
    parser.add_argument("folder", type=Path, help="a new folder for the export")
    parser.add_argument("--out", type=Path, default=Path("picture.png"))
    parser.add_argument("--steps", type=int, default=25)
    parser.add_argument("--size", type=int, nargs=2, default=(128, 256), metavar=("HEIGHT", "WIDTH"))
    words = parser.parse_args()

    export_run(words.run, words.folder, half=False)  # as `mamoe export RUN FOLDER --weights fp32` does
    pipe = stock_pipeline(words.folder)
    pipe.set_progress_bar_config(disable=True)
    height, width = words.size
    picture = pipe(
        "a street at noon with a car",
        height=height,
        width=width,
        num_inference_steps=words.steps,
        generator=torch.Generator().manual_seed(0),
    ).images[0]
    picture.save(words.out)
    print(f"{words.out}: {picture.width}x{picture.height}")


if __name__ == "__main__":
    main()
