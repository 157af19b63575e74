"""What region-masked attention costs: in the data worker, on the way to the masks, and in the attention itself.

    python perf/attention.py [--quick] [--threads 1]

A 512x512 picture with 20 instances of 15 tokens each (377 text tokens with the global prompt).
 1. Bytes per sample that leave the data worker apart from picture and text, against one float mask per head and
    resolution made in the worker.
 2. Building the masks and expert routings of all levels, against one training step (forward and backward, fp32) of the
    Stable Diffusion 2.1 UNet on the same latents.
 3. Attention with one boolean mask for all heads, forward and backward, against a float mask per head: time, and bytes
    kept for the backward pass. The mask per head comes as zeros and ones and becomes a bias of -10000 in the layer;
    "ready" leaves that part out. The variants take turns.
Times are processor time.
The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import UNet2DConditionModel
from torch import Tensor

from mamoe.conditioning.collate import collate_layouts
from mamoe.conditioning.experts import expert_routings
from mamoe.conditioning.masks import attend_masks, region_coverage, region_masks
from mamoe.conditioning.regions import build_layout
from mamoe.vocabulary.batch import RegionBatch
from mamoe.vocabulary.conditioning import level_grids
from mamoe.vocabulary.layout import LayoutSettings, RegionPolicy
from mamoe.vocabulary.panoptic import PanopticMap
from mamoe.vocabulary.prompts import RegionPrompts
from mamoe.vocabulary.taxonomy import Taxonomy

INSTANCES, TOKENS, GLOBAL_TOKENS = 20, 15, 77
HEADS = (5, 10, 20, 20)  # of Stable Diffusion 2.1, finest level first
HEAD_CHANNELS = 64
MIB = 2**20


def draw_map(side: int) -> PanopticMap:
    """Four bands of stuff with 20 cars and persons on top, all of them visible."""
    generator = np.random.default_rng(0)
    segment = np.repeat(np.arange(1, 5, dtype=np.int32), side // 4)[:, None].repeat(side, axis=1)
    klass = (segment - 1).astype(np.uint8)
    for instance in range(INSTANCES):
        row, column = divmod(instance, 5)
        height, width = generator.integers(side // 10, side // 4, 2)
        y, x = row * side // 4 + side // 50, column * side // 5 + side // 50
        segment[y : y + height, x : x + width] = 5 + instance
        klass[y : y + height, x : x + width] = (11, 13)[instance % 2]
    return PanopticMap(segment_id=segment, class_id=klass)


def make_table(side: int, settings: LayoutSettings) -> RegionBatch:
    prompts = RegionPrompts(by_segment={5 + i: f"instance {i}" for i in range(INSTANCES)})
    return collate_layouts([build_layout(draw_map(side), prompts, settings)], settings.num_experts)


def worker_bytes(table: RegionBatch) -> int:
    return sum(getattr(table, name).nbytes for name in ("image", "cell", "region", "expert", "count"))


def float_mask_bytes(grid: tuple[int, int], tokens: int) -> int:
    """One f32 mask per head and level, as sent by a worker that prepares everything."""
    grids = level_grids(grid, len(HEADS))
    return sum(4 * heads * h * w * tokens for heads, (h, w) in zip(HEADS, grids, strict=True))


def token_regions(table: RegionBatch) -> tuple[Tensor, Tensor]:
    """(region, valid) of the tokens [1 S], S rounded up to a multiple of 8."""
    lengths = torch.tensor([GLOBAL_TOKENS] + [TOKENS] * (len(table.prompts[0]) - 1))
    region = torch.arange(len(lengths)).repeat_interleave(lengths)
    missing = -len(region) % 8
    valid = torch.arange(len(region) + missing) < len(region)
    return F.pad(region, (0, missing)).unsqueeze(0), valid.unsqueeze(0)


def build_levels(table: RegionBatch, settings: LayoutSettings, region: Tensor, valid: Tensor) -> list[Tensor]:
    masks = region_masks(region_coverage(table), settings.region_resize, settings.pool_threshold, len(HEADS))
    expert_routings(table, settings.expert_resize, len(HEADS))
    return list(attend_masks(masks, region, valid))


def make_unet() -> UNet2DConditionModel:
    """The architecture of Stable Diffusion 2.1 (866 M parameters) with random weights."""
    with torch.device("meta"):
        unet = UNet2DConditionModel(
            block_out_channels=(320, 640, 1280, 1280),
            attention_head_dim=HEADS,
            cross_attention_dim=1024,
            use_linear_projection=True,
        )
    unet.to_empty(device="cpu")
    for parameter in unet.parameters():
        torch.nn.init.uniform_(parameter, -0.02, 0.02)
    return unet


def step_seconds(unet: UNet2DConditionModel, grid: tuple[int, int], steps: int) -> float:
    latents, text, time_step = torch.randn(1, 4, *grid), torch.randn(1, GLOBAL_TOKENS, 1024), torch.tensor([500])

    def step() -> None:
        unet(latents, time_step, text).sample.square().mean().backward()

    return min(seconds(step) for _ in range(steps))


def seconds(run: Callable[[], object]) -> float:
    """Processor time, all threads together: what else the machine is doing does not count."""
    start = time.process_time()
    run()
    return time.process_time() - start


def compare_attention(attend: Tensor, heads: int, rounds: int) -> dict[str, float]:
    """``bool_ms``; speed-up over the mask per head, and over a ready bias; saved bytes as a share of the mask's."""
    _, cells, tokens = attend.shape
    query = torch.randn(1, heads, cells, HEAD_CHANNELS, requires_grad=True)
    key, value = (torch.randn(1, heads, tokens, HEAD_CHANNELS, requires_grad=True) for _ in range(2))
    grad = torch.randn(query.shape)
    shared = attend.unsqueeze(1)
    per_head = shared.float().repeat(1, heads, 1, 1)
    bias = (1 - per_head) * -10000.0
    masks: tuple[Callable[[], Tensor], ...] = (lambda: shared, lambda: (1 - per_head) * -10000.0, lambda: bias)

    def run(mask: Callable[[], Tensor]) -> Tensor:
        return F.scaled_dot_product_attention(query, key, value, attn_mask=mask())

    took = [[seconds(lambda m=mask: run(m).backward(grad)) for mask in masks] for _ in range(rounds + 1)][1:]
    return {
        "bool_ms": statistics.median(ours for ours, _, _ in took) * 1e3,
        "speedup": statistics.median(theirs / ours for ours, theirs, _ in took),
        "ready": statistics.median(ready / ours for ours, _, ready in took),
        "saved": saved_bytes(lambda: run(masks[0])) / saved_bytes(lambda: run(masks[1])),
    }


