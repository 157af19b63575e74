"""Experts that share one frozen feed-forward and differ by low-rank additions to its two layers.

    expert e:  W x + (alpha / rank) B_e A_e x        for each of the two layers W of the pretrained feed-forward

LoRA: Hu et al. 2021, section 4.1. Cells are sorted once; the shared layers multiply all of them at once, the additions
each expert's own slice. Letters: see :mod:`mamoe.models.experts.moe`; r = rank.
"""

from __future__ import annotations

import math
from typing import cast

import torch
import torch.nn.functional as F
from diffusers.models.activations import GEGLU
from diffusers.models.attention import FeedForward
from jaxtyping import Float, Int32
from torch import Tensor, nn

from mamoe.models.experts.grouped import compute_dtype, grouped_suits
from mamoe.models.experts.moe import (
    MoEFeedForward,
    RoutedFeedForward,
    dense_of,
    put_back,
    run_layers,
    slices_of,
    taken,
)
from mamoe.vocabulary.conditioning import ExpertRouting

_GROUPED_MULTIPLE = 8  # a grouped product takes rows of whole 16 bytes


class LowRank(nn.Module):
    """What each expert adds to a frozen linear layer: (alpha / rank) B_e A_e x; zero at first, because B is.

    Args:
        layer: the frozen layer, C in; looked at alone.
        num_experts: E.
        rank: r.
        alpha: see above.
        generator: draws A, uniform with the bound 1 / sqrt(C), as LoRA's authors do.
        width: F, of what is added; None: all that the layer gives.
    """

    def __init__(
        self,
        layer: nn.Linear,
        num_experts: int,
        rank: int,
        alpha: float,
        generator: torch.Generator,
        width: int | None = None,
    ) -> None:
        super().__init__()
        bound, width = 1 / math.sqrt(layer.in_features), layer.out_features if width is None else width
        drawn = torch.rand((num_experts, rank, layer.in_features), generator=generator) * (2 * bound) - bound
        # In float32 whatever the frozen layer is kept in: these are what learns.
        self.down_ErC = nn.Parameter(drawn.to(layer.weight.device))
        self.up_EFr = nn.Parameter(torch.zeros((num_experts, width, rank), device=layer.weight.device))
        self.scale = alpha / rank

    def forward(self, rows: Float[Tensor, "K C"], offsets: Int32[Tensor, "E"]) -> Float[Tensor, "K F"]:
        if grouped_suits(rows) and self.down_ErC.shape[1] % _GROUPED_MULTIPLE == 0:
            dtype = compute_dtype(rows)
            down, up = self.down_ErC.to(dtype).transpose(1, 2), self.up_EFr.to(dtype).transpose(1, 2)
            narrow = F.grouped_mm(rows.to(dtype), down, offs=offsets)
            return self.scale * F.grouped_mm(narrow, up, offs=offsets)
        slices = zip(slices_of(rows, offsets), self.down_ErC, self.up_EFr, strict=True)
        return self.scale * torch.cat([F.linear(F.linear(own, down), up) for own, down, up in slices])

    def of_expert(self, expert: int, x: Float[Tensor, "*M C"]) -> Float[Tensor, "*M F"]:
        """What one expert adds for all of ``x``."""
        return self.scale * F.linear(F.linear(x, self.down_ErC[expert]), self.up_EFr[expert])

    def weight_of(self, expert: int) -> Float[Tensor, "F C"]:
        """What one expert adds to the layer's weight."""
        return self.scale * self.up_EFr[expert] @ self.down_ErC[expert]

    def weights(self) -> Float[Tensor, "E F C"]:
        """What each expert adds to the layer's weight."""
        return self.scale * self.up_EFr @ self.down_ErC


class LoraExpertsFeedForward(RoutedFeedForward):
    """E experts, each the pretrained feed-forward with low-rank additions of its own.

    Args:
        dense: the pretrained feed-forward; its layers are taken over and frozen.
        num_experts: E.
        rank: of the additions.
        alpha: they are scaled by alpha / rank.
        generator: see :class:`LowRank`.

    Raises:
        ConfigError: the feed-forward has neither GEGLU nor GELU between its layers.
    """

    def __init__(
        self, dense: FeedForward, num_experts: int, *, rank: int, alpha: float, generator: torch.Generator
    ) -> None:
        super().__init__(dense)
        self.net.requires_grad_(False)
        self.widen = LowRank(cast(GEGLU, self.net[0]).proj, num_experts, rank, alpha, generator)
        self.narrow = LowRank(cast(nn.Linear, self.net[2]), num_experts, rank, alpha, generator)

    @property
    def num_experts(self) -> int:
        return len(self.widen.down_ErC)

    def forward(
        self, hidden_states: Float[Tensor, "B N C"], routing: ExpertRouting | None = None
    ) -> Float[Tensor, "B N C"]:
        """Send every cell through its experts; without a routing, through expert 0."""
        if routing is None:
            activated = self._activated(hidden_states, self.widen.of_expert(0, hidden_states))
            return self._out(activated, self.narrow.of_expert(0, activated))
        cells = hidden_states.flatten(0, 1)
        rows = taken(cells, routing)
        activated = self._activated(rows, self.widen(rows, routing.offsets))
        out = self._out(activated, self.narrow(activated, routing.offsets))
        return put_back(out, routing, len(cells)).view_as(hidden_states)

    def merged(self) -> MoEFeedForward:
        """Full experts that compute the same. They take over this module's layers."""
        full = MoEFeedForward(dense_of(self.net), self.num_experts)
        with torch.no_grad():
            for net, wide, narrow in zip(full.nets, self.widen.weights(), self.narrow.weights(), strict=True):
                cast(GEGLU, net[0]).proj.weight += wide
                cast(nn.Linear, net[2]).weight += narrow
        return full

    def _activated(self, x: Float[Tensor, "*M C"], added: Float[Tensor, "*M F"]) -> Float[Tensor, "*M G"]:
        return self.net[1](self.activation(cast(GEGLU, self.net[0]).proj(x) + added))

    def _out(self, activated: Float[Tensor, "*M G"], added: Float[Tensor, "*M C"]) -> Float[Tensor, "*M C"]:
        return run_layers(self.net[3:], self.net[2](activated) + added)
