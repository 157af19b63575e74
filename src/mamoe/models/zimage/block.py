"""Z-Image's transformer block, aware of regions and experts (Z-Image team 2025, arXiv 2511.22699).

Text and cells are one sequence with the same weights. Cells are routed; text is not: it goes with the rest group,
expert 0, so that the model without a layout is one of the base model's shape. Letters: see :mod:`mamoe.vocabulary`;
T positions of the sequence.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, cast

import torch
import torch.nn.functional as F
from diffusers.models.transformers.transformer_z_image import ZImageTransformerBlock, ZSingleStreamAttnProcessor
from jaxtyping import Bool, Float, Shaped
from torch import Tensor, nn

from mamoe.errors import ConfigError
from mamoe.models.joint.place import ExpertPlace
from mamoe.vocabulary.conditioning import ExpertRouting


class MaMoEZImageBlock(ExpertPlace, ZImageTransformerBlock):
    """A block of the joint sequence whose cells go to the expert of their class group."""

    attention_name: ClassVar[str] = "attention"
    beside: ClassVar[Mapping[str, str]] = {"narrow": "feed_forward.w2"}

    def __init__(self, stock: ZImageTransformerBlock) -> None:
        self.take_over(stock)

    def shared_layers(self) -> tuple[nn.Linear, nn.Linear | None]:
        return self.feed_forward.w1, self.feed_forward.w2

    def widened_by(self) -> int | None:
        return 2 * self.feed_forward.w1.out_features  # a gate's numbers, and those that it lets through

    @classmethod
    def as_adapters(
        cls, part: str, down: Float[Tensor, "r C"], up: Float[Tensor, "F r"]
    ) -> dict[str, tuple[Float[Tensor, "r C"], Float[Tensor, "_ r"]]]:
        if part != "widen":
            return super().as_adapters(part, down, up)
        gate, value = up.chunk(2)
        return {"feed_forward.w1": (down, gate), "feed_forward.w3": (down, value)}

    def forward(
        self,
        x: Float[Tensor, "B T C"],
        attn_mask: Bool[Tensor, "B _"] | None,
        freqs_cis: Shaped[Tensor, "B T c"],
        adaln_input: Float[Tensor, "B _"] | None = None,
        noise_mask: Tensor | None = None,
        adaln_noisy: Tensor | None = None,
        adaln_clean: Tensor | None = None,
        joint_attention_kwargs: dict[str, Any] | None = None,
    ) -> Float[Tensor, "B T C"]:
        """The stock block's arguments in the stock order, because checkpointing passes them by position.

        ``joint_attention_kwargs`` are the masks and the routing of a layout; of its sequence the last ``cells``
        positions are cells. The three before it are of the omni mode, which the model refuses.
        """
        routing, told = self.routed_and_told(joint_attention_kwargs)
        mask = told.get("attention_mask")
        if mask is not None:
            check_takes_mask(self.attention)
        modulation = cast(nn.Module, self.adaLN_modulation)(adaln_input).unsqueeze(1)
        scale, gate, ff_scale, ff_gate = modulation.chunk(4, dim=2)
        seen = self.attention(
            hidden_states=self.attention_norm1(x) * (1.0 + scale),
            attention_mask=attn_mask if mask is None else mask,
            freqs_cis=freqs_cis,
        )
        x = x + gate.tanh() * self.attention_norm2(seen)
        fed = self._fed(self.ffn_norm1(x) * (1.0 + ff_scale), told.get("cells", 0), routing)
        return x + ff_gate.tanh() * self.ffn_norm2(fed)

    def _fed(self, normed: Float[Tensor, "B T C"], cells: int, routing: ExpertRouting | None) -> Float[Tensor, "B T C"]:
        experts = self.experts
        if experts is None:
            return self.feed_forward(normed)
        layers = (self._wide, self.feed_forward.w2)
        if routing is None:
            return experts.through(layers, _gated, normed, None)
        others, own = normed[:, :-cells], normed[:, -cells:]
        parts = [experts.through(layers, _gated, others, None), experts.through(layers, _gated, own, routing)]
        return torch.cat(parts, dim=1)

    def _wide(self, x: Float[Tensor, "*M C"]) -> Float[Tensor, "*M F"]:
        return torch.cat([self.feed_forward.w1(x), self.feed_forward.w3(x)], dim=-1)


def check_takes_mask(attention: Any) -> None:
    """Refuse a processor that might ignore a mask.

    Raises:
        ConfigError: the layer's processor is not diffusers' own.
    """
    if not isinstance(attention.processor, ZSingleStreamAttnProcessor):
        raise ConfigError(
            f"The attention processor {type(attention.processor).__name__} is not known to obey the layout's mask. "
            "Leave out what put it there (set_processor)."
        )


def _gated(both: Float[Tensor, "*M F"]) -> Float[Tensor, "*M G"]:
    """SwiGLU: the second half of the numbers, as far as the first lets them (Shazeer 2020, GLU variants, eq. 6)."""
    gate, value = both.chunk(2, dim=-1)
    return F.silu(gate) * value
