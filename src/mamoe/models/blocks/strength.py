"""How strongly a cell is held to its own regions' text, learned per head as a function of the noise level.

Shapes: B images · F features of the noise level.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn

FEATURES = 4  # a constant and three cosines: enough to bend over the noise levels, too few to fit single ones
LAST_TIMESTEP = 1000.0  # of Stable Diffusion's schedules; only the unit in which the cosines are counted


class RegionStrength(nn.Module):
    """Strength of region attention for every head: ``1 - tanh(features(t) · weight)``, in (0, 2).

    1 is hard region attention, 0 attention over all text of the picture; above 1 a head is pushed away from what the
    open attention would add, as guidance does. Zero weights give exactly 1. Around zero tanh has slope 1, so the
    weights learn from the first step on: a zero-initialised gate (Alayrac et al., "Flamingo", 2022).

    Args:
        heads: of the attention layer.
    """

    def __init__(self, heads: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(FEATURES, heads))

    def forward(self, timestep: Float[Tensor, "B"]) -> Float[Tensor, "B heads"]:
        # A sum instead of a matrix product: autocast would round that to bfloat16.
        return 1.0 - torch.tanh((noise_features(timestep).unsqueeze(2) * self.weight).sum(dim=1))


def noise_features(timestep: Float[Tensor, "B"]) -> Float[Tensor, "B F"]:
    """``cos(k π t / 1000)`` for k = 0..3, in [-1, 1]; k = 0 is the constant 1."""
    order = torch.arange(FEATURES, device=timestep.device, dtype=torch.float32)
    return torch.cos(order * (math.pi / LAST_TIMESTEP) * timestep.float().unsqueeze(1))