def saved_bytes(run: Callable[[], Tensor]) -> int:
    """Bytes autograd keeps for the backward pass, each storage counted once."""
    kept: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        run()
    return sum(kept.values())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="step on 32x32 latents, fewer rounds; under a minute")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    settings = LayoutSettings(
        taxonomy=Taxonomy.load("cityscapes"), grouping="extreme_things", policy=RegionPolicy.THINGS
    )

    # Bytes leaving the worker.
    table = make_table(512, settings)
    region, valid = token_regions(table)
    ours, theirs = worker_bytes(table) / MIB, float_mask_bytes(table.grid, int(valid.sum())) / MIB
    print(f"worker, MiB per sample: table {ours:.3f}, float masks per head {theirs:.1f}")

    # Attention, on the two finest levels of 512x512.
    result = {"worker_bytes_mib": ours, "float_masks_mib": theirs}
    attends = build_levels(table, settings, region, valid)
    print(f"{'cells':>6}{'heads':>6}{'tokens':>7}{'bool ms':>9}{'speed-up':>9}{'ready':>7}{'saved':>7}")
    for attend, heads in zip(attends[:2], HEADS[:2], strict=True):
        _, cells, tokens = attend.shape
        got = compare_attention(attend, heads, 5 if options.quick else 21)
        ratios = f"{got['speedup']:9.2f}{got['ready']:7.2f}{got['saved']:7.2f}"
        print(f"{cells:6d}{heads:6d}{tokens:7d}{got['bool_ms']:9.1f}{ratios}")
        result |= {f"attention_{name}_{cells}": got[name] for name in ("speedup", "ready", "saved")}

    # Masks and routings against a step, on the same latents.
    side = 256 if options.quick else 512
    small = make_table(side, settings)
    build = statistics.median(seconds(lambda: build_levels(small, settings, *token_regions(small))) for _ in range(9))
    step = step_seconds(make_unet(), small.grid, 1 if options.quick else 2)
    print(f"latents {small.grid}: all masks and routings {build * 1e3:.2f} ms, training step {step:.1f} s")
    result |= {"mask_build_ms": build * 1e3, "mask_build_share_of_step": build / step}
    result["attention_speedup"] = result["attention_speedup_4096"]
    print(json.dumps({key: round(value, 6) for key, value in result.items()}))


if __name__ == "__main__":
    main()
