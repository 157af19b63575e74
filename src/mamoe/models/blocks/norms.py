"""Norms that answer in the format, and the layout in memory, they are given.

Autocast on a GPU computes norms in float32 and hands on float32, which the layer behind casts back: three copies of
every tensor forward and backward, a fifth of a training step. The kernels sum in float32 whatever they are given, so
what is lost is one rounding, which the next layer would have made. Their weights are cast instead.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mamoe.machine.kernels import runs_kernels
from mamoe.machine.replay import is_recording

_WIDEST = 4096  # numbers of a row that our kernel takes


class LayerNorm(nn.LayerNorm):
    def forward(self, input: Tensor) -> Tensor:
        if is_recording() and self._suits(input):
            from mamoe.models.blocks.layer_norm import layer_norm

            return layer_norm(input, self.weight, self.bias, self.eps)
        if not _would_be_widened(input):
            return super().forward(input)
        weight, bias = (None if one is None else one.to(input.dtype) for one in (self.weight, self.bias))
        return _as_given(input, lambda: F.layer_norm(input, self.normalized_shape, weight, bias, self.eps))

    def _suits(self, input: Tensor) -> bool:
        # It asks more orders of the host than torch's, which a recording does not wait for.
        plain = self.weight is not None and self.bias is not None and len(self.normalized_shape) == 1
        return plain and input.is_contiguous() and input.shape[-1] <= _WIDEST and runs_kernels(input)


class GroupNorm(nn.GroupNorm):
    def forward(self, input: Tensor) -> Tensor:
        if fuses(input) and self.affine:
            return self._fused(input, silu=False)
        if not _would_be_widened(input):
            return super().forward(input)
        weight, bias = (None if one is None else one.to(input.dtype) for one in (self.weight, self.bias))
        return _as_given(input, lambda: F.group_norm(input, self.num_groups, weight, bias, self.eps))

    def with_silu(self, input: Tensor) -> Tensor:
        """SiLU of the norm."""
        if fuses(input) and self.affine and _runs_bare(self):
            return self._fused(input, silu=True)
        return F.silu(self(input))

    def _fused(self, input: Tensor, *, silu: bool) -> Tensor:
        from mamoe.models.blocks.group_norm import group_norm

        return group_norm(input, self.num_groups, self.weight, self.bias, self.eps, silu=silu)


def keep_format(network: nn.Module) -> None:
    """Let every norm of ``network`` answer in the format it is given; weights and names stay."""
    for module in network.modules():
        if type(module) is nn.LayerNorm:
            module.__class__ = LayerNorm
        elif type(module) is nn.GroupNorm:
            module.__class__ = GroupNorm


def widens_norms(device: torch.device) -> bool:
    """Whether autocast is on that computes norms in float32."""
    # Autocast on a CPU leaves norms alone.
    return device.type == "cuda" and torch.is_autocast_enabled("cuda")


def _runs_bare(module: nn.Module) -> bool:
    """Whether nothing has to run before or after a layer's forward pass, as what fetches weights (offloading) does."""
    return not (module._forward_pre_hooks or module._forward_hooks or module._backward_hooks) and (
        not module._backward_pre_hooks and "forward" not in module.__dict__
    )


def fuses(x: Tensor) -> bool:
    """Whether group norms read ``x`` as it lies: on a GPU with channels last, which torch's own would copy."""
    if not x.is_cuda or x.is_contiguous() or x.dim() != 4:
        return False
    return x.is_contiguous(memory_format=torch.channels_last) and runs_kernels(x)


def _would_be_widened(x: Tensor) -> bool:
    return x.dtype in (torch.bfloat16, torch.float16) and widens_norms(x.device)


def _as_given(input: Tensor, compute: Callable[[], Tensor]) -> Tensor:
    """What is computed without autocast, in the format of the input."""
    kind = input.device.type
    if torch.compiler.is_compiling():  # which knows this way to say it
        with torch.autocast(kind, enabled=False):
            return compute()
    torch.set_autocast_enabled(kind, False)  # an eighth of the time that the line above takes
    try:
        return compute()
    finally:
        torch.set_autocast_enabled(kind, True)
