"""The small weights of a network, cast for autocast by one kernel instead of one for each.

A norm's weights and every layer's bias are a few hundred numbers, and there are four hundred of them in a UNet. To cast
them one by one, forward and backward, takes the host a fifteenth of a training step. Large weights are left to
autocast: their casts, and the gradients of these, would all lie in memory at once.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.distributed.tensor import DTensor

from mamoe.models.blocks.norms import GroupNorm, LayerNorm, widens_norms

_SMALL = {nn.Linear: ("bias",), nn.Conv2d: ("bias",), LayerNorm: ("weight", "bias"), GroupNorm: ("weight", "bias")}
_ALIGNED = 8  # each begins at a multiple of so many numbers: kernels are slower where less than 16 bytes are certain
Place = tuple[dict[str, Any], str]  # the parameters of a layer, and the name of one


def holders(network: nn.Module, but: type[nn.Module]) -> list[nn.Module]:
    """What holds layers with small weights, inside ``network`` and outside of modules of the class ``but``.

    Layers may be replaced, adapted or quantised later; those who hold them stay.
    """
    others = {id(inner) for module in network.modules() if isinstance(module, but) for inner in module.modules()}
    return [
        module
        for module in network.modules()
        if module is not network
        and id(module) not in others
        and any(type(layer) in _SMALL for layer in module._modules.values())
    ]


def cast_small_weights(
    found: Callable[[], Sequence[nn.Module]], device: torch.device
) -> contextlib.AbstractContextManager[None]:
    """Within, small weights are in autocast's type, if it is on; ``found`` tells the :func:`holders` of their layers.

    What runs again later (gradient checkpointing) finds its own and casts them to the same values. So do layers that
    are compiled, and those of several processes, which send gradients round as they come: these come together, last.
    """
    if torch.compiler.is_compiling() or not widens_norms(device):
        return contextlib.nullcontext()
    within = found()
    compiled = any(module._compiled_call_impl is not None for module in within)
    alone = not (torch.distributed.is_available() and torch.distributed.is_initialized())
    dtype = torch.get_autocast_dtype(device.type)
    # Those that are in autocast's type already (frozen biases) need nothing.
    places = [(held, name) for module in within for held, name in _places(module) if held[name].dtype != dtype]
    weights = [parameters[name] for parameters, name in places]
    alike = {(weight.device, weight.dtype) for weight in weights} == {(device, torch.float32)}
    if compiled or not alone or not alike or any(isinstance(weight, DTensor) for weight in weights):
        return contextlib.nullcontext()
    return _replaced(places, weights, dtype)


def _places(module: nn.Module) -> Iterator[Place]:
    for layer in module._modules.values():
        for name in _SMALL.get(type(layer), ()):  # type: ignore[arg-type]
            # Pruning, and sharding by flat parameters, keep a weight elsewhere.
            if layer is not None and layer._parameters.get(name) is not None:
                yield layer._parameters, name


@contextlib.contextmanager
def _replaced(places: Sequence[Place], weights: Sequence[Tensor], dtype: torch.dtype) -> Iterator[None]:
    casts = _Cast.apply(dtype, *weights)
    try:
        for (parameters, name), cast in zip(places, casts, strict=True):  # type: ignore[arg-type]
            parameters[name] = cast
        yield
    finally:
        for (parameters, name), weight in zip(places, weights, strict=True):
            parameters[name] = weight


class _Cast(torch.autograd.Function):
    """Tensors of one axis, cast into one memory; so are their gradients."""

    @staticmethod
    def forward(ctx: Any, dtype: torch.dtype, *parts: Tensor) -> tuple[Tensor, ...]:
        ctx.dtype = parts[0].dtype
        ctx.set_materialize_grads(False)
        made = _together(parts, dtype)
        # A cast weight that is frozen must not ask for gradients: nothing in front of the first trained one keeps any.
        ctx.mark_non_differentiable(*(one for one, part in zip(made, parts, strict=True) if not part.requires_grad))
        return made

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        there = iter(_together([grad for grad in grads if grad is not None], ctx.dtype))
        return None, *(None if grad is None else next(there) for grad in grads)


def _together(parts: Sequence[Tensor], dtype: torch.dtype) -> tuple[Tensor, ...]:
    if not parts:
        return ()
    sizes = [size for part in parts for size in (part.numel(), -part.numel() % _ALIGNED) if size]
    pieces = iter(parts[0].new_empty(sum(sizes), dtype=dtype).split(sizes))
    made = []
    for part in parts:
        made.append(next(pieces))
        if part.numel() % _ALIGNED:
            next(pieces)
    torch._foreach_copy_(made, list(parts))
    return tuple(made)
