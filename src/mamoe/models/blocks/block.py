"""A transformer block that is aware of regions and experts, whatever surrounds its three layers.

    cells -> self-attention -> cross-attention (masked by region) -> feed-forward (one expert per class group) -> cells

What a block needs to know of the layout comes as an argument, ``cross_attention_kwargs={"regions": levels}``: state
left on a module would be read again, wrongly, when gradient checkpointing runs the block a second time.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, ClassVar, NamedTuple, cast

import torch
from diffusers.models.attention import BasicTransformerBlock, FeedForward, JointTransformerBlock
from diffusers.models.attention_processor import Attention
from diffusers.models.transformers.transformer_flux import FluxSingleTransformerBlock, FluxTransformerBlock
from diffusers.models.transformers.transformer_flux2 import Flux2SingleTransformerBlock, Flux2TransformerBlock
from diffusers.models.transformers.transformer_qwenimage import QwenImageTransformerBlock
from diffusers.models.transformers.transformer_z_image import ZImageTransformerBlock
from jaxtyping import Bool, Float
from torch import Tensor, nn

from mamoe.errors import ConfigError
from mamoe.models.blocks.attention import (
    KeptText,
    RegionAttnProcessor,
    check_takes_strength,
    compute_by_region,
    mask_for,
)
from mamoe.models.blocks.strength import RegionStrength
from mamoe.models.experts.moe import MoEFeedForward, RoutedFeedForward, SharedExpertFeedForward
from mamoe.vocabulary.conditioning import ExpertRouting


class Told(NamedTuple):  # which torch.compile looks through wherever it is made
    """What one call of a block says, beside the cells."""

    text: Float[Tensor, "B S D"] | None
    text_mask: Tensor | None  # holds where the layout has no mask
    cells_mask: Tensor | None  # of self-attention
    timestep: Tensor | None  # the noise level, or what the network makes of it
    attend: Bool[Tensor, "B _ S"] | Float[Tensor, "B N S"] | None
    routing: ExpertRouting | None
    noise_level: Float[Tensor, "B"] | None  # timesteps, which a learned strength looks at
    kept: KeptText | None  # what attention made of the text in an earlier step
    others: dict[str, Any]  # what is left for the attention processors


class LayoutBlock(BasicTransformerBlock):
    """Takes over the layers of a stock block and knows the level it works on.

    Args:
        stock: the block whose layers are taken over; their names in the state dict stay.
        level: 0 = finest, L-1 = coarsest.
        num_experts: experts of the feed-forward; 1 = it stays dense.
        region_attention: whether a cell attends the text of its own regions only, or that of its whole image.
        learned_strength: whether every head learns how strongly the regions bind it at a noise level, where they do.
        shared_expert: whether the pretrained feed-forward works on every cell, the experts beside it.

    Raises:
        ConfigError: the block is of another kind than this class computes.
    """

    norms: ClassVar[str]  # diffusers' ``norm_type`` of the stock blocks
    norm2: nn.LayerNorm
    attn2: Attention
    ff: FeedForward | RoutedFeedForward

    def __init__(
        self,
        stock: BasicTransformerBlock,
        *,
        level: int,
        num_experts: int,
        region_attention: bool,
        learned_strength: bool = False,
        shared_expert: bool = False,
    ) -> None:
        _check_kind(stock, self.norms)
        nn.Module.__init__(self)
        # Numbers and words alone: a stock block that was compiled or has hooks keeps its forward pass among the others.
        plain = {name: value for name, value in vars(stock).items() if isinstance(value, int | float | str | None)}
        self.__dict__ |= plain
        for name, layer in stock.named_children():
            setattr(self, name, layer)
        for name, weight in stock.named_parameters(recurse=False):
            setattr(self, name, weight)
        if region_attention:
            self.take_own_processor()
        self.has_experts = num_experts > 1  # asked of no class: what works in the layer's place may be a compiled one
        if num_experts > 1:
            self.ff = (SharedExpertFeedForward if shared_expert else MoEFeedForward)(stock.ff, num_experts)
        self.strength = RegionStrength(stock.num_attention_heads) if learned_strength and region_attention else None
        self.level = level
        self.region_attention = region_attention

    def forward(
        self,
        hidden_states: Float[Tensor, "B N C"],
        attention_mask: Tensor | None = None,
        encoder_hidden_states: Float[Tensor, "B S D"] | None = None,
        encoder_attention_mask: Tensor | None = None,
        timestep: Tensor | None = None,
        cross_attention_kwargs: dict[str, Any] | None = None,
        class_labels: Tensor | None = None,
        added_cond_kwargs: dict[str, Tensor] | None = None,
    ) -> Float[Tensor, "B N C"]:
        """The stock block's arguments in the stock order, because checkpointing passes them by position.

        ``cross_attention_kwargs["regions"]`` holds one ``LevelConditioning`` per level; this block reads its own.
        ``cross_attention_kwargs["noise_level"]``, f32[B] timesteps, is what a learned strength looks at. A dictionary
        ``cross_attention_kwargs["kept"]`` is given by who asks with the same text and weights again, without gradients.
        """
        others = dict(cross_attention_kwargs or {})
        levels = others.pop("regions", None)
        noise_level = others.pop("noise_level", None)
        kept = others.pop("kept", None)
        attend = levels[self.level].attend if levels is not None else None
        if attend is not None and not self.region_attention:
            seen = attend if attend.dtype == torch.bool else attend > -torch.inf
            attend = seen.any(dim=1, keepdim=True)  # what no cell of the image attends is padding
        routing = levels[self.level].routing if levels is not None else None
        told = Told(
            text=encoder_hidden_states,
            text_mask=encoder_attention_mask,
            cells_mask=attention_mask,
            timestep=timestep,
            attend=attend,
            routing=routing,
            noise_level=noise_level,
            kept=None if torch.compiler.is_compiling() else kept,  # the compiler's graphs would remember one picture's
            others=others,
        )
        return self.through(hidden_states, told)

    @abstractmethod
    def through(self, cells: Float[Tensor, "B N C"], told: Told) -> Float[Tensor, "B N C"]:
        """The cells after the block's three layers."""

    def look_around(self, cells: Float[Tensor, "B N C"], told: Told) -> Float[Tensor, "B N C"]:
        """What self-attention adds to the cells."""
        return self.attn1(cells, attention_mask=told.cells_mask, **told.others)

    def read_text(self, cells: Float[Tensor, "B N C"], told: Told) -> Float[Tensor, "B N C"]:
        """What cross-attention adds to the cells."""
        attend, options = told.attend, told.others
        if attend is not None:
            attend = mask_for(self.attn2, attend, cells.dtype)
        if told.kept is not None and type(self.attn2.processor) is RegionAttnProcessor:
            options = {**options, "kept": told.kept}
        if self.strength is not None and attend is not None:
            check_takes_strength(self.attn2)
            options = {**options, "strength": self.strength(told.noise_level)}
        mask = told.text_mask if attend is None else attend
        return self.attn2(cells, encoder_hidden_states=told.text, attention_mask=mask, **options)

    def feed_forward(self, normed: Float[Tensor, "B N C"], told: Told) -> Float[Tensor, "B N C"]:
        """What the feed-forward, or every cell's expert, adds to the cells."""
        return self.ff(normed, told.routing) if self.has_experts else self.ff(normed)

    def take_own_processor(self) -> None:
        """Let both attentions be computed by :class:`RegionAttnProcessor`, which is started quickest."""
        for layer in (self.attn1, self.attn2):
            compute_by_region(cast(Attention, layer))

    def set_chunk_feed_forward(self, chunk_size: int | None, dim: int = 0) -> None:
        """Refused: experts work on slices of their own already.

        Raises:
            ConfigError: a chunk size is given.
        """
        refuse_chunks(chunk_size)


