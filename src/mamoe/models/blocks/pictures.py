"""What diffusers' networks make of pictures, between attention layers, without passes over them that change nothing.

A residual block divides by 1, and copies what its shortcut reads; a transformer copies what it made of a sequence. With
channels last in memory, as convolutions on a GPU want them, these copies are turned twice. The results are the same.
"""

from __future__ import annotations

from typing import Any

from diffusers.models.resnet import ResnetBlock2D
from diffusers.models.transformers.transformer_2d import Transformer2DModel
from torch import Tensor, nn

from mamoe.models.blocks.norms import GroupNorm, fuses, keep_format


class ResnetBlock(ResnetBlock2D):
    """A residual block of the plain kind: norm, SiLU, convolution, twice, the time's embedding added in between."""

    def forward(self, input_tensor: Tensor, temb: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        norm1, norm2 = self.norm1, self.norm2
        if not (isinstance(norm1, GroupNorm) and isinstance(norm2, GroupNorm)):  # somebody put others there
            return super().forward(input_tensor, temb, *args, **kwargs)
        hidden = self.conv1(norm1.with_silu(input_tensor))
        if self.time_emb_proj is not None:  # an autoencoder's know no time, and get None for it
            temb = self.time_emb_proj(self.nonlinearity(temb))[:, :, None, None]
        if temb is not None:
            hidden = hidden + temb
        hidden = self.conv2(self.dropout(norm2.with_silu(hidden)))
        if self.conv_shortcut is not None:
            # As diffusers does while training: gradients of a 1x1 convolution lie as what it read.
            plain = self.training and not fuses(input_tensor)
            input_tensor = self.conv_shortcut(input_tensor.contiguous() if plain else input_tensor)
        whole = input_tensor + hidden
        return whole if self.output_scale_factor == 1.0 else whole / self.output_scale_factor


class SpatialTransformer(Transformer2DModel):
    """A transformer over the places of a picture, whose result lies as the picture did."""

    def _get_output_for_continuous_inputs(
        self, hidden_states: Tensor, residual: Tensor, batch_size: int, height: int, width: int, inner_dim: int
    ) -> Tensor:
        if not fuses(residual):
            return super()._get_output_for_continuous_inputs(
                hidden_states, residual, batch_size, height, width, inner_dim
            )
        if self.use_linear_projection:
            hidden_states = self.proj_out(hidden_states)
        hidden_states = hidden_states.view(batch_size, height, width, inner_dim).permute(0, 3, 1, 2)
        if not self.use_linear_projection:
            hidden_states = self.proj_out(hidden_states)
        return hidden_states + residual


def without_idle_passes(network: nn.Module) -> None:
    """Let the norms, residual blocks and transformers of ``network`` compute so; weights and names stay."""
    keep_format(network)
    for module in network.modules():
        if type(module) is Transformer2DModel:
            module.__class__ = SpatialTransformer
        elif type(module) is ResnetBlock2D and _is_plain(module):
            module.__class__ = ResnetBlock


def _is_plain(block: Any) -> bool:
    resized = block.upsample is not None or block.downsample is not None
    return (
        not resized
        and block.time_embedding_norm == "default"
        and not block.skip_time_act
        and type(block.nonlinearity) is nn.SiLU
    )
