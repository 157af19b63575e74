"""A block in which text attends too, aware of regions and experts, whatever its layers are.

Its masks come as ``attention_mask``, as in stock ones. Cells are routed; text is not. Letters: see
:mod:`mamoe.vocabulary`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, cast

import torch
from diffusers.models.activations import GELU
from diffusers.models.attention import FeedForward
from jaxtyping import Float
from torch import Tensor, nn

from mamoe.models.experts.beside import ExpertsBeside
from mamoe.models.experts.grouped import Activation
from mamoe.vocabulary.conditioning import ExpertRouting


class ExpertPlace(nn.Module):
    """A block that can have experts, each a low-rank addition."""

    attention_name: ClassVar[str] = "attn"  # of the layer in which text and cells meet
    beside: ClassVar[Mapping[str, str]]  # part of the experts -> the stock layer that it lies beside
    experts: ExpertsBeside | None
    region_attention: bool  # whether regions hold here

    def take_over(self, stock: nn.Module) -> None:
        """The layers of a stock block, under their names, and no experts yet."""
        nn.Module.__init__(self)  # of the stock block's own constructor nothing but layers would come
        for name, layer in stock.named_children():
            setattr(self, name, layer)
        self.experts = None
        self.region_attention = True

    def shared_layers(self) -> tuple[nn.Linear, nn.Linear | None]:
        """What the experts lie beside: the first layer, and the second where the experts have one of their own."""
        raise NotImplementedError

    def routed_and_told(
        self, joint_attention_kwargs: dict[str, Any] | None
    ) -> tuple[ExpertRouting | None, dict[str, Any]]:
        """What the block looks at itself, and what its attention is told: of a layout's two masks its own."""
        told = dict(joint_attention_kwargs or {})
        routing, held, opened = (told.pop(key, None) for key in ("routing", "region_mask", "open_mask"))
        mask = held if self.region_attention else opened
        return routing, told if mask is None else {**told, "attention_mask": mask}

    def widened_by(self) -> int | None:
        """Of what the first layer gives the last so many numbers are the feed-forward's; None: all of it."""
        return None

    def add_experts(self, num_experts: int, *, rank: int, alpha: float, generator: torch.Generator) -> None:
        """Give every class group an addition, which is nothing at first."""
        wide, narrow = self.shared_layers()
        options = {"rank": rank, "alpha": alpha, "generator": generator}
        self.experts = ExpertsBeside(wide, narrow, num_experts, width=self.widened_by(), **options)

    @classmethod
    def as_adapters(
        cls, part: str, down: Float[Tensor, "r C"], up: Float[Tensor, "F r"]
    ) -> dict[str, tuple[Float[Tensor, "r C"], Float[Tensor, "_ r"]]]:
        """One expert's ``widen`` or ``narrow`` as adapters of the stock layers that it lies beside, by their names."""
        return {cls.beside[part]: (down, up)}

    def rest_additions(self) -> list[tuple[Tensor, Float[Tensor, "F C"]]]:
        """The shared layers' weights, and what expert 0 adds to each."""
        if self.experts is None:
            return []
        parts = {"widen": self.experts.widen, "narrow": self.experts.narrow}
        return [
            (cast(nn.Linear, self.get_submodule(layer)).weight, own.scale * up @ down)
            for part, own in parts.items()
            if own is not None
            for layer, (down, up) in self.as_adapters(part, own.down_ErC[0], own.up_EFr[0]).items()
        ]


class ExpertsInPicture(ExpertPlace):
    """A block whose picture has a feed-forward of its own: there the experts are."""

    of_picture: ClassVar[str] = "ff"  # the feed-forward's name

    @classmethod
    def as_adapters(
        cls, part: str, down: Float[Tensor, "r C"], up: Float[Tensor, "F r"]
    ) -> dict[str, tuple[Float[Tensor, "r C"], Float[Tensor, "_ r"]]]:
        layer = {"widen": "net.0.proj", "narrow": "net.2"}[part]
        return {f"{cls.of_picture}.{layer}": (down, up)}

    @property
    def _picture_ff(self) -> FeedForward:
        return cast(FeedForward, self.get_submodule(self.of_picture))

    def shared_layers(self) -> tuple[nn.Linear, nn.Linear | None]:
        net = self._picture_ff.net
        return cast(GELU, net[0]).proj, cast(nn.Linear, net[2])

    def feed_forward(self, normed: Float[Tensor, "B N C"], routing: ExpertRouting | None) -> Float[Tensor, "B N C"]:
        """What every cell's expert adds to it, or without experts the feed-forward."""
        if self.experts is None:
            return self._picture_ff(normed)
        first, dropout, second = self._picture_ff.net
        activation = Activation.of(first)
        assert activation is not None, "these blocks have GELU between their layers"
        layers = (cast(GELU, first).proj, second)
        return self.experts.through(layers, lambda inner: dropout(activation(inner)), normed, routing)
