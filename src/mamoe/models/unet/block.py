"""The UNet's transformer block, aware of regions and experts.

    cells -> self-attention -> cross-attention (masked by region) -> feed-forward (one expert per class group) -> cells

What a block needs to know of the layout comes as an argument, ``cross_attention_kwargs={"regions": levels}``: state
left on a module would be read again, wrongly, when gradient checkpointing runs the block a second time.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from diffusers.models.attention import BasicTransformerBlock, FeedForward
from diffusers.models.attention_processor import Attention
from jaxtyping import Float
from torch import Tensor, nn

from mamoe.errors import ConfigError
from mamoe.models.experts.moe import MoEFeedForward, RoutedFeedForward, SharedExpertFeedForward
from mamoe.models.unet.attention import RegionAttnProcessor, check_takes_strength, mask_for
from mamoe.models.unet.strength import RegionStrength


class MaMoETransformerBlock(BasicTransformerBlock):
    """Takes over the layers of a stock block and knows the pyramid level it works on.

    Args:
        stock: the block whose layers are taken over; their names in the state dict stay.
        level: 0 = finest, L-1 = coarsest.
        num_experts: experts of the feed-forward; 1 = it stays dense.
        region_attention: whether a cell attends the text of its own regions only, or that of its whole image.
        learned_strength: whether every head learns how strongly the regions bind it at a noise level.
        shared_expert: whether the pretrained feed-forward works on every cell, the experts beside it.

    Raises:
        ConfigError: the block is of a kind that latent diffusion UNets do not use.
    """

    norm2: nn.LayerNorm
    attn2: Attention
    norm3: nn.LayerNorm
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
        _check_kind(stock)
        with torch.device("meta"):  # for the plain attributes only; the layers are taken over below
            super().__init__(
                stock.dim,
                stock.num_attention_heads,
                stock.attention_head_dim,
                dropout=stock.dropout,
                cross_attention_dim=stock.cross_attention_dim,
                activation_fn=stock.activation_fn,
                attention_bias=stock.attention_bias,
                norm_elementwise_affine=stock.norm_elementwise_affine,
            )
        for name, layer in stock.named_children():
            setattr(self, name, layer)
        if region_attention:
            self.take_own_processor()
        self.has_experts = num_experts > 1  # asked of no class: what works in the layer's place may be a compiled one
        if num_experts > 1:
            self.ff = (SharedExpertFeedForward if shared_expert else MoEFeedForward)(stock.ff, num_experts)
        self.strength = RegionStrength(stock.num_attention_heads) if learned_strength else None
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
        ``cross_attention_kwargs["noise_level"]``, f32[B] timesteps, is what a learned strength looks at.
        """
        for_processors = dict(cross_attention_kwargs or {})
        levels = for_processors.pop("regions", None)
        noise_level = for_processors.pop("noise_level", None)
        attend = levels[self.level].attend if levels is not None else None
        if attend is not None and not self.region_attention:
            seen = attend if attend.dtype == torch.bool else attend > -torch.inf
            attend = seen.any(dim=1, keepdim=True)  # what no cell of the image attends is padding
        routing = levels[self.level].routing if levels is not None else None

        # Self-attention.
        hidden_states = hidden_states + self.attn1(
            self.norm1(hidden_states), attention_mask=attention_mask, **for_processors
        )

        # Cross-attention.
        if attend is not None:
            attend = mask_for(self.attn2, attend, hidden_states.dtype)
        if self.strength is not None and attend is not None:
            check_takes_strength(self.attn2)
            for_processors["strength"] = self.strength(noise_level)
        hidden_states = hidden_states + self.attn2(
            self.norm2(hidden_states),
            encoder_hidden_states=encoder_hidden_states,
            attention_mask=encoder_attention_mask if attend is None else attend,
            **for_processors,
        )

        # Feed-forward.
        normed = self.norm3(hidden_states)
        out = self.ff(normed, routing) if self.has_experts else self.ff(normed)
        return hidden_states + out

    def take_own_processor(self) -> None:
        """Let the cross-attention be computed by :class:`RegionAttnProcessor`."""
        self.attn2.set_processor(cast(Any, RegionAttnProcessor()))

    def set_chunk_feed_forward(self, chunk_size: int | None, dim: int = 0) -> None:
        """Refused: experts work on slices of their own already.

        Raises:
            ConfigError: a chunk size is given.
        """
        if chunk_size is not None:
            raise ConfigError(
                "Feed-forward chunking does not go with this UNet's blocks, whose experts divide the cells themselves. "
                "Leave it out; attention slicing or a smaller batch saves memory."
            )


def blocks_of(network: nn.Module) -> list[nn.Module]:
    """The transformer blocks of a UNet, ours or stock ones: what repeats, and is worth compiling alone."""
    return [module for module in network.modules() if isinstance(module, BasicTransformerBlock)]


def _check_kind(stock: BasicTransformerBlock) -> None:
    problems = []
    if stock.norm_type != "layer_norm":
        problems.append(f"norm_type must be 'layer_norm', got {stock.norm_type!r}")
    if stock.only_cross_attention or stock.double_self_attention or stock.attn2 is None:
        problems.append("it must have one self-attention and one cross-attention")
    if stock.pos_embed is not None:
        problems.append("it must have no positional embedding of its own")
    if hasattr(stock, "fuser"):
        problems.append("it must have no gated attention (attention_type 'default')")
    if problems:
        raise ConfigError(f"This UNet's transformer blocks cannot take regions and experts: {'; '.join(problems)}.")
