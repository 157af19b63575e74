"""Boundary objects made of tensors: what flows from the data workers to the UNet.

A region mask is never built per head or in a data worker. A worker sends, per picture, a *layout table*: for every
latent cell and every (region, expert) pair present in it, how many pixels of the cell belong to the pair. The device
turns the table into one boolean mask and one routing per UNet level, shared by every block of that level.
Letters: see :mod:`mamoe.types`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int16, Int32, Int64, UInt8
from torch import Tensor

from mamoe.types import Framing, PanopticMap, RegionPrompts

LATENT_CELL = 8  # pixels per side


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Sample:
    """One picture with its map and prompts, after the joint geometry, before any conditioning.

    The picture is there as pixels, or encoded: as the posterior of the autoencoder, from a cache.
    """

    key: str  # file name
    index: int  # position in the split's order
    epoch: int  # which pass over the data drew it: augmentation, noise and dropout derive from (seed, epoch, index)
    image: UInt8[Tensor, "3 H W"] | None
    panoptic: PanopticMap  # [H W]
    prompts: RegionPrompts
    framing: Framing | None = None  # None: the picture is all of its file
    moments: Float[Tensor, "2 C h w"] | None = None  # mean and standard deviation, not scaled
    condition: UInt8[Tensor, "3 H W"] | None = None  # the picture that methods with a picture input are shown, RGB

    def __post_init__(self) -> None:
        if (self.image is None) == (self.moments is None):
            raise ValueError(f"{self.key}: a sample has either pixels or an encoded picture.")
        if self.moments is not None:
            size = (self.moments.shape[-2] * LATENT_CELL, self.moments.shape[-1] * LATENT_CELL)
        else:
            assert self.image is not None
            size = tuple(self.image.shape[-2:])
        if size != self.panoptic.size:
            raise ValueError(f"{self.key}: picture {size} and map {self.panoptic.size} (H, W) differ in size.")
        if size[0] % LATENT_CELL or size[1] % LATENT_CELL:
            raise ValueError(f"{self.key}: height and width must be divisible by 8, got {size}.")

    @property
    def picture(self) -> UInt8[np.ndarray, "H W 3"]:
        """The pixels as imaging libraries want them.

        Raises:
            ValueError: the sample is encoded.
        """
        if self.image is None:
            raise ValueError(f"{self.key}: the sample holds an encoded picture, no pixels.")
        return np.ascontiguousarray(self.image.permute(1, 2, 0).numpy())


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

        Their condition pictures become empty, which is black.
        """
        flags = mask.tolist()
        prompts = tuple(("",) if flag else p for p, flag in zip(self.prompts, flags, strict=True))
        dropped = mask.to(self.image.device)[self.image.long()]
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
        moved = _map_tensors(self, lambda t: t.to(device, non_blocking=True))
        return replace(moved, regions=self.regions.to(device))

    def pin_memory(self) -> Batch:
        return replace(_map_tensors(self, lambda t: t.pin_memory()), regions=self.regions.pin_memory())


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class TextTokens:
    """All prompts of each picture, encoded and laid end to end along the token axis."""

    embeds: Float[Tensor, "B S D"]
    valid: Bool[Tensor, "B S"]  # False = padding
    region: Int64[Tensor, "B S"]  # the region a token speaks of; 0 where padding


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class PictureConditioning:
    """What a UNet of the SDXL kind is told of each picture as a whole, beside the words (Podell et al. 2023, 2.2)."""

    pooled: Float[Tensor, "B P"]  # the global prompt as one vector
    time_ids: Float[Tensor, "B 6"]  # see framing_rows


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class ExpertRouting:
    """Which expert works on which cell, sorted by expert so that each expert reads one slice.

    Row k sends flattened cell ``token[k]`` (= b*N + n) to the expert whose slice ``offsets`` puts k in. With hard
    routing K = B*N and ``weight`` is None: ``token`` is a permutation. With area routing a cell may occur once per
    expert present in it, and its outputs are blended by ``weight`` (sums to 1 per cell).
    """

    token: Int64[Tensor, "K"]
    offsets: Int32[Tensor, "E"]  # end of each expert's slice; offsets[-1] = K
    weight: Float[Tensor, "K"] | None


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class LevelConditioning:
    """What every transformer block of one UNet level needs."""

    grid: tuple[int, int]
    # Who may attend, every row with a True; or log weights added to the scores, -inf = may not, every row with one that
    # is finite. None = every cell attends every token.
    attend: Bool[Tensor, "B N S"] | Float[Tensor, "B N S"] | None
    routing: ExpertRouting | None  # None = dense: every cell goes through expert 0


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Conditioning:
    """The text and, per level of the pyramid, who attends what and which expert works where."""

    text: TextTokens
    levels: tuple[LevelConditioning, ...]  # L, finest first; sizes follow ceil(size / 2)
    picture: PictureConditioning | None = None  # None: the base model knows no such thing
    padded: bool = False  # whether tokens must be left out that no level's mask leaves out

    def unet_inputs(self) -> dict[str, Any]:
        """Keyword arguments for a UNet call; without any layout a stock UNet takes them too."""
        inputs: dict[str, Any] = {"encoder_hidden_states": self.text.embeds}
        if any(level.attend is not None or level.routing is not None for level in self.levels):
            inputs["cross_attention_kwargs"] = {"regions": self.levels}
        elif self.padded:
            inputs["encoder_attention_mask"] = self.text.valid
        if self.picture is not None:
            inputs["added_cond_kwargs"] = {"text_embeds": self.picture.pooled, "time_ids": self.picture.time_ids}
        return inputs


def framing_rows(framings: Sequence[Framing]) -> Int32[Tensor, "B 6"]:
    """One row per picture, in SDXL's order: original H W, crop top left, target H W; in pixels."""
    return torch.tensor([[*f.original, *f.crop, *f.target] for f in framings], dtype=torch.int32).view(-1, 6)


def level_grids(grid: tuple[int, int], num_levels: int) -> tuple[tuple[int, int], ...]:
    """(h, w) of every UNet level, finest first: each is half the one before, rounded up, as strided convolutions do."""
    return tuple((-(-grid[0] // 2**level), -(-grid[1] // 2**level)) for level in range(num_levels))


def _emptied(pictures: Tensor | None, mask: Bool[Tensor, "B"]) -> Tensor | None:
    return None if pictures is None else pictures.masked_fill(mask.to(pictures.device)[:, None, None, None], 0)


def _map_tensors(value, function):
    changed = {f.name: function(v) for f in fields(value) if isinstance(v := getattr(value, f.name), Tensor)}
    return replace(value, **changed)
