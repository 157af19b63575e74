"""How long a sample takes from its panoptic PNG to the masks and routings of every UNet level.

    python perf/data.py [--quick]

One drawn map of 1024x2048 pixels with 8 stuff segments and 30 instances of 15 tokens each, latents of 64x128, Stable
Diffusion 2.1's four levels and heads, 10 experts; the text encoder is left out on both sides.

Ours: decode, resize to 512x1024, layout table (what a worker sends), then masks and routings of a batch of one.
Yardstick: from the map at full size, a float32 mask per prompt token and per expert is pooled to every level, repeated
for every head, all of it in the worker. A milder yardstick pools once per region and repeats that for its tokens.

Times are CPU seconds of one thread, which a busy machine blurs less than the clock; a ratio is one of medians. The
last line is one JSON object; ``agreement`` is the share of (cell, token) pairs on which both sides agree.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from mamoe.conditioning.collate import collate_layouts
from mamoe.conditioning.experts import expert_routings
from mamoe.conditioning.masks import attend_masks, region_coverage, region_masks
from mamoe.conditioning.regions import build_layout
from mamoe.data.geometry.joint import Geometry
from mamoe.vocabulary.batch import RegionLayout
from mamoe.vocabulary.conditioning import level_grids
from mamoe.vocabulary.layout import LayoutSettings, RegionResize
from mamoe.vocabulary.panoptic import PanopticMap, decode_panoptic, read_panoptic, read_panoptic_rgb, write_panoptic
from mamoe.vocabulary.prompts import RegionPrompts
from mamoe.vocabulary.taxonomy import Taxonomy

FILE_SIZE, SIZE, GRID = (1024, 2048), (512, 1024), (64, 128)
INSTANCES, TOKENS, GLOBAL_TOKENS = 30, 15, 77
HEADS = (5, 10, 20, 20)  # of the four levels of Stable Diffusion 2.1
MASKED = -10000.0


@dataclass(frozen=True, kw_only=True)
class Scenario:
    path: Path
    prompts: RegionPrompts
    settings: LayoutSettings


def draw_map() -> PanopticMap:
    """Bands of stuff with wavy borders and 30 ellipses of things on them, the large ones first."""
    height, width = FILE_SIZE
    rows, columns = np.mgrid[:height, :width]
    band = np.clip((rows + 40 * np.sin(columns / 90) + 9 * np.sin(columns / 11)) * 8 / height, 0, 7).astype(np.int32)
    stuff = np.array([10, 8, 2, 5, 3, 1, 9, 0], dtype=np.uint8)
    segment_id, class_id = band + 1, stuff[band]
    rng = np.random.default_rng(0)
    for number, radius in enumerate(np.geomspace(150, 12, INSTANCES)):
        centre = rng.uniform(0.3, 0.9) * height, rng.uniform(0.05, 0.95) * width
        inside = ((rows - centre[0]) / radius) ** 2 + ((columns - centre[1]) / (1.3 * radius)) ** 2 < 1
        segment_id[inside], class_id[inside] = 300 + number, (13, 11, 18, 14, 15)[number % 5]
    return PanopticMap(segment_id=segment_id, class_id=class_id)


def our_table(scenario: Scenario) -> RegionLayout:
    """What a data worker does with the map of a sample."""
    planes = torch.from_numpy(read_panoptic_rgb(scenario.path)).permute(2, 0, 1)
    planes = Geometry(size=SIZE).draw(*planes.shape[-2:]).planes(planes)
    panoptic = decode_panoptic(planes.permute(1, 2, 0).numpy())
    return build_layout(panoptic, scenario.prompts, scenario.settings)


def our_levels(layout: RegionLayout, settings: LayoutSettings) -> tuple[list[Tensor], tuple]:
    """What the device does with the table, once per step: attend bool[1 N S] and a routing per level."""
    batch = collate_layouts([layout], settings.num_experts)
    region = token_regions(len(layout.prompts))
    masks = region_masks(region_coverage(batch), settings.region_resize, settings.pool_threshold, len(HEADS))
    attend = list(attend_masks(masks, region, torch.ones_like(region, dtype=torch.bool)))
    return attend, expert_routings(batch, settings.expert_resize, len(HEADS))


def token_regions(num_regions: int) -> Tensor:
    """The region of every token, i64[1 S]: 77 of the global prompt, then 15 of each region."""
    counts = torch.tensor([GLOBAL_TOKENS] + [TOKENS] * (num_regions - 1))
    return torch.arange(num_regions).repeat_interleave(counts)[None]


def dense_masks(scenario: Scenario, per_token: bool) -> tuple[list[Tensor], list[Tensor]]:
    """The yardsticks: attention f32[heads N S] and experts f32[E h w] per level, from float masks at full size."""
    panoptic = read_panoptic(scenario.path)
    segment_id, class_id = torch.from_numpy(panoptic.segment_id), torch.from_numpy(panoptic.class_id)
    grids = level_grids(GRID, len(HEADS))
    columns = [[torch.zeros(GLOBAL_TOKENS, height * width)] for height, width in grids]
    pooled, repeated = (TOKENS, 1) if per_token else (1, TOKENS)
    for segments in segments_of_prompts(panoptic, scenario):
        mask = torch.stack([segment_id == segment for segment in segments]).any(0).float()[None, None]
        for _ in range(pooled):
            for level, grid in zip(columns, grids, strict=True):
                covered = F.adaptive_avg_pool2d(mask, grid).flatten() > scenario.settings.pool_threshold
                level.append(((1 - covered.float()) * MASKED).repeat(repeated, 1))
    attention = [torch.cat(level).T.repeat(heads, 1, 1) for level, heads in zip(columns, HEADS, strict=True)]

    grouping = scenario.settings.experts
    expert = torch.from_numpy(grouping.expert_of_class)[class_id.long()]
    masks = torch.stack([(expert == e).float() for e in range(grouping.num_experts)])
    return attention, [F.adaptive_avg_pool2d(masks, grid) for grid in grids]


def segments_of_prompts(panoptic: PanopticMap, scenario: Scenario) -> list[list[int]]:
    """Segments that share a prompt, in the order of the regions."""
    found: dict[str, list[int]] = {}
    for segment in np.unique(panoptic.segment_id).tolist():
        class_id = int(panoptic.class_of_segment[segment])
        prompt = scenario.prompts.by_segment.get(segment) or scenario.settings.taxonomy.prompt_of(class_id)
        found.setdefault(prompt, []).append(segment)
    return list(found.values())


def agreement(scenario: Scenario) -> float:
    """Share of (cell, token) pairs, all levels together, on which both sides agree."""
    attend, _ = our_levels(our_table(scenario), scenario.settings)
    dense, _ = dense_masks(scenario, per_token=False)
    same = [(ours[0] == (theirs[0] == 0)).flatten() for ours, theirs in zip(attend, dense, strict=True)]
    return torch.cat(same).float().mean().item()


def seconds(run: Callable[[], object]) -> float:
    start = time.process_time()
    run()
    return time.process_time() - start


def nbytes(tensors: list[Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer rounds, below a minute")
    arguments = parser.parse_args()
    torch.set_num_threads(1)

    with tempfile.TemporaryDirectory() as folder:
        settings = LayoutSettings(
            taxonomy=Taxonomy.load("cityscapes"), grouping="extreme", region_resize=RegionResize.AVG_POOL
        )
        prompts = RegionPrompts(by_segment={300 + i: f"instance {i}" for i in range(INSTANCES)})
        scenario = Scenario(path=Path(folder) / "map.png", prompts=prompts, settings=settings)
        write_panoptic(draw_map(), scenario.path)
        report(scenario, rounds=1 if arguments.quick else 3)


def report(scenario: Scenario, rounds: int) -> None:
    layout = our_table(scenario)
    our_levels(layout, scenario.settings)  # warm up
    runs = {
        "decode": lambda: read_panoptic_rgb(scenario.path),
        "table": lambda: our_table(scenario),
        "levels": lambda: our_levels(layout, scenario.settings),
    }
    yardsticks = {
        "per token": lambda: dense_masks(scenario, per_token=True),
        "per region": lambda: dense_masks(scenario, per_token=False),
    }
    times: dict[str, list[float]] = {name: [] for name in (*runs, *yardsticks)}
    for _ in range(rounds):
        for name, run in yardsticks.items():
            times[name].append(seconds(run))
            for ours, our_run in runs.items():
                times[ours] += [seconds(our_run) for _ in range(5)]
    median = {name: statistics.median(values) for name, values in times.items()}
    ours = median["table"] + median["levels"]
    our_bytes = nbytes([layout.cell, layout.region, layout.expert, layout.count])
    dense_bytes = nbytes([tensor for level in dense_masks(scenario, per_token=False) for tensor in level])

    print(f"1024x2048 map, {len(layout.prompts) - 1} regions, {token_regions(len(layout.prompts)).shape[1]} tokens")
    print(f"{'':<36}{'CPU time':>12}{'bytes per sample':>20}")
    for name in yardsticks:
        print(f"{f'float masks {name}':<36}{median[name] * 1e3:>9.1f} ms{dense_bytes / 2**20:>16.1f} MiB")
    print(f"{'ours, all':<36}{ours * 1e3:>9.1f} ms{our_bytes / 2**10:>16.1f} KiB")
    print(f"{'  worker: PNG to layout table':<36}{median['table'] * 1e3:>9.1f} ms")
    print(f"{'    of which decoding the PNG':<36}{median['decode'] * 1e3:>9.1f} ms")
    print(f"{'  device: masks and routings':<36}{median['levels'] * 1e3:>9.1f} ms")
    figures = {
        "data_path_ratio": round(ours / median["per token"], 5),
        "data_path_ratio_per_region": round(ours / median["per region"], 5),
        "seconds_per_sample": round(ours, 5),
        "yardstick_seconds_per_sample": round(median["per token"], 4),
        "levels_seconds": round(median["levels"], 5),
        "bytes_per_sample": our_bytes,
        "yardstick_bytes_per_sample": dense_bytes,
        "agreement": round(agreement(scenario), 5),
    }
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
