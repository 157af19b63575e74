"""Mixture of feed-forward experts with a given routing: no learned router, no expert ever sees another's cells.

Cells are sorted by expert, every expert multiplies its own slice, and the results go back to their places. Hard
routing then costs what one dense feed-forward costs. Source: the MaMoE thesis, class-aware mixture of experts.

Shapes: B images · N cells of one level · E experts · K routed rows · C channels in · F channels out.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import cast

import torch
import torch.nn.functional as F
from diffusers.models.activations import GEGLU
from diffusers.models.attention import FeedForward
from jaxtyping import Bool, Float, Int32
from torch import Tensor, nn

from mamoe.tensors import ExpertRouting
from mamoe.types import ConfigError


class MoEFeedForward(nn.Module):
    """E copies of a GEGLU feed-forward (Shazeer 2020), each at work on the cells of its class group.

    Expert 0 keeps the stock keys ``net.*``, the others live under ``experts.{i}.net.*`` with i in [1, E): whoever
    reads only the stock keys gets the dense model of expert 0.

    Args:
        dense: the feed-forward every expert starts as. Its layers become expert 0.
        num_experts: E, at least 1.

    Raises:
        ConfigError: the feed-forward is not a GEGLU one.
    """

    def __init__(self, dense: FeedForward, num_experts: int) -> None:
        super().__init__()
        if not isinstance(dense.net[0], GEGLU):
            raise ConfigError(f"Experts need GEGLU feed-forwards, this UNet has {type(dense.net[0]).__name__}.")
        self.net = dense.net
        self.experts = nn.ModuleDict({str(i): copy.deepcopy(dense) for i in range(1, num_experts)})

    @property
    def num_experts(self) -> int:
        return 1 + len(self.experts)

    def forward(
        self, hidden_states: Float[Tensor, "B N C"], routing: ExpertRouting | None = None
    ) -> Float[Tensor, "B N C"]:
        """Send every cell through its experts; without a routing, through expert 0."""
        if routing is None:
            return _run(self.net, hidden_states)
        cells = hidden_states.flatten(0, 1)
        rows = cells.index_select(0, routing.token)
        nets = [self.net, *(expert.net for expert in self.experts.values())]
        if _prefers_grouped(rows, nets):
            rows = _run_grouped(nets, rows, routing.offsets)
        else:
            rows = _run_in_turn(nets, rows, routing.offsets)
        return _put_back(rows, routing, len(cells)).view_as(hidden_states)


def _put_back(rows: Float[Tensor, "K C"], routing: ExpertRouting, count: int) -> Float[Tensor, "M C"]:
    if routing.weight is None:
        # Reading through the inverse permutation keeps nothing for the backward pass; writing (index_copy) keeps rows.
        position = torch.arange(count, device=rows.device)
        return rows.index_select(0, torch.empty_like(position).index_copy(0, routing.token, position))
    weighted = rows * routing.weight.to(rows.dtype).unsqueeze(1)
    return rows.new_zeros((count, rows.shape[1])).index_add(0, routing.token, weighted)


def _run(layers: Iterable[nn.Module], x: Tensor) -> Tensor:
    for layer in layers:
        x = layer(x)
    return x


def _prefers_grouped(rows: Tensor, nets: Sequence[nn.ModuleList]) -> bool:
    # A loop over slices reads the slice ends on the host: free on a CPU, a wait on a GPU, a graph break when compiled.
    # The grouped way reads the weights directly, so it must not bypass adapters wrapped around a projection.
    plain = all(type(cast(GEGLU, net[0]).proj) is nn.Linear and type(net[2]) is nn.Linear for net in nets)
    return plain and (rows.is_cuda or torch.compiler.is_compiling())


def _run_in_turn(
    nets: Sequence[nn.ModuleList], rows: Float[Tensor, "K C"], offsets: Int32[Tensor, "E"]
) -> Float[Tensor, "K C"]:
    # An expert without cells still runs, on an empty slice: its gradients are zero, not missing.
    ends = offsets.tolist()
    slices = rows.split([end - start for start, end in pairwise([0, *ends])])
    return torch.cat([_run(net, own) for net, own in zip(nets, slices, strict=True)])


def _run_grouped(
    nets: Sequence[nn.ModuleList], rows: Float[Tensor, "K C"], offsets: Int32[Tensor, "E"]
) -> Float[Tensor, "K C"]:
    member = _membership(rows.shape[0], offsets)
    widen = [cast(GEGLU, net[0]) for net in nets]
    narrow = [cast(nn.Linear, net[2]) for net in nets]
    value, gate = _grouped_linear([layer.proj for layer in widen], rows, offsets, member).chunk(2, dim=-1)
    activated = nets[0][1](value * widen[0].gelu(gate))  # GELU and dropout have no weights: any expert's will do
    out = _grouped_linear(narrow, activated, offsets, member)
    return _run(nets[0][3:], out)


def _grouped_linear(
    layers: Sequence[nn.Linear],
    rows: Float[Tensor, "K C"],
    offsets: Int32[Tensor, "E"],
    member: Bool[Tensor, "K E"],
) -> Float[Tensor, "K F"]:
    dtype = _compute_dtype(rows)
    weight_EFC = torch.stack([layer.weight.to(dtype) for layer in layers])
    bias_EF = torch.stack([layer.bias.to(dtype) for layer in layers])
    product = F.grouped_mm(rows.to(dtype), weight_EFC.transpose(1, 2), offs=offsets)
    # A product with the membership matrix, because its gradient is a product too; that of a gather is a slow scatter.
    return product + member.to(dtype) @ bias_EF


def _membership(count: int, offsets: Int32[Tensor, "E"]) -> Bool[Tensor, "K E"]:
    position = torch.arange(count, device=offsets.device).unsqueeze(1)
    before_end = position < offsets
    return before_end & (position >= F.pad(offsets[:-1], (1, 0)))


def _compute_dtype(x: Tensor) -> torch.dtype:
    # grouped_mm takes no part in autocast: the cast nn.Linear gets for free is made here.
    kind = x.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x.dtype
