"""All experts of a routed layer in two grouped products, with the backward pass written out.

    rows = cells[token]
    h    = rows W1_e + b1_e
    a    = value(h) * gelu(gate(h)), or gelu(h)         see Activation
    out  = (a W2_e + b2_e)[back]

Every product works on all slices at once, so no host needs to know where they end. Written out, the two permutations
are read both ways, where the gradient of a gather would be a scatter with atomic sums; the activation is computed again
instead of kept; and the host starts some thirty kernels instead of a hundred.

Shapes: M = B*N cells, K = M rows · E experts · C channels in and out · F channels inside, G behind the activation.
"""

from __future__ import annotations

import operator
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
import torch.nn.functional as F
from diffusers.models.activations import GEGLU, GELU
from jaxtyping import Float
from torch import Tensor, nn

from mamoe.machine.kernels import runs_kernels
from mamoe.machine.replay import is_recording
from mamoe.models.experts.stacking import lay_end_to_end, stacked, whole
from mamoe.vocabulary.conditioning import ExpertRouting, rounded_up


@dataclass(frozen=True, slots=True)
class Activation:
    """What lies between the two layers of a feed-forward."""

    gated: bool  # h is twice as wide: a value and its gate
    approximate: str  # of gelu, as torch names it: "none" or "tanh"

    @classmethod
    def of(cls, first: nn.Module) -> Activation | None:
        """That of a stock feed-forward's first layer; None: of a kind that has no place here."""
        if isinstance(first, GEGLU):
            return cls(gated=True, approximate="none")
        return cls(gated=False, approximate=first.approximate) if isinstance(first, GELU) else None

    def __call__(self, hidden: Float[Tensor, "*M F"]) -> Float[Tensor, "*M G"]:
        if not self.gated:
            return F.gelu(hidden, approximate=self.approximate)
        value, gate = hidden.chunk(2, dim=-1)
        return value * F.gelu(gate, approximate=self.approximate)

    def alone(self, hidden: Float[Tensor, "K F"]) -> Float[Tensor, "K G"]:
        """The activation where torch takes no gradients."""
        if not (self.gated and runs_kernels(hidden)):
            return self(hidden)
        from mamoe.models.experts.gated import geglu

        return geglu(hidden)

    def backward(self, hidden: Float[Tensor, "K F"], inner: Float[Tensor, "K G"]) -> tuple[Tensor, Tensor]:
        """The activation [K G] again, and from its gradient ``inner``, which is used up, that of ``hidden``."""
        if self.gated and runs_kernels(hidden):
            from mamoe.models.experts.gated import geglu_backward

            return geglu_backward(hidden, inner)
        if not self.gated:
            grad = torch.ops.aten.gelu_backward(inner, hidden, approximate=self.approximate)
            return F.gelu(hidden, approximate=self.approximate), grad
        value, gate = hidden.chunk(2, dim=-1)
        gelu = F.gelu(gate, approximate=self.approximate)
        grad = torch.empty_like(hidden)
        value_grad, gate_grad = grad.chunk(2, dim=-1)
        torch.mul(inner, gelu, out=value_grad)
        torch.ops.aten.gelu_backward.grad_input(
            inner.mul_(value), gate, approximate=self.approximate, grad_input=gate_grad
        )
        return gelu.mul_(value), grad


def compute_dtype(x: Tensor) -> torch.dtype:
    """The type in which a product with ``x`` is to be computed."""
    # grouped_mm takes no part in autocast: the cast nn.Linear gets for free is made here.
    kind = x.device.type
    on = not x.is_meta and torch.is_autocast_enabled(kind)  # which does not know of tensors without memory
    return torch.get_autocast_dtype(kind) if on else x.dtype


def grouped_suits(rows: Tensor) -> bool:
    """Whether to multiply all experts' slices at once rather than in turn."""
    return rows.is_cuda or torch.compiler.is_compiling()


