"""Stable Diffusion 3's transformer whose blocks know regions and experts; see :mod:`mamoe.models.joint.steered`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, cast

from diffusers.models.modeling_outputs import Transformer2DModelOutput
from diffusers.models.transformers.transformer_sd3 import SD3Transformer2DModel
from jaxtyping import Float
from torch import Tensor

from mamoe.models.joint.place import ExpertPlace
from mamoe.models.joint.steered import SteeredJoint
from mamoe.models.sd3.block import MaMoESD3Block


def most_cells(config: Mapping[str, Any]) -> int:
    """Latent cells a side that a network of this configuration has places for."""
    return config["pos_embed_max_size"] * config["patch_size"]


class MaMoESD3Transformer2DModel(SteeredJoint, SD3Transformer2DModel):  # pyright: ignore[reportIncompatibleMethodOverride]
    """A ``SD3Transformer2DModel`` (3 and 3.5) with region-masked joint attention and class-aware experts."""

    stock: ClassVar[type[Any]] = SD3Transformer2DModel
    blocks: ClassVar[Mapping[str, type[ExpertPlace]]] = {"transformer_blocks": MaMoESD3Block}

    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]
        self,
        hidden_states: Float[Tensor, "B c h w"],
        encoder_hidden_states: Float[Tensor, "B S D"],
        *,
        joint_attention_kwargs: dict[str, Any] | None = None,
        **stock: Any,
    ) -> Transformer2DModelOutput | tuple[Tensor, ...]:
        """The stock forward pass, after a check of the sizes and the layout.

        Raises:
            ValueError: the layout does not fit the latents, the text or this model; or the latents are no whole number
                of patches, or more than it has places for.
        """
        (height, width), patch = hidden_states.shape[2:], self.config["patch_size"]
        if height % patch or width % patch:
            raise ValueError(f"Latents must be whole patches of {patch}x{patch} cells, got {height}x{width} cells.")
        if max(height, width) > (most := most_cells(self.config)):
            raise ValueError(
                f"This model has places for {most}x{most} latent cells (pos_embed_max_size), got {height}x{width}."
            )
        patches = hidden_states[:, :1, ::patch, ::patch].flatten(2).transpose(1, 2)  # to be counted
        told: Any = self.steering(joint_attention_kwargs, patches, encoder_hidden_states)
        output: Any = super().forward(hidden_states, encoder_hidden_states, joint_attention_kwargs=told, **stock)
        return output

    def set_default_attn_processor(self) -> None:
        """Put back the processors of the joint attentions, where others took their place."""
        for block in self.places:
            cast(MaMoESD3Block, block).take_own_processor()
