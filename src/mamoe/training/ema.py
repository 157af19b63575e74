"""Exponential moving average of the weights.

Our own few lines instead of ``diffusers.training_utils.EMAModel``: that one keeps the average in the weights' type,
copies frozen weights too, and saves through a second model; here the average is float32, covers what is trained, and
is saved as it stands, so that a resumed run continues with the same bits.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class WeightAverage:
    """average <- d * average + (1 - d) * weights with d = min(decay, (1 + n) / (10 + n)) at the n-th update, n from 0.

    The warm-up keeps the random start from lingering in the average (it forgets as a mean over the run would).
    """

    def __init__(self, modules: Mapping[str, nn.Module], decay: float) -> None:
        if not 0.0 < decay < 1.0:
            raise ValueError(f"The EMA decay must lie in (0, 1), got {decay}. Set it to null for no EMA.")
        self.decay = decay
        self.updates = 0
        self._modules = dict(modules)
        self._weights = [p for _, _, p in self._trained()]
        self._average = [p.detach().float().clone() for p in self._weights]

    @torch.no_grad()
    def update(self) -> None:
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        torch._foreach_lerp_(self._average, [p.detach().float() for p in self._weights], 1 - decay)  # type: ignore[attr-defined]
        self.updates += 1

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """The modules work with the averaged weights inside the ``with``, and get their own back after it."""
        kept = [p.detach().clone() for p in self._weights]
        try:
            self._write(self._average)
            yield
        finally:
            self._write(kept)

    def state_dict(self, module: str) -> dict[str, Tensor]:
        """The averaged state dict of one module; what is not trained is the module's own."""
        state = self._modules[module].state_dict()
        for (owner, name, _), average in zip(self._trained(), self._average, strict=True):
            if owner == module:
                state[name] = average
        return state

    def load_state_dict(self, module: str, state: Mapping[str, Tensor]) -> None:
        for (owner, name, _), average in zip(self._trained(), self._average, strict=True):
            if owner == module:
                average.copy_(state[name])

    def _trained(self) -> list[tuple[str, str, nn.Parameter]]:
        return [
            (owner, name, parameter)
            for owner, module in self._modules.items()
            for name, parameter in module.named_parameters()
            if parameter.requires_grad
        ]

    @torch.no_grad()
    def _write(self, values: list[Tensor]) -> None:
        for parameter, value in zip(self._weights, values, strict=True):
            parameter.copy_(value)
