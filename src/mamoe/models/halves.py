"""A picture of two halves, each with a prompt of its own: what a network is asked to see where its text reaches.

The text is random numbers, so that no text encoder is needed. Shapes: B = 1 image · S tokens · N cells of a level.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from mamoe.models.backbone import Pyramid
from mamoe.models.backbones import backbone_of
from mamoe.models.control.call import Control, control_of
from mamoe.models.wrapped import unwrapped
from mamoe.vocabulary.conditioning import (
    Conditioning,
    ExpertRouting,
    LevelConditioning,
    PictureConditioning,
    TextTokens,
    level_grids,
)

PROMPT = 3  # tokens of each prompt: of the whole picture, of its left half, of its right half
TOKENS = 3 * PROMPT
TIMESTEP = 500  # of 1000: half noise
PIXELS = 8  # a side of a latent cell, as far as sizes are told


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Halves:
    """Latents of half noise, and text for both halves; the right one's may be another."""

    noisy: Float[Tensor, "1 C h w"]
    text: Float[Tensor, "1 S D"]
    pyramid: Pyramid
    experts: int  # of the layout; the right half is the last one's. 1 = none
    picture: PictureConditioning | None  # what is said of the whole picture, where the network is told

    @classmethod
    def for_network(cls, network: Any, cells: tuple[int, int], *, experts: int = 1, seed: int = 0) -> Self:
        """What fits a network of a known family, on its device and in its number format; ``cells`` are (h, w)."""
        backbone, plain = backbone_of(network), unwrapped(network)
        generator = torch.Generator().manual_seed(seed)

        def drawn(*shape: int) -> Tensor:
            return torch.randn(shape, generator=generator).to(plain.device, plain.dtype)

        channels = backbone.latent_channels(plain.config) // (2 if control_of(network) is Control.LATENT else 1)
        widths = backbone.text_width(plain.config)
        pooled = backbone.pooled_width(plain.config)
        return cls(
            noisy=drawn(1, channels, *cells),
            text=drawn(1, TOKENS, widths if isinstance(widths, int) else widths[0]),
            pyramid=backbone.pyramid(plain.config),
            experts=experts,
            picture=None
            if not pooled and not backbone.sized(plain.config)
            else PictureConditioning(pooled=drawn(1, pooled) if pooled else None, time_ids=_whole(cells, plain.device)),
        )

    @property
    def right_tokens(self) -> Bool[Tensor, "S"]:
        """True = a token of the right half's prompt."""
        return torch.arange(TOKENS, device=self.text.device) >= 2 * PROMPT

    def levels(self, *, masked: bool = True) -> tuple[LevelConditioning, ...]:
        """The layout: a half reads its own prompt and the whole picture's; not ``masked``: it reads everything."""
        count, skipped = self.pyramid.count, self.pyramid.skipped
        grids = level_grids((self.noisy.shape[2], self.noisy.shape[3]), skipped + count)[skipped:]
        return tuple(self._level(grid, masked) for grid in grids)

    def inputs(self, *, layout: bool = True, masked: bool = True, other: bool = False) -> dict[str, Any]:
        """Keyword arguments of a call; with ``other`` the right half's prompt is another one."""
        changed = torch.where(self.right_tokens[:, None], self.text.flip(1) * 2 + 1, self.text)
        text = TextTokens(
            embeds=changed if other else self.text,
            valid=torch.ones(1, TOKENS, dtype=torch.bool, device=self.text.device),
            region=self._region,
        )
        levels = self.levels(masked=masked) if layout else ()
        return Conditioning(text=text, levels=levels, picture=self.picture).unet_inputs()

    def is_right(self, grid: tuple[int, int]) -> Bool[Tensor, "N"]:
        """True = a cell of the right half, of a grid (h, w)."""
        columns = torch.arange(grid[1], device=self.text.device)
        return (columns >= grid[1] / 2).repeat(grid[0])

    def _level(self, grid: tuple[int, int], masked: bool) -> LevelConditioning:
        right = self.is_right(grid)
        sees = torch.ones(len(right), TOKENS, dtype=torch.bool, device=right.device)
        if masked:
            sees[:, PROMPT : 2 * PROMPT], sees[:, 2 * PROMPT :] = ~right[:, None], right[:, None]
        region = self._region if masked else torch.zeros_like(self._region)
        return LevelConditioning(grid=grid, attend=sees[None], routing=_routing(right, self.experts), region=region)

    @property
    def _region(self) -> Int64[Tensor, "1 S"]:
        return torch.arange(TOKENS, device=self.text.device)[None] // PROMPT


def _routing(right: Bool[Tensor, "N"], experts: int) -> ExpertRouting | None:
    if experts == 1:
        return None
    expert = right.long() * (experts - 1)
    ends = expert.bincount(minlength=experts).cumsum(0).int()
    return ExpertRouting(token=expert.argsort(stable=True), offsets=ends, weight=None)


def _whole(cells: tuple[int, int], device: torch.device) -> Float[Tensor, "1 6"]:
    size = (cells[0] * PIXELS, cells[1] * PIXELS)
    return torch.tensor([[*size, 0, 0, *size]], dtype=torch.float32, device=device)
