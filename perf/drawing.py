"""What a picture costs with MaMoE, against diffusers' stock pipeline with the same networks, on a CPU.

    python perf/drawing.py [--quick] [--size 256] [--steps 20] [--rounds 3] [--threads N]

Stable Diffusion 2.1's shapes with random weights in float32: UNet, autoencoder and text encoder. The stock pipeline
draws by one prompt, ours by a map of 30 instances with prompts of their own, 5 experts and region attention, both
with guidance and from words to pixels. They take turns, one picture each; a ratio is the median of the rounds, the
first of which is left out. Memory is what the process grows by while it draws, in rounds of their own in which the
allocator gives back at once what is freed (glibc alone): as it comes it keeps several hundred MiB of free pieces, and
how many depends on who drew before. That of the weights stands beside it, for ours has the feed-forwards of five
experts. Both UNets share the stock weights, so that they fit beside each other: 8 GB. `--quick` takes small networks:
a test of this script, not a measurement. The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import ctypes
import functools
import json
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKL, StableDiffusionPipeline, UNet2DConditionModel
from gpu_measuring import FULL, Scale, quick_scale
from step import with_experts
from transformers import CLIPTextConfig, CLIPTextModel

from mamoe import LayoutPipeline, PanopticMap
from mamoe.bases.tiny import new_tokenizer
from mamoe.diffusion.sampler import ddim_scheduler
from mamoe.diffusion.schedules import make_scheduler
from mamoe.models.unet.model import MaMoEUNet2DConditionModel
from mamoe.vocabulary.layout import LayoutSettings
from mamoe.vocabulary.taxonomy import Taxonomy

INSTANCES, COLUMNS = 30, 6
MMAP_THRESHOLD = -3  # glibc's malloc.h
COLOURS = ("red", "blue", "green", "white", "black")


def both_pipelines(
    stock: UNet2DConditionModel, scale: Scale, grouping: str, text_layers: int, *, shared: bool
) -> tuple[StableDiffusionPipeline, LayoutPipeline]:
    """diffusers' pipeline and ours around the same networks; ``shared``: the stock weights lie in memory once."""
    settings = LayoutSettings(taxonomy=Taxonomy.load("cityscapes"), grouping=grouping)
    dtype = torch.bfloat16 if scale.autocast else torch.float32
    tokenizer = new_tokenizer([*(row.prompt for row in settings.taxonomy.classes), *COLOURS])
    width = scale.unet["cross_attention_dim"]
    text = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=width,
            intermediate_size=4 * width,
            num_hidden_layers=text_layers,
            num_attention_heads=width // 16,
            max_position_embeddings=tokenizer.model_max_length,
        )
    )
    vae = AutoencoderKL(
        block_out_channels=scale.vae_widths,
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        layers_per_block=2,
        norm_num_groups=min(32, scale.vae_widths[0] // 2),
    )
    scheduler = ddim_scheduler(make_scheduler("v", zero_snr=True).config)
    parts = {"vae": vae, "text_encoder": text, "tokenizer": tokenizer, "scheduler": scheduler}
    plain = StableDiffusionPipeline(
        **parts, unet=stock, safety_checker=None, feature_extractor=None, requires_safety_checker=False
    ).to(scale.device, dtype)
    convert = with_experts if shared else MaMoEUNet2DConditionModel.from_unet
    experts = convert(stock, num_experts=settings.num_experts)
    ours = LayoutPipeline(**parts, unet=experts.eval(), layout=settings.to_dict()).to(scale.device, dtype)
    for pipe in (plain, ours):
        pipe.set_progress_bar_config(disable=True)
    return plain, ours


def layout(side: int) -> tuple[PanopticMap, dict[int, str]]:
    """A road with 30 cars, persons and bicycles on it, and a prompt for each."""
    segment = np.zeros((side, side), np.int32)
    classes = np.zeros((side, side), np.uint8)
    cell, prompts = side // COLUMNS, {}
    for i in range(INSTANCES):
        y, x = i // COLUMNS * cell, i % COLUMNS * cell
        place = np.s_[y : y + cell * 3 // 4, x : x + cell * 3 // 4]
        segment[place], classes[place] = i + 1, (13, 11, 18)[i % 3]
        prompts[i + 1] = f"a {COLOURS[i % 5]} {('car', 'person', 'bicycle')[i % 3]}"
    return PanopticMap(segment_id=segment, class_id=classes), prompts


def give_back_freed(above: int) -> None:
    """Blocks of more bytes than ``above`` go back to the system as soon as they are free."""
    if not ctypes.CDLL(None).mallopt(MMAP_THRESHOLD, above):
        raise SystemExit(f"the allocator takes no threshold of {above} bytes; this script needs glibc's")


def growth_mib(work: Callable[[], object]) -> float:
    """By how much the process grows while it works."""
    ctypes.CDLL(None).malloc_trim(0)  # what the last one left goes back to the system
    Path("/proc/self/clear_refs").write_text("5")  # the highest so far is forgotten
    before = _status("VmRSS")
    work()
    return _status("VmHWM") - before


def _status(name: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(f"{name}:"))


def weights_mib(pipe: Any) -> float:
    """Of all networks."""
    networks = [part for part in pipe.components.values() if isinstance(part, torch.nn.Module)]
    return sum(w.numel() * w.element_size() for network in networks for w in network.parameters()) / 2**20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="small networks: a test of the script")
    parser.add_argument("--size", type=int, default=256, help="side of the pictures in pixels")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int)
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    give_back_freed(above=2**16)  # before the networks are made, whose making leaves free pieces
    scale = replace(FULL, device=torch.device("cpu"), autocast=False)
    if options.quick:
        scale = replace(quick_scale(), device=torch.device("cpu"))
    side = options.size // 4 if options.quick else options.size
    torch.manual_seed(0)
    stock = UNet2DConditionModel(**scale.unet).eval()
    plain, ours = both_pipelines(stock, scale, "extreme_things", 2 if options.quick else 23, shared=True)
    panoptic, prompts = layout(side)
    given = {"num_inference_steps": options.steps, "guidance_scale": 4.0}
    works: dict[str, Callable[[], object]] = {
        "ours": functools.partial(ours, "a street", panoptic, prompts, **given),
        "stock": functools.partial(plain, "a street", height=side, width=side, **given),
    }
    taken: dict[str, list[float]] = {name: [] for name in works}
    grown: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(2):
        for name, work in works.items():
            grown[name].append(growth_mib(work))
    give_back_freed(above=2**25)  # where glibc's own threshold ends up
    for _ in range(1 + options.rounds):
        for name, work in works.items():
            began = time.perf_counter()
            work()
            taken[name].append(time.perf_counter() - began)
    ratio = statistics.median(a / b for a, b in zip(taken["ours"][1:], taken["stock"][1:], strict=True))
    memory, weights = (
        {name: of[-1] for name, of in grown.items()},  # the first time some things are made for good
        {"ours": weights_mib(ours), "stock": weights_mib(plain)},
    )
    print(f"{'':>8}{'s a picture':>14}{'MiB drawing':>14}{'MiB weights':>14}")
    for name in ("stock", "ours"):
        print(f"{name:>8}{statistics.median(taken[name][1:]):14.2f}{memory[name]:14.0f}{weights[name]:14.0f}")
    result = {
        "quick": options.quick,
        "size": side,
        "steps": options.steps,
        "threads": torch.get_num_threads(),
        "seconds": {name: [round(one, 3) for one in of[1:]] for name, of in taken.items()},
        "time_ratio": round(ratio, 3),
        "memory_ratio": round(memory["ours"] / memory["stock"], 3),
        "weights_ratio": round(weights["ours"] / weights["stock"], 3),
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
