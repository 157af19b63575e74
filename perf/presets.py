"""Proves the presets by memory: trains with each of them in no more of a GPU than its name says.

    python perf/presets.py [--quick] [--only 12 16 24 48 80] [--networks sd21 sdxl] [--side 512] [--steps 12]

Every preset and network is a process of its own, which may take as much of the GPU as a card of that size has left
beside CUDA's own half gigabyte. It makes a network of the real shape with random weights, then what `mamoe train
experiment=mamoe trainer=gpu_…gb cache.latents=true` makes of it, and does ``steps`` optimizer steps of its loop on
layouts of 20 regions. A line says what was held at most, and the pace from the fourth step on; the last line is one
JSON object. The exit code is 1 where one did not fit. `--quick` runs the same on a CPU with small networks, where
nothing is held to a size: a test of this script.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from gpu_measuring import SMALL
from step import GLOBAL_TOKENS, REGION_TOKENS, SD21, drawn_layouts
from torch import Tensor

from gpu import Enough, Numbers, StepClock, encoded_batch
from mamoe.assemble.data import layout_settings
from mamoe.assemble.loss import loss_of
from mamoe.assemble.model import objective_scheduler, training_module
from mamoe.bases.pretrained import BaseModel, load_base
from mamoe.conditioning.text import EncodedPrompt
from mamoe.config.compose import compose
from mamoe.config.train import Train
from mamoe.machine.memory import GPU_PRESETS
from mamoe.runs.recipe import Recipe, Terms
from mamoe.training.loop.fit import Keeping, Watching, fit
from mamoe.training.optim import check_installed
from mamoe.training.order.loaders import LayoutDataModule

GIB = 2**30
CUDA_ITSELF = 0.5  # GiB of a card that no tensor can have
WARM = 3  # steps before the pace is taken
SDXL = {
    "sample_size": 128,
    "block_out_channels": (320, 640, 1280),
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "transformer_layers_per_block": (1, 2, 10),
    "attention_head_dim": (5, 10, 20),
    "cross_attention_dim": 2048,
    "use_linear_projection": True,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": 2816,
}
SMALL_XL = {
    **SMALL,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 8,
    "projection_class_embeddings_input_dim": 56,
}
NETWORKS = {"sd21": (SD21, SMALL), "sdxl": (SDXL, SMALL_XL)}
# What is said beside a preset: SDXL's experts are copies of 1,230 M weights each, which only low rank leaves room for.
WORDS = {
    "sd21": ["model=sd21"],
    "sdxl": ["model=sdxl", "objective.prediction=null", "objective.zero_snr=null", "method=lora_experts"],
}


class Embeddings:
    """In the text encoders' place: prompts of as many random numbers as theirs have."""

    words_end = None  # they have no places

    def __init__(self, unet: dict[str, Any]) -> None:
        self.width = unet["cross_attention_dim"]
        sizes = 6 * unet.get("addition_time_embed_dim", 0)
        self.pooled = unet["projection_class_embeddings_input_dim"] - sizes if sizes else None

    def encode(self, prompts: list[str], padded: bool) -> list[Tensor]:
        return [torch.randn(REGION_TOKENS, self.width) for _ in prompts]

    def encode_whole(self, prompts: list[str]) -> list[EncodedPrompt]:
        return [self._whole() for _ in prompts]

    def num_tokens(self, prompt: str) -> int:
        return GLOBAL_TOKENS

    def without_padding(self, prompt: str, tokens: Tensor) -> Tensor:
        return tokens

    def _whole(self) -> EncodedPrompt:
        pooled = None if self.pooled is None else torch.randn(self.pooled)
        return EncodedPrompt(tokens=torch.randn(GLOBAL_TOKENS, self.width), pooled=pooled)


def base_of(shape: dict[str, Any], device: torch.device) -> BaseModel:
    """A base model of random weights; what a training does not hold in its steps is the tiny model's."""
    tiny = load_base("package:tiny")
    torch.manual_seed(0)
    with device:
        unet = UNet2DConditionModel(**shape)
    return BaseModel(source=tiny.source, unet=unet, vae=AutoencoderKL(), scheduler=tiny.scheduler, text=tiny.text)


