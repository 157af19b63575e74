"""What is left of every segment where the model works: in latent cells. Said before anything is drawn."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from mamoe.conditioning.regions import build_layout, has_own_prompt
from mamoe.vocabulary.layout import LayoutSettings, RegionPolicy, RegionResize, Strength
from mamoe.vocabulary.panoptic import PanopticMap
from mamoe.vocabulary.prompts import RegionPrompts

HARDLY_SEEN = 0.5  # latent cells


@dataclass(frozen=True, kw_only=True, slots=True)
class SegmentSize:
    """How much of a picture a segment is."""

    segment: int
    class_id: int
    pixels: int
    cells: float  # its area in latent cells
    held: int  # latent cells that its prompt reaches as their own
    own_prompt: bool  # the model reads a prompt of its own there
    vanishes: bool  # the model hardly sees it, though it has a prompt


def sizes_of(panoptic: PanopticMap, settings: LayoutSettings, factor: int) -> list[SegmentSize]:
    """The sizes of all segments of a map, in order of their ids.

    A cell is held by the segments that the model's rule gives it to (see
    :class:`~mamoe.vocabulary.layout.RegionResize`): that at its centre pixel, or those with a share above
    ``pool_threshold``. A segment that holds none vanishes; under the rule ``area``, which then lets it share every cell
    that it touches, only if it is smaller than half a cell.

    Args:
        panoptic: map [H W]; where a side is not divisible by ``factor`` the last cells count as half empty.
        settings: of the model.
        factor: pixels per side of a latent cell.
    """
    classes = panoptic.classes
    # A prompt that no other segment has makes a region of every segment, whatever the policy.
    names = {segment: f"segment {segment}" for segment in classes}
    rule = replace(
        settings,
        policy=RegionPolicy.ALL,
        region_attention=True,
        strength=Strength.HARD,
        dataset_prompt=None,
        moe=False,
    )
    layout = build_layout(_padded(panoptic, factor), RegionPrompts(by_segment=names), rule, factor)
    enough = 0.0 if settings.region_resize is RegionResize.NEAREST else settings.pool_threshold * layout.cell_pixels
    region, count = layout.region.numpy(), layout.count.numpy()
    held = np.bincount(region[count > enough], minlength=len(layout.prompts))
    place = {name: number for number, name in enumerate(layout.prompts)}
    pixels = np.bincount(panoptic.segment_id.ravel(), minlength=max(classes, default=0) + 1)
    found = []
    for segment, class_id in classes.items():
        cells, holds = int(pixels[segment]) / layout.cell_pixels, int(held[place[names[segment]]])
        own_prompt = settings.region_attention and has_own_prompt(class_id, settings)
        shares = settings.region_resize is RegionResize.AREA and cells >= HARDLY_SEEN
        found.append(
            SegmentSize(
                segment=segment,
                class_id=class_id,
                pixels=int(pixels[segment]),
                cells=cells,
                held=holds,
                own_prompt=own_prompt,
                vanishes=own_prompt and not holds and not shares,
            )
        )
    return found


def _padded(panoptic: PanopticMap, factor: int) -> PanopticMap:
    more = [(0, -side % factor) for side in panoptic.size]
    return PanopticMap(segment_id=np.pad(panoptic.segment_id, more), class_id=np.pad(panoptic.class_id, more))
