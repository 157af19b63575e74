"""From a panoptic map and prompts to the layout table of one picture. Runs in the data workers, in NumPy."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Int32, Int64

from mamoe.machine.arrays import tensor_of
from mamoe.vocabulary.batch import RegionLayout
from mamoe.vocabulary.layout import LayoutSettings, RegionPolicy, RegionResize
from mamoe.vocabulary.panoptic import PanopticMap
from mamoe.vocabulary.prompts import RegionPrompts

MAX_FACTOR = 15  # a cell of 15x15 pixels is the largest whose pixel count fits u8


def build_layout(
    panoptic: PanopticMap, prompts: RegionPrompts, settings: LayoutSettings, factor: int = 8
) -> RegionLayout:
    """The layout table of one picture: pixel counts per (latent cell, region, expert).

    Region 0 is the global prompt, region 1 the data-set prompt where there is one; both are visible everywhere. Every
    segment the policy chooses adds its instance prompt, or else its class's; equal prompts share one region. Pixels
    without a segment, of void without an instance prompt, or outside the policy count towards region 0. Regions
    are numbered in the order of their smallest segment id.

    With ``RegionResize.NEAREST`` all pixels of a cell count towards the region of its centre pixel
    (row and column ``factor // 2``), while their experts stay as they are.

    Args:
        panoptic: map [H W], both sizes divisible by ``factor``.
        prompts: global and instance prompts; an instance prompt of a segment that is not in the map has no effect.
        factor: pixels per side of a latent cell, in [1, 15].

    Raises:
        ValueError: a size is not divisible by ``factor``, or ``factor`` is out of range.
        ConfigError: the map has a class the taxonomy does not know.
    """
    _check_sizes(panoptic.size, factor)
    names, everywhere, region_of_segment = _name_regions(panoptic, prompts, settings)
    region = np.take(region_of_segment, panoptic.segment_id)
    if settings.region_resize is RegionResize.NEAREST:
        region = _centre_of_cells(region, factor)
    experts = settings.experts if settings.moe else None
    expert = np.zeros_like(region) if experts is None else np.take(experts.expert_of_class, panoptic.class_id)
    num_experts = settings.num_experts
    cell, pair, count = _count_pairs(region * num_experts + expert, factor)
    return RegionLayout(
        prompts=names,
        everywhere=everywhere,
        grid=(panoptic.size[0] // factor, panoptic.size[1] // factor),
        cell_pixels=factor * factor,
        cell=tensor_of(cell.astype(np.int32)),
        region=tensor_of((pair // num_experts).astype(np.int16)),
        expert=tensor_of((pair % num_experts).astype(np.int16)),
        count=tensor_of(count.astype(np.uint8)),
    )


def layout_without_map(
    size: tuple[int, int], prompts: RegionPrompts, settings: LayoutSettings, factor: int = 8
) -> RegionLayout:
    """The layout table of a picture that is drawn by its prompt alone: no segment, and the rest expert everywhere.

    Args:
        size: (H, W) of the picture, divisible by ``factor``.
        prompts: only the global one counts; the settings decide whether it, or a data-set prompt, is read.
        factor: see :func:`build_layout`.

    Raises:
        ValueError: see :func:`build_layout`.
    """
    _check_sizes(size, factor)
    names, everywhere = _everywhere(prompts, settings)
    grid = (size[0] // factor, size[1] // factor)
    cells = grid[0] * grid[1]
    return RegionLayout(
        prompts=names,
        everywhere=everywhere,
        grid=grid,
        cell_pixels=factor * factor,
        cell=torch.arange(cells, dtype=torch.int32),
        region=torch.zeros(cells, dtype=torch.int16),
        expert=torch.zeros(cells, dtype=torch.int16),
        count=torch.full((cells,), factor * factor, dtype=torch.uint8),
    )


def _everywhere(prompts: RegionPrompts, settings: LayoutSettings) -> tuple[tuple[str, ...], int]:
    """The prompts that every cell sees, and how many they are."""
    global_prompt = prompts.global_prompt if settings.global_prompt else ""
    if not settings.region_attention:
        return (global_prompt,), 1
    dataset_prompt = (settings.dataset_prompt or "").strip()
    names = (global_prompt, dataset_prompt) if dataset_prompt else (global_prompt,)
    return names, len(names)


def _name_regions(
    panoptic: PanopticMap, prompts: RegionPrompts, settings: LayoutSettings
) -> tuple[tuple[str, ...], int, Int32[np.ndarray, "ids"]]:
    """(prompt of every region, how many of them are everywhere, region of every segment id up to the largest)."""
    class_of_segment = panoptic.class_of_segment
    region_of_segment = np.zeros(len(class_of_segment), dtype=np.int32)
    names, everywhere = _everywhere(prompts, settings)
    if not settings.region_attention:
        return names, everywhere, region_of_segment
    # A region may share the data-set prompt's tokens, but not the global prompt's: that one is encoded with padding.
    region_of_prompt = {prompt: region for region, prompt in enumerate(names) if region}
    for segment in np.flatnonzero(class_of_segment >= 0).tolist():
        class_id = int(class_of_segment[segment])
        if segment == 0 or not has_own_prompt(class_id, settings):
            continue
        prompt = prompts.by_segment.get(segment, "").strip() or settings.taxonomy.prompt_of(class_id)
        if prompt:
            region_of_segment[segment] = region_of_prompt.setdefault(prompt, len(region_of_prompt) + 1)
    return (names[0], *region_of_prompt), everywhere, region_of_segment


def has_own_prompt(class_id: int, settings: LayoutSettings) -> bool:
    """Whether the policy gives segments of a class a prompt of their own."""
    taxonomy = settings.taxonomy
    match settings.policy:
        case RegionPolicy.ALL:
            return True
        case RegionPolicy.THINGS:
            return taxonomy.is_thing(class_id)
        case RegionPolicy.BACKGROUND:
            return class_id != taxonomy.void_id and not taxonomy.is_thing(class_id)


def _centre_of_cells(values: Int32[np.ndarray, "H W"], factor: int) -> Int32[np.ndarray, "H W"]:
    centre = values[factor // 2 :: factor, factor // 2 :: factor]
    return centre.repeat(factor, axis=0).repeat(factor, axis=1)


def _count_pairs(
    pair: Int32[np.ndarray, "H W"], factor: int
) -> tuple[Int64[np.ndarray, "K"], Int64[np.ndarray, "K"], Int64[np.ndarray, "K"]]:
    """(cell, pair, pixels) of every pair present in every cell, ordered by cell, then by pair."""
    height, width = pair.shape[0] // factor, pair.shape[1] // factor
    present = np.flatnonzero(np.bincount(pair.ravel()))
    place = np.zeros(int(present[-1]) + 1, dtype=np.int64)  # pair -> its rank among those present
    place[present] = np.arange(len(present))
    first_bin = np.arange(height * width, dtype=np.int64).reshape(height, 1, width, 1) * len(present)
    bins = np.take(place, pair).reshape(height, factor, width, factor)
    bins += first_bin
    counts = np.bincount(bins.ravel(), minlength=height * width * len(present))
    filled = np.flatnonzero(counts > 0)  # of bools: several times faster than of whole numbers
    return filled // len(present), present[filled % len(present)], counts[filled]


def _check_sizes(size: tuple[int, int], factor: int) -> None:
    if not 1 <= factor <= MAX_FACTOR:
        raise ValueError(f"A latent cell must be 1 to {MAX_FACTOR} pixels wide, got factor {factor}.")
    if size[0] % factor or size[1] % factor:
        raise ValueError(
            f"The panoptic map's height and width must be divisible by {factor}, got {size}. Crop or resize it first."
        )
