"""Clipping by the global norm of the gradients, where the host has a thousand of them to go through in every step."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn


@torch.no_grad()
def global_norm(gradients: list[Tensor]) -> Float[Tensor, ""]:
    """The norm of all ``gradients``, of one type on one device, as one vector; 0 of none.

    The bits of ``nn.utils.get_total_norm``, which sorts the gradients and asks where each one's norm lies.
    """
    if set(map(type, gradients)) != {Tensor}:  # none, or parts of whole ones
        return nn.utils.get_total_norm(gradients)
    return torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradients)))  # type: ignore[attr-defined]


def divisor(norm: Float[Tensor, ""], most: float) -> Float[Tensor, ""]:
    """What gradients of this norm are divided by to have ``most`` at most; at least 1. Without a wait for the device.

    What ``nn.utils.clip_grads_with_norm_`` multiplies by is one over this, so that results agree to rounding.
    """
    return ((norm + 1e-6) / most).clamp(min=1.0)
