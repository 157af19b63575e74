"""Mixture of feed-forward experts with a given routing: no learned router, no expert ever sees another's cells.

Cells are sorted by expert, every expert multiplies its own slice, and the results go back to their places. Hard
routing then costs what one dense feed-forward costs. Source: the MaMoE thesis, class-aware mixture of experts.

Shapes: B images · N cells of one level · E experts · K routed rows · C channels in · F channels out.
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise
from typing import Any, Self, cast

import torch
from diffusers.models.attention import FeedForward
from jaxtyping import Float, Int32, Int64
from torch import Tensor, nn

from mamoe.errors import ConfigError
from mamoe.models.experts.grouped import (
    Activation,
    Laid,
    grouped_experts,
    grouped_layers,
    laid_out,
    plain_weights,
)
from mamoe.vocabulary.conditioning import ExpertRouting


class RoutedFeedForward(nn.Module, ABC):
    """A feed-forward whose cells go to the expert of their class group.

    Attributes:
        net: the layers of the stock feed-forward, under its keys ``net.*``.
    """

    net: nn.ModuleList

    def __init__(self, dense: FeedForward) -> None:
        super().__init__()
        activation = Activation.of(dense.net[0])
        if activation is None:
            raise ConfigError(f"Experts need GEGLU or GELU feed-forwards, here is a {type(dense.net[0]).__name__}.")
        self.net, self.activation = dense.net, activation

    @property
    @abstractmethod
    def num_experts(self) -> int: ...

    @abstractmethod
    def forward(
        self, hidden_states: Float[Tensor, "B N C"], routing: ExpertRouting | None = None
    ) -> Float[Tensor, "B N C"]:
        """Send every cell through its experts; without a routing, through expert 0."""


class MoEFeedForward(RoutedFeedForward):
    """E copies of a feed-forward of two layers, each at work on the cells of its class group.

    Expert 0 keeps the stock keys ``net.*``, the others live under ``experts.{i}.net.*`` with i in [1, E): whoever
    reads only the stock keys gets the dense model of expert 0.

    Args:
        dense: the feed-forward every expert starts as. Its layers become expert 0.
        num_experts: E, at least 1.

    Raises:
        ConfigError: the feed-forward has neither GEGLU (Shazeer 2020) nor GELU between its layers.
    """

    def __init__(self, dense: FeedForward, num_experts: int) -> None:
        super().__init__(dense)
        self.experts = nn.ModuleDict({str(i): copy.deepcopy(dense) for i in range(1, num_experts)})
        self._laid: Laid | None = None

    @property
    def num_experts(self) -> int:
        return 1 + len(self.experts)

    @property
    def nets(self) -> list[nn.ModuleList]:
        """The layers of every expert, E of them."""
        own: Any = self._modules  # attributes of modules are found by a search that takes ten times as long
        return [own["net"], *[expert._modules["net"] for expert in own["experts"]._modules.values()]]

    def forward(
        self, hidden_states: Float[Tensor, "B N C"], routing: ExpertRouting | None = None
    ) -> Float[Tensor, "B N C"]:
        """Send every cell through its experts; without a routing, through expert 0."""
        if routing is None:
            return run_layers(self.net, hidden_states)
        nets, cells = self.nets, hidden_states.flatten(0, 1)
        laid = self._laid_out(cells, nets)
        weights = plain_weights(cells, nets) if laid is None else laid.weights
        if weights is not None and routing.weight is None and _knows_gradient(self.net):
            return grouped_experts(cells, weights, laid, self.activation, routing).view_as(hidden_states)
        rows = taken(cells, routing)
        if weights is not None:
            rows = run_layers(self.net[3:], grouped_layers(rows, weights, self.activation, self.net[1], routing))
        else:
            rows = run_experts(nets, rows, routing)
        return put_back(rows, routing, len(cells)).view_as(hidden_states)

    def prepare(self) -> None:
        """Lay out the weights, which have come to the GPU they stay on, for its products."""
        own = cast(nn.Linear, self.net[2]).weight
        if self._laid_out(own, self.nets) is None:
            self._laid = laid_out(own, self.nets)

    def _laid_out(self, rows: Tensor, nets: Sequence[nn.ModuleList]) -> Laid | None:
        if torch.compiler.is_compiling():  # which stacks weights in its own way
            return None
        if self._laid is not None and not self._laid.suits(rows, nets):
            self._laid = None  # they went elsewhere, and what they left is not kept for them
        return self._laid

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        self._laid = None  # another device, or another type
        return super()._apply(fn, recurse)

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "_laid": None}  # a copy's weights lie elsewhere


def dense_of(layers: nn.ModuleList) -> FeedForward:
    """The stock feed-forward that has these layers."""
    dense = FeedForward(1, activation_fn="geglu")  # a place for the layers, its own are dropped
    dense.net = layers
    return dense


class SharedExpertFeedForward(MoEFeedForward):
    """The pretrained feed-forward at work on every cell, and beside it one expert for each class group but the rest.

    Shared experts: Dai et al. 2024 (DeepSeekMoE, arXiv 2401.06066), section 3.2. The class experts are copies of the
    pretrained feed-forward with an output layer of zeros, so that nothing changes at first. Cells of group 0 (the rest)
    go through the shared one alone. Keys are those of :class:`MoEFeedForward`, ``net.*`` being the shared one.
    """

    def __init__(self, dense: FeedForward, num_experts: int) -> None:
        super().__init__(dense, num_experts)
        self._add_nothing()

    @classmethod
    def of(cls, experts: MoEFeedForward) -> Self:
        """A layer that takes over experts which are still copies of one feed-forward, and computes what they do."""
        shared = cls(dense_of(experts.net), 1)
        shared.experts = experts.experts
        shared._add_nothing()
        return shared.train(experts.training)

    def prepare(self) -> None:
        """Nothing is laid out: products take expert 1 twice, see :meth:`_added`, and a memory would have it once."""

    def _add_nothing(self) -> None:
        for net in self.nets[1:]:
            for parameter in net[2].parameters():
                nn.init.zeros_(parameter)

    def forward(
        self, hidden_states: Float[Tensor, "B N C"], routing: ExpertRouting | None = None
    ) -> Float[Tensor, "B N C"]:
        """The shared feed-forward, plus what the expert of each cell adds; without a routing nothing is added."""
        shared = run_layers(self.net, hidden_states)
        if routing is None:
            return shared
        cells = hidden_states.flatten(0, 1)
        rows = self._added(taken(cells, routing), routing)
        return shared + put_back(rows, routing, len(cells)).view_as(shared)

    def _added(self, rows: Float[Tensor, "K C"], routing: ExpertRouting) -> Float[Tensor, "K C"]:
        nets = self.nets[1:]
        # The rest group has to be somebody's: what expert 1 makes of it is taken away again. No wait for the host.
        weights = plain_weights(rows, [nets[0], *nets])
        if weights is not None:
            added = run_layers(nets[0][3:], grouped_layers(rows, weights, self.activation, nets[0][1], routing))
            return added.masked_fill(routing.member[:, :1].bool(), 0)
        rest, *slices = slices_of(rows, routing.offsets)
        added = [run_layers(net, own) for net, own in zip(nets, slices, strict=True)]
        return torch.cat([added[0].new_zeros(rest.shape), *added])


def prepare_experts(network: nn.Module) -> None:
    """Lay out the weights of all experts in ``network``, which have come to the GPU they stay on, for its products."""
    for layer in network.modules():
        if isinstance(layer, MoEFeedForward):
            layer.prepare()


def run_experts(
    nets: Sequence[nn.ModuleList], rows: Float[Tensor, "K C"], routing: ExpertRouting
) -> Float[Tensor, "K C"]:
    """Every expert's layers on its own slice of the sorted rows, one after another."""
    # An expert without cells still runs, on an empty slice: its gradients are zero, not missing.
    slices = slices_of(rows, routing.offsets)
    return torch.cat([run_layers(net, own) for net, own in zip(nets, slices, strict=True)])


