"""FLUX.2's transformer whose blocks know regions and experts; see :mod:`mamoe.models.joint.steered`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from diffusers.models.transformers.transformer_flux2 import (
    Flux2Transformer2DModel,
)
from jaxtyping import Float, Int64
from torch import Tensor

from mamoe.models.flux.attention2 import PlacedAttnProcessor, PlacedParallelProcessor
from mamoe.models.flux.block2 import MaMoEFlux2Block, MaMoEFlux2SingleBlock
from mamoe.models.joint.attention import Rotation, check_processors, places_in_prompts
from mamoe.models.joint.place import ExpertPlace
from mamoe.models.joint.steered import SteeredJoint


class MaMoEFlux2Transformer2DModel(SteeredJoint, Flux2Transformer2DModel):  # pyright: ignore[reportIncompatibleMethodOverride]
    """A ``Flux2Transformer2DModel`` with region-masked joint attention and class-aware experts.

    Words have places here. With a layout those of every prompt begin at 0, as if it stood alone; or they are where
    ``joint_attention_kwargs`` says (``word_places``, [B S]).
    """

    stock: ClassVar[type[Any]] = Flux2Transformer2DModel
    blocks: ClassVar[Mapping[str, type[ExpertPlace]]] = {
        "transformer_blocks": MaMoEFlux2Block,
        "single_transformer_blocks": MaMoEFlux2SingleBlock,
    }

    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]
        self,
        hidden_states: Float[Tensor, "B N c4"],
        encoder_hidden_states: Float[Tensor, "B S D"],
        *,
        img_ids: Tensor,
        joint_attention_kwargs: dict[str, Any] | None = None,
        **stock: Any,
    ) -> Any:
        """The stock forward pass, after a check of the layout. Pictures to look at (``kv_cache_mode``) are not known.

        Raises:
            ValueError: the layout does not fit the latents, the text or this model.
            ConfigError: attention processors are in the place of ours that would drop the layout or the experts.
        """
        asked = dict(joint_attention_kwargs or {})
        levels, places = asked.get("regions"), asked.pop("word_places", None)
        told = self.steering(asked, hidden_states, encoder_hidden_states)
        told = {**(told or {}), "tokens": encoder_hidden_states.shape[1]}
        if places is None and levels is not None and levels[0].region is not None:
            places = places_in_prompts(levels[0].region)
        if places is not None:
            told["places"] = self._placed(places, img_ids)
        if "places" in told or self.config["expert_rank"] is not None:
            ours = (PlacedAttnProcessor, PlacedParallelProcessor)
            check_processors(self, ours, "Leave out what put it there (set_attn_processor, kv caching).")
        return super().forward(
            hidden_states, encoder_hidden_states, img_ids=img_ids, joint_attention_kwargs=told, **stock
        )

    def _placed(self, places: Int64[Tensor, "B S"], img_ids: Tensor) -> Rotation:
        """The angles of every position [B T c], text first."""
        each = places.new_zeros((places.numel(), len(self.pos_embed.axes_dim)), dtype=torch.float32)
        each[:, -1] = places.flatten()  # the last axis counts words
        of_words, of_cells = self.pos_embed(each), self.pos_embed(img_ids if img_ids.ndim == 2 else img_ids[0])
        cosine, sine = (
            torch.cat([words.unflatten(0, places.shape), cells.expand(len(places), -1, -1)], dim=1)
            for words, cells in zip(of_words, of_cells, strict=True)
        )
        return cosine, sine