def trained(preset: int, network: str, *, side: int, steps: int, quick: bool) -> dict[str, Any]:
    """A training with the preset: what it held and its pace, or what it lacks."""
    device = torch.device("cpu" if quick else "cuda")
    words = [
        f"trainer=gpu_{preset}gb",
        "experiment=mamoe",
        *WORDS[network],
        "cache.latents=true",
        "data.crop=center",
        "data.root=.",
    ]
    if preset <= 24:
        words.append("optimizer=adamw_8bit")
    if quick:
        words += ["trainer.accelerator=cpu", "trainer.precision=32-true", "trainer.gpu_gib=null", "optimizer=adam"]
    config = Train.model_validate(compose(words))
    check_installed(str(config.optimizer.get("_target_")))
    if not quick:
        whole = torch.cuda.get_device_properties().total_memory / GIB
        torch.cuda.set_per_process_memory_fraction(min(1.0, (preset - CUDA_ITSELF) / whole))
    settings = layout_settings(config)
    shape = NETWORKS[network][quick]
    base = base_of(shape, device)
    scheduler = objective_scheduler(config, base.scheduler)
    module = training_module(config, base, scheduler, settings, loss_of(config, base), steps, Embeddings(shape))
    del base
    cells, batch = side // 8, config.data.batch_size
    shares = torch.tensor([0.5**k for k in range(1, settings.num_experts + 1)])
    regions = drawn_layouts(batch, (cells, cells), torch.Generator().manual_seed(0), shares)
    data = LayoutDataModule(
        train=Numbers(),  # type: ignore[arg-type]
        collate=functools.partial(encoded_batch, regions=regions, cells=cells),
        batch_size=batch,
    )
    clock = StepClock(device)
    own = config.trainer
    with tempfile.TemporaryDirectory() as folder, contextlib.suppress(Enough):
        fit(
            module,
            data,
            Path(folder),
            max_steps=steps + 1,
            recipe=Recipe(base=load_base("package:tiny").source, scheduler={}, terms=Terms(layout=settings)),
            keeping=Keeping(every_n_steps=10 * steps),
            watching=Watching(callbacks=[clock]),
            trainer={
                "accelerator": own.accelerator,
                "devices": 1,
                "precision": own.precision,
                "gradient_clip_val": own.gradient_clip_val,
                "accumulate_grad_batches": own.accumulate_grad_batches,
            },
        )
    pace = clock.pace(WARM, steps)
    return {
        "images_per_s": 1000 * batch * own.accumulate_grad_batches / pace,
        "allocated_gib": None if quick else torch.cuda.max_memory_allocated() / GIB,
        "reserved_gib": None if quick else torch.cuda.max_memory_reserved() / GIB,
        "method": config.method.name,
        "batch": f"{batch} x {own.accumulate_grad_batches}",
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="small networks on the CPU: a test of the script")
    parser.add_argument("--only", nargs="+", type=int, choices=GPU_PRESETS, default=list(GPU_PRESETS))
    parser.add_argument("--networks", nargs="+", choices=list(NETWORKS), default=list(NETWORKS))
    parser.add_argument("--side", type=int, default=512, help="pixels along a side")
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--one", action="store_true", help="in this process: one preset, one network")
    options = parser.parse_args()
    if not options.quick and not torch.cuda.is_available():
        parser.error("there is no GPU here; --quick runs without one")
    sizes = {"side": 32 if options.quick else options.side, "steps": options.steps, "quick": options.quick}
    if options.one:
        print(json.dumps(trained(options.only[0], options.networks[0], **sizes)))
        return 0
    found: dict[str, Any] = {}
    for network in options.networks:
        for preset in options.only:
            command = [*sys.argv, "--one", "--only", str(preset), "--networks", network]
            done = subprocess.run([sys.executable, *command], capture_output=True, text=True, check=False)
            last = (done.stdout if done.returncode == 0 else done.stderr).strip().splitlines()[-1:]
            found[f"{network}_{preset}"] = json.loads(last[0]) if done.returncode == 0 else {"problem": " ".join(last)}
            print(f"{network} in {preset} GB:", json.dumps(found[f"{network}_{preset}"]), flush=True)
    print(json.dumps(found))
    return int(any("problem" in one for one in found.values()))


if __name__ == "__main__":
    sys.exit(main())