_REPEATED = (
    BasicTransformerBlock,
    JointTransformerBlock,
    FluxTransformerBlock,
    FluxSingleTransformerBlock,
    Flux2TransformerBlock,
    Flux2SingleTransformerBlock,
    QwenImageTransformerBlock,
    ZImageTransformerBlock,
)


def blocks_of(network: nn.Module) -> list[nn.Module]:
    """The transformer blocks of a network, ours or stock ones: what repeats, and is worth compiling alone."""
    return [module for module in network.modules() if isinstance(module, _REPEATED)]


def refuse_chunks(chunk_size: int | None) -> None:
    """Refuse to compute feed-forwards in chunks of this size; None asks for none.

    Raises:
        ConfigError: a chunk size is given.
    """
    if chunk_size is not None:
        raise ConfigError(
            "Feed-forward chunking does not go with these blocks, whose experts divide the cells themselves. "
            "Leave it out; attention slicing or a smaller batch saves memory."
        )


def _check_kind(stock: BasicTransformerBlock, norms: str) -> None:
    problems = []
    if stock.norm_type != norms:
        problems.append(f"norm_type must be {norms!r}, got {stock.norm_type!r}")
    if stock.only_cross_attention or stock.double_self_attention or stock.attn2 is None:
        problems.append("it must have one self-attention and one cross-attention")
    if stock.pos_embed is not None:
        problems.append("it must have no positional embedding of its own")
    if hasattr(stock, "fuser"):
        problems.append("it must have no gated attention (attention_type 'default')")
    if problems:
        raise ConfigError(f"This network's transformer blocks cannot take regions and experts: {'; '.join(problems)}.")
