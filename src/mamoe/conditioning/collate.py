"""Samples become a batch: pictures are stacked, maps become layout tables."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from mamoe.conditioning.regions import build_layout
from mamoe.machine.arrays import tensor_of
from mamoe.vocabulary.batch import Batch, RegionBatch, RegionLayout, framing_rows
from mamoe.vocabulary.framing import Framing
from mamoe.vocabulary.layout import LayoutSettings
from mamoe.vocabulary.sample import Sample


def collate_layouts(layouts: Sequence[RegionLayout], num_experts: int) -> RegionBatch:
    """The tables of several pictures, one after another.

    Raises:
        ValueError: there is none, or they differ in size, cell size or number of everywhere-regions.
    """
    if not layouts:
        raise ValueError("A batch needs at least one layout, got none.")
    kinds = {(layout.grid, layout.cell_pixels, layout.everywhere) for layout in layouts}
    if len(kinds) > 1:
        raise ValueError(
            "The layouts of a batch must agree in (grid, pixels per cell, everywhere-regions), "
            f"got {sorted(kinds)}. Bring all maps to one size."
        )
    ((grid, cell_pixels, everywhere),) = kinds
    rows = torch.tensor([len(layout.cell) for layout in layouts])
    return RegionBatch(
        prompts=tuple(layout.prompts for layout in layouts),
        everywhere=everywhere,
        num_experts=num_experts,
        grid=grid,
        cell_pixels=cell_pixels,
        image=torch.arange(len(layouts), dtype=torch.int32).repeat_interleave(rows),
        cell=torch.cat([layout.cell for layout in layouts]),
        region=torch.cat([layout.region for layout in layouts]),
        expert=torch.cat([layout.expert for layout in layouts]),
        count=torch.cat([layout.count for layout in layouts]),
    )


@dataclass(frozen=True, slots=True)
class Collator:
    """The ``collate_fn`` of a data loader; picklable, so that workers can be spawned."""

    settings: LayoutSettings
    factor: int = 8  # pixels per side of a latent cell
    class_weights: tuple[float, ...] | None = None  # by class id, 256 of them: how much a pixel counts in the loss

    def __call__(self, samples: Sequence[Sample]) -> Batch:
        """One batch of the samples, in their order.

        Raises:
            ValueError: a map's size is not divisible by ``factor``, or the samples differ in size.
        """
        layouts = [build_layout(s.panoptic, s.prompts, self.settings, self.factor) for s in samples]
        framings = [s.framing or Framing.whole(s.panoptic.size) for s in samples]
        regions = collate_layouts(layouts, self.settings.num_experts)
        return Batch(
            keys=tuple(sample.key for sample in samples),
            index=torch.tensor([sample.index for sample in samples]),
            epoch=torch.tensor([sample.epoch for sample in samples]),
            regions=replace(
                regions,
                framing=framing_rows(framings),
                condition=_stacked([sample.condition for sample in samples], "have a condition picture or none"),
            ),
            image=_stacked([sample.image for sample in samples], "have pixels or be encoded"),
            moments=_stacked([sample.moments for sample in samples], "have pixels or be encoded"),
            cell_weight=None if self.class_weights is None else self._cell_weights(samples, self.class_weights),
        )

    def _cell_weights(self, samples: Sequence[Sample], weights: tuple[float, ...]) -> Float[Tensor, "B h w"]:
        table = torch.tensor(weights)
        pixels = torch.stack([table[tensor_of(sample.panoptic.class_id).long()] for sample in samples])
        return F.avg_pool2d(pixels[:, None], self.factor)[:, 0]


def _stacked(tensors: Sequence[Tensor | None], alike: str) -> Tensor | None:
    given = [tensor for tensor in tensors if tensor is not None]
    if given and len(given) < len(tensors):
        raise ValueError(f"The samples of a batch must all alike {alike}.")
    return torch.stack(given) if given else None
