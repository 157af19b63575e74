"""The UNet's transformer block, aware of regions and experts."""

from __future__ import annotations

from typing import ClassVar

from jaxtyping import Float
from torch import Tensor, nn

from mamoe.models.blocks.block import LayoutBlock, Told


class MaMoETransformerBlock(LayoutBlock):
    """A block of latent diffusion UNets: a norm before each of its three layers."""

    norms: ClassVar[str] = "layer_norm"
    norm3: nn.LayerNorm

    def through(self, cells: Float[Tensor, "B N C"], told: Told) -> Float[Tensor, "B N C"]:
        cells = cells + self.look_around(self.norm1(cells), told)
        cells = cells + self.read_text(self.norm2(cells), told)
        return cells + self.feed_forward(self.norm3(cells), told)