def plain_weights(rows: Tensor, nets: Sequence[nn.ModuleList]) -> tuple[list[Tensor], ...] | None:
    """W1 [F C], b1 [F], W2 [C G] and b2 [C] of every expert, if grouped products suit; else None.

    A loop over slices reads the slice ends on the host: free on a CPU, a wait on a GPU, a graph break when compiled.
    The grouped way reads the weights directly, so it must not bypass adapters wrapped around a projection, nor the
    hooks that fetch weights which are kept elsewhere (offloading).
    """
    if not grouped_suits(rows):
        return None
    weights: tuple[list[Tensor], ...] = ([], [], [], [])
    device = rows.device
    for net in nets:
        # Asked of every expert in every call. Attributes of modules are found by a search that takes ten times as long.
        first, _, narrow, *_ = net._modules.values()
        wide = cast(nn.Module, first)._modules["proj"]
        if type(wide) is not nn.Linear or type(narrow) is not nn.Linear:
            return None
        for linear, own in ((wide._parameters, weights[:2]), (narrow._parameters, weights[2:])):
            weight, bias = linear.get("weight"), linear.get("bias")  # which pruning, say, keeps elsewhere
            if weight is None or bias is None or weight.device != device:
                return None
            own[0].append(weight)
            own[1].append(bias)
    return weights


def grouped_layers(
    rows: Float[Tensor, "K C"],
    weights: Sequence[Sequence[Tensor]],
    activation: Activation,
    dropout: nn.Module,
    routing: ExpertRouting,
) -> Float[Tensor, "K C"]:
    """Sorted rows through the layers of their experts; any routing, any dropout, gradients by torch."""
    dtype = compute_dtype(rows)
    _check_recordable(rows, dtype)
    wide, wide_bias, narrow, narrow_bias = (stacked(parts, dtype) for parts in weights)
    member = routing.member.to(dtype)
    # A bias is added by a product, because its gradient is a product then too; that of a gather is a slow scatter.
    hidden = F.grouped_mm(rows.to(dtype), wide.mT, offs=routing.offsets)
    hidden = hidden.addmm_(member, _for_members(wide_bias, member))
    activated = dropout(activation(hidden))
    out = F.grouped_mm(activated, narrow.mT, offs=routing.offsets)
    return out.addmm_(member, _for_members(narrow_bias, member))


def grouped_experts(
    cells: Float[Tensor, "M C"],
    weights: Sequence[Sequence[Tensor]],
    laid: Laid | None,
    activation: Activation,
    routing: ExpertRouting,
) -> Float[Tensor, "M C"]:
    """Every cell through its one expert: hard routing, no dropout.

    Args:
        cells: what is computed.
        weights: from :func:`plain_weights`.
        laid: where those lie, from :func:`laid_out`; None: anywhere.
        activation: between the layers.
        routing: of the cells.
    """
    given = (cells, compute_dtype(cells), activation, routing, laid)
    if not torch.is_grad_enabled():
        return _computed(*given, weights)[0]
    return _Experts.apply(*given, *(one for parts in weights for one in parts))  # type: ignore[no-any-return]


@dataclass(frozen=True, slots=True, eq=False)
class Laid:
    """Experts' weights in memories that products take as they are.

    Whether they are still there, and nothing was put in their place, is asked in every call: in few words.
    """

    weights: tuple[list[Tensor], ...]  # from plain_weights
    memories: tuple[Tensor, ...]  # theirs, with rows of zeros behind the biases
    layers: list[Any]  # whose they are
    own: list[Tensor]  # weight and bias of each layer
    places: tuple[int, ...]  # of these in memory

    def suits(self, rows: Tensor, nets: Sequence[nn.ModuleList]) -> bool:
        """Whether they are the weights of these experts, and where these rows are."""
        if rows.device != self.memories[0].device:  # weights kept elsewhere are fetched by hooks, layer by layer
            return False
        layers = _layers(nets)
        if not _same(layers, self.layers):
            return False
        now = _own(layers)
        return _same(now, self.own) and self.places == tuple([weight.data_ptr() for weight in now])


def _layers(nets: Sequence[Any]) -> list[Any]:
    """What every expert has now in the places of its two linear layers."""
    each = [net._modules for net in nets]
    return [layer for own in each for layer in (own["0"]._modules.get("proj"), own["2"])]


def _own(layers: Sequence[Any]) -> list[Tensor]:
    """Weight and bias of each layer."""
    return [weight for layer in layers for weight in layer._parameters.values() if weight is not None]


def _same(now: Sequence[object], then: Sequence[object]) -> bool:
    return len(now) == len(then) and all(map(operator.is_, now, then))


