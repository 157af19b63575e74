"""Qwen-Image's transformer whose blocks know regions and experts; see :mod:`mamoe.models.joint.steered`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod
from typing import Any, ClassVar, cast

import torch
from diffusers.models.transformers.transformer_qwenimage import QwenImageTransformer2DModel
from jaxtyping import Float, Int64
from torch import Tensor

from mamoe.models.joint.attention import Rotation, check_processors, places_in_prompts
from mamoe.models.joint.mask import padding_mask
from mamoe.models.joint.place import ExpertPlace
from mamoe.models.joint.steered import SteeredJoint
from mamoe.models.qwen.attention import PlacedDoubleStreamProcessor
from mamoe.models.qwen.block import MaMoEQwenImageBlock

Grid = tuple[int, int, int]  # frames, rows and columns of patches
# What transformers have that are shown pictures, or make several, and what they are.
_OTHERS = {
    "zero_cond_t": "it is shown pictures to edit (Qwen-Image-Edit-2511)",
    "use_layer3d_rope": "it makes several layers of a picture (Qwen-Image-Layered)",
    "use_additional_t_cond": "it makes several layers of a picture (Qwen-Image-Layered)",
    "guidance_embeds": "it is told how far to guide itself, which diffusers cannot tell it",
}


class MaMoEQwenImageTransformer2DModel(SteeredJoint, QwenImageTransformer2DModel):  # pyright: ignore[reportIncompatibleMethodOverride]
    """A ``QwenImageTransformer2DModel`` with region-masked joint attention and class-aware experts.

    Words have places here. With a layout those of every prompt begin behind the picture's largest one, as if it stood
    alone.
    """

    stock: ClassVar[type[Any]] = QwenImageTransformer2DModel
    blocks: ClassVar[Mapping[str, type[ExpertPlace]]] = {"transformer_blocks": MaMoEQwenImageBlock}

    @classmethod
    def config_problems(cls, config: Mapping[str, Any]) -> list[str]:
        odd = [f"{key}={config[key]}: {what}" for key, what in _OTHERS.items() if config.get(key)]
        wanted = ["wanted a transformer that makes a picture of text alone, as Qwen-Image's does"] if odd else []
        return [*odd, *wanted, *super().config_problems(config)]

    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]
        self,
        hidden_states: Float[Tensor, "B N c4"],
        encoder_hidden_states: Float[Tensor, "B S D"],
        encoder_hidden_states_mask: Tensor | None = None,
        *,
        img_shapes: Sequence[Sequence[Grid]],
        attention_kwargs: dict[str, Any] | None = None,
        **stock: Any,
    ) -> Any:
        """The stock forward pass, after a check of the sizes and the layout.

        Raises:
            ValueError: ``img_shapes`` or the layout do not fit the latents, the text or this model.
            ConfigError: attention processors are in the place of ours that would drop the layout.
        """
        _check_shapes(hidden_states, img_shapes)
        padded = encoder_hidden_states_mask is not None
        told = self.steering(attention_kwargs, hidden_states, encoder_hidden_states, masked=padded)
        levels = (attention_kwargs or {}).get("regions")
        if levels is not None and levels[0].region is not None:
            told = {**(told or {}), "places": self._placed(levels[0].region, img_shapes)}
            mend = "Leave out what put it there (set_attn_processor); set_default_attn_processor() puts ours back."
            check_processors(self, PlacedDoubleStreamProcessor, mend)
            if encoder_hidden_states_mask is not None:  # beside a layout that routes cells and masks nothing
                told["attention_mask"] = padding_mask(encoder_hidden_states_mask.bool(), hidden_states.shape[1])
        of_stock: Any = super()
        return of_stock.forward(
            hidden_states,
            encoder_hidden_states,
            encoder_hidden_states_mask,
            img_shapes=img_shapes,
            attention_kwargs=told,
            **stock,
        )

    def set_default_attn_processor(self) -> None:
        """Put back the processors of the joint attentions, where others took their place."""
        for block in self.places:
            cast(MaMoEQwenImageBlock, block).take_own_processor()

    def _placed(self, region: Int64[Tensor, "B S"], shapes: Sequence[Sequence[Grid]]) -> Rotation:
        """The angles of every position [B T c], text first."""
        embed: Any = self.pos_embed
        of_cells, of_words = embed(list(shapes), max_txt_seq_len=region.shape[1], device=region.device)
        # Behind the picture the table has some four thousand words: enough for a prompt, if not for all of a picture's
        # together. Padding, which is counted on from the first one, may lie beyond; nobody sees it.
        places = places_in_prompts(region).clamp(max=len(of_words) - 1)
        both = torch.cat([of_words[places], of_cells.expand(len(region), -1, -1)], dim=1)
        cosine, sine = (one.repeat_interleave(2, dim=2) for one in (both.real, both.imag))
        return cosine, sine


def _check_shapes(rows: Float[Tensor, "B N _"], shapes: Sequence[Sequence[Grid]]) -> None:
    """Refuse shapes that are not those of one picture a row of the batch.

    Raises:
        ValueError: says what was wanted.
    """
    alone = [shape[0] if len(shape) == 1 else None for shape in shapes]
    if len(alone) != len(rows) or None in alone or len(set(alone)) != 1 or prod(alone[0] or ()) != rows.shape[1]:
        raise ValueError(
            f"img_shapes must say frames, rows and columns of the one picture of each of the {len(rows)} latents, "
            f"{rows.shape[1]} patches in all and alike for every one, got {list(shapes)}."
        )
