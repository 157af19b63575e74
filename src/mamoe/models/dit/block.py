"""PixArt's transformer block, aware of regions and experts."""

from __future__ import annotations

from typing import ClassVar

from jaxtyping import Float
from torch import Tensor, nn

from mamoe.models.blocks.block import LayoutBlock, Told


class MaMoEPixArtBlock(LayoutBlock):
    """A block whose norms are shifted, scaled and gated by the noise level (Chen et al. 2023, PixArt-alpha, 2.3).

    Every block adds a table of its own to six vectors that all blocks share: ``timestep``, f32[B 6C]. The text is read
    from cells that are not normed; ``norm2`` belongs to the feed-forward.
    """

    norms: ClassVar[str] = "ada_norm_single"
    scale_shift_table: nn.Parameter

    def through(self, cells: Float[Tensor, "B N C"], told: Told) -> Float[Tensor, "B N C"]:
        assert told.timestep is not None, "these blocks are steered by the noise level"
        of_block = self.scale_shift_table + told.timestep.unflatten(1, (6, -1))
        shift, scale, gate, ff_shift, ff_scale, ff_gate = of_block.chunk(6, dim=1)
        # A sum lies in memory as its first summand does. The cells come as a convolution left them, channels first, and
        # every norm of every block would have to turn them round.
        cells = gate * self.look_around(self.norm1(cells) * (1 + scale) + shift, told) + cells
        cells = self.read_text(cells, told) + cells
        return ff_gate * self.feed_forward(self.norm2(cells) * (1 + ff_scale) + ff_shift, told) + cells