def laid_out(rows: Tensor, nets: Sequence[nn.ModuleList]) -> Laid | None:
    """Experts' weights laid out as products take them; None: they cannot be."""
    weights = plain_weights(rows, nets)
    if weights is None:
        return None
    rows_of = (None, rounded_up(len(nets))) * 2
    memories = [lay_end_to_end(parts, rows) for parts, rows in zip(weights, rows_of, strict=True)]
    there = tuple(memory for memory in memories if memory is not None)
    if len(there) < len(memories):
        return None
    layers = _layers(nets)
    own = _own(layers)
    places = tuple(weight.data_ptr() for weight in own)
    return Laid(weights=weights, memories=there, layers=layers, own=own, places=places)


def _check_recordable(rows: Tensor, dtype: torch.dtype) -> None:
    if dtype != torch.bfloat16 and rows.is_cuda and is_recording():
        raise RuntimeError("torch's grouped products wait for the host in other formats than bfloat16")


def _for_members(bias_EF: Float[Tensor, "E F"], member: Float[Tensor, "K E8"]) -> Float[Tensor, "E8 F"]:
    """A row for each column of the membership matrix, which has whole 16 bytes: products of 5 experts are slower."""
    return F.pad(bias_EF, (0, 0, 0, member.shape[1] - len(bias_EF)))


def _computed(
    cells: Tensor,
    dtype: torch.dtype,
    activation: Activation,
    routing: ExpertRouting,
    laid: Laid | None,
    weights: Sequence[Sequence[Tensor]],
) -> tuple[Tensor, ...]:
    """The result, and what the backward pass needs."""
    _check_recordable(cells, dtype)
    member = routing.member.to(dtype)
    if laid is None:
        rows_of = (None, member.shape[1]) * 2
        wholes = [whole(parts, dtype, rows) for parts, rows in zip(weights, rows_of, strict=True)]
    else:
        wholes = [memory.to(dtype) for memory in laid.memories]
    wide, wide_bias, narrow, narrow_bias = wholes
    rows = cells.to(dtype).index_select(0, routing.token)
    hidden = F.grouped_mm(rows, wide.mT, offs=routing.offsets)
    hidden.addmm_(member, wide_bias)
    out = F.grouped_mm(activation.alone(hidden), narrow.mT, offs=routing.offsets)
    out.addmm_(member, narrow_bias)
    assert routing.back is not None, "hard routing knows the way back"
    return out.index_select(0, routing.back), rows, hidden, wide, narrow, member


class _Experts(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        cells: Tensor,
        dtype: torch.dtype,
        activation: Activation,
        routing: ExpertRouting,
        laid: Laid | None,
        *weights: Tensor,
    ) -> Tensor:
        count = len(weights) // 4
        parts = [weights[i * count : (i + 1) * count] for i in range(4)]
        out, *kept = _computed(cells, dtype, activation, routing, laid, parts)
        ctx.save_for_backward(*kept)
        ctx.activation, ctx.routing, ctx.dtypes = activation, routing, (cells.dtype, weights[0].dtype)
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        rows, hidden, wide, narrow, member = ctx.saved_tensors
        routing, (cells_dtype, weights_dtype), wanted = ctx.routing, ctx.dtypes, ctx.needs_input_grad
        offsets = routing.offsets
        out_grad = grad.to(rows.dtype).index_select(0, routing.token)
        activated, hidden_grad = ctx.activation.backward(hidden, F.grouped_mm(out_grad, narrow, offs=offsets))
        cells_grad = None
        if wanted[0]:
            cells_grad = F.grouped_mm(hidden_grad, wide, offs=offsets).index_select(0, routing.back).to(cells_dtype)
        if not any(wanted[5:]):
            return cells_grad, *[None] * (len(wanted) - 1)
        members, count = member.t(), wide.shape[0]
        grads = (
            F.grouped_mm(hidden_grad.t(), rows, offs=offsets),
            members @ hidden_grad,
            F.grouped_mm(out_grad.t(), activated, offs=offsets),
            members @ out_grad,
        )
        each = (one for every in grads for one in every.to(weights_dtype).unbind(0)[:count])
        return cells_grad, None, None, None, None, *each