def slices_of(rows: Float[Tensor, "K C"], offsets: Int32[Tensor, "E"]) -> tuple[Float[Tensor, "_ C"], ...]:
    """The rows of each expert. Reads the offsets on the host."""
    return rows.split([end - start for start, end in pairwise([0, *offsets.tolist()])])


def taken(cells: Float[Tensor, "M C"], routing: ExpertRouting) -> Float[Tensor, "K C"]:
    """The rows of all cells, sorted by expert."""
    if routing.back is None:
        return cells.index_select(0, routing.token)
    return _reordered(cells, routing.token, routing.back)


def put_back(rows: Float[Tensor, "K C"], routing: ExpertRouting, count: int) -> Float[Tensor, "M C"]:
    """The rows at the places of their cells, those of one cell blended by weight; ``count`` = M cells in all."""
    if routing.weight is None:
        assert routing.back is not None, "hard routing knows the way back"
        # Reading through the inverse permutation keeps nothing for the backward pass; writing (index_copy) keeps rows.
        return _reordered(rows, routing.back, routing.token)
    weighted = rows * routing.weight.to(rows.dtype).unsqueeze(1)
    return rows.new_zeros((count, rows.shape[1])).index_add(0, routing.token, weighted)


def run_layers(layers: Iterable[nn.Module], x: Tensor) -> Tensor:
    """``x`` through the layers, one after another."""
    for layer in layers:
        x = layer(x)
    return x


def _knows_gradient(layers: nn.ModuleList) -> bool:
    """Whether the backward pass that is written out holds: torch's compiler writes its own, and nothing is dropped."""
    idle = all(not layer.training or layer.p == 0 for layer in layers if isinstance(layer, nn.Dropout))
    return idle and not torch.compiler.is_compiling()


def _reordered(x: Float[Tensor, "M C"], order: Int64[Tensor, "M"], inverse: Int64[Tensor, "M"]) -> Float[Tensor, "M C"]:
    if torch.compiler.is_compiling():  # which finds a way of its own
        return x.index_select(0, order)
    return _Reordered.apply(x, order, inverse)  # type: ignore[no-any-return]


class _Reordered(torch.autograd.Function):
    """Rows in another order. Their gradient is read in the inverse one, where torch would add it up row by row."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, order: Tensor, inverse: Tensor) -> Tensor:
        ctx.save_for_backward(inverse)
        return x.index_select(0, order)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:  # type: ignore[override]
        (inverse,) = ctx.saved_tensors
        return grad.index_select(0, inverse), None, None
