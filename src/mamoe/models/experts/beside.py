"""Experts that are low-rank additions beside the layers of one feed-forward, which stay where and what they are.

    expert e:  W x + (alpha / rank) B_e A_e x        LoRA: Hu et al. 2021, section 4.1

The form for networks of which nobody holds several copies. Whatever computes W x does: the layer may be wrapped in an
adapter or kept in 8 bits. Letters: see :mod:`mamoe.models.experts.moe`; r = rank.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

import torch
from jaxtyping import Float
from torch import Tensor, nn

from mamoe.models.experts.lora import LowRank
from mamoe.models.experts.moe import put_back, taken
from mamoe.vocabulary.conditioning import ExpertRouting

Activation = Callable[[Tensor], Tensor]
Layer = Callable[[Tensor], Tensor]


class ExpertsBeside(nn.Module):
    """What E experts add to the first and, where there is one of its own, the second layer of a feed-forward.

    Args:
        wide: the first layer; looked at for its sizes alone, as is the next.
        narrow: the second one; None: it is shared by all experts.
        num_experts: E.
        width: F, of what is added to what the first layer gives; None: all of it.
        rank: of the additions.
        alpha: they are scaled by alpha / rank.
        generator: see :class:`~mamoe.models.experts.lora.LowRank`.
    """

    def __init__(
        self,
        wide: nn.Linear,
        narrow: nn.Linear | None,
        num_experts: int,
        *,
        width: int | None = None,
        rank: int,
        alpha: float,
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        self.widen = LowRank(wide, num_experts, rank, alpha, generator, width)
        self.narrow = None if narrow is None else LowRank(narrow, num_experts, rank, alpha, generator)

    def added_to(
        self,
        wide: Float[Tensor, "B N F"],
        activation: Activation,
        x: Float[Tensor, "B N C"],
        routing: ExpertRouting | None,
    ) -> Float[Tensor, "B N _"]:
        """The activation of ``wide``, which the first layer made of ``x``, with what every cell's expert adds to it."""

        def compute(rows: Tensor, routing: ExpertRouting | None) -> Tensor:
            given = wide if routing is None else taken(wide.flatten(0, 1), routing)
            return activation(given + _added(self.widen, rows, routing))

        return _routed(compute, x, routing)

    def through(
        self,
        layers: tuple[Layer, Layer],
        activation: Activation,
        x: Float[Tensor, "B N C"],
        routing: ExpertRouting | None,
    ) -> Float[Tensor, "B N C"]:
        """Both layers, with every cell's expert; without a routing with expert 0."""
        wide, narrow = layers
        second = cast(LowRank, self.narrow)

        def compute(rows: Tensor, routing: ExpertRouting | None) -> Tensor:
            inner = activation(wide(rows) + _added(self.widen, rows, routing))
            return narrow(inner) + _added(second, inner, routing)

        return _routed(compute, x, routing)


def _routed(
    compute: Callable[[Tensor, ExpertRouting | None], Tensor], x: Float[Tensor, "B N C"], routing: ExpertRouting | None
) -> Float[Tensor, "B N _"]:
    if routing is None:
        return compute(x, None)
    cells = x.flatten(0, 1)
    rows = compute(taken(cells, routing), routing)
    return put_back(rows, routing, len(cells)).unflatten(0, x.shape[:2])


def _added(own: LowRank, x: Tensor, routing: ExpertRouting | None) -> Tensor:
    return own.of_expert(0, x) if routing is None else own(x, routing.offsets)
