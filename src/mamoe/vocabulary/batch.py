"""What a data worker sends: pictures, and their layouts as tables of pixel counts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, TypeVar

import torch
from jaxtyping import Bool, Float, Int16, Int32, Int64, UInt8
from torch import Tensor

from mamoe.machine.transfers import sent
from mamoe.vocabulary.framing import Framing


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class RegionLayout:
    """The layout of one picture at latent size: a table of pixel counts.

    Region 0 is the global prompt. The first ``everywhere`` regions cover every cell whatever the table says; a table
    row with region 0 means "no region of its own". The counts of a cell sum to ``cell_pixels``.
    """

    prompts: tuple[str, ...]  # R
    everywhere: int  # 1, or 2 with a data-set prompt
    grid: tuple[int, int]  # (h, w) latent cells
    cell_pixels: int  # pixels per latent cell, e.g. 64
    cell: Int32[Tensor, "K"]  # in [0, h*w)
    region: Int16[Tensor, "K"]  # in [0, R)
    expert: Int16[Tensor, "K"]  # in [0, E)
    count: UInt8[Tensor, "K"]  # in [1, cell_pixels]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class RegionBatch:
    """The layouts of a batch: the rows of all tables with the picture they belong to."""

    prompts: tuple[tuple[str, ...], ...]  # B x R(b)
    everywhere: int
    num_experts: int
    grid: tuple[int, int]
    cell_pixels: int
    image: Int32[Tensor, "K"]  # in [0, B)
    cell: Int32[Tensor, "K"]
    region: Int16[Tensor, "K"]
    expert: Int16[Tensor, "K"]
    count: UInt8[Tensor, "K"]
    framing: Int32[Tensor, "B 6"] | None = None  # see framing_rows; None: every picture is all of its file
    condition: UInt8[Tensor, "B 3 H W"] | None = None  # condition pictures, RGB; black = none

    def __len__(self) -> int:
        return len(self.prompts)

    def drop(self, mask: Bool[Tensor, "B"]) -> RegionBatch:
        """The same batch with the pictures in ``mask`` unconditional: empty prompt, no region, rest expert.

        Their condition pictures become empty, which is black. ``mask`` is read on the host: one that lies there spares
        a wait for the device.
        """
        listing: Any = mask  # torch does not say of what the list is
        flags: list[bool] = listing.tolist()
        if not any(flags):
            return self
        prompts = tuple(("",) if flag else p for p, flag in zip(self.prompts, flags, strict=True))
        dropped = sent(mask, self.image.device)[self.image.long()]
        return replace(
            self,
            prompts=prompts,
            region=self.region.masked_fill(dropped, 0),
            expert=self.expert.masked_fill(dropped, 0),
            condition=_emptied(self.condition, mask),
        )

    def null_like(self) -> RegionBatch:
        """The unconditional batch: no prompt and no layout at all."""
        return self.drop(torch.ones(len(self), dtype=torch.bool))

    def to(self, device: torch.device | str) -> RegionBatch:
        return _map_tensors(self, lambda t: t.to(device, non_blocking=True))

    def pin_memory(self) -> RegionBatch:
        return _map_tensors(self, lambda t: t.pin_memory())


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Batch:
    """What a data worker sends."""

    keys: tuple[str, ...]  # B file names
    index: Int64[Tensor, "B"]
    epoch: Int64[Tensor, "B"]
    image: UInt8[Tensor, "B 3 H W"] | None
    regions: RegionBatch
    cell_weight: Float[Tensor, "B h w"] | None = None  # how much each latent cell counts in a masked loss
    moments: Float[Tensor, "B 2 C h w"] | None = None  # in place of ``image``, see :class:`Sample`

    def to(self, device: torch.device | str) -> Batch:
        """Everything but ``index`` and ``epoch``, which only the host reads."""
        moved = _map_tensors(self, lambda t: t.to(device, non_blocking=True))
        return replace(moved, index=self.index, epoch=self.epoch, regions=self.regions.to(device))

    def pin_memory(self) -> Batch:
        return replace(_map_tensors(self, lambda t: t.pin_memory()), regions=self.regions.pin_memory())


def framing_rows(framings: Sequence[Framing]) -> Int32[Tensor, "B 6"]:
    """One row per picture, in SDXL's order: original H W, crop top left, target H W; in pixels."""
    return torch.tensor([[*f.original, *f.crop, *f.target] for f in framings], dtype=torch.int32).view(-1, 6)


def _emptied(pictures: Tensor | None, mask: Bool[Tensor, "B"]) -> Tensor | None:
    return None if pictures is None else pictures.masked_fill(sent(mask, pictures.device)[:, None, None, None], 0)


_Tensors = TypeVar("_Tensors", RegionBatch, Batch)


def _map_tensors(value: _Tensors, function: Callable[[Tensor], Tensor]) -> _Tensors:
    held: dict[str, Any] = {f.name: getattr(value, f.name) for f in fields(value)}
    changed: dict[str, Any] = {name: function(part) for name, part in held.items() if isinstance(part, Tensor)}
    return replace(value, **changed)
