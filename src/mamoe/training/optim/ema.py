"""Averages of the weights, which sample and are scored better than the weights themselves.

Our own few lines instead of ``diffusers.training_utils.EMAModel``: that one keeps the average in the weights' type,
copies frozen weights too, and saves through a second model; here the average is float32, covers what is trained, and
is saved as it stands, so that a resumed run continues with the same bits.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from mamoe.runs.dealt import part_of


class AveragedWeights(ABC):
    """An average beside the trained weights of ``modules``."""

    updates = 0

    def __init__(self, modules: Mapping[str, nn.Module]) -> None:
        self._modules = dict(modules)
        self._weights = [p for _, _, p in self._trained()]

    @abstractmethod
    def values(self) -> list[Tensor]:
        """The average of every trained weight, float32."""

    @abstractmethod
    def update(self) -> None:
        """Follow the weights; called after every optimizer step."""

    @abstractmethod
    def load_state_dict(self, module: str, state: Mapping[str, Tensor]) -> None:
        """Continue from what :meth:`state_dict` gave."""

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """The modules work with the averaged weights inside the ``with``, and get their own back after it."""
        kept = [p.detach().clone() for p in self._weights]
        try:
            self._write(self.values())
            yield
        finally:
            self._write(kept)

    def state_dict(self, module: str) -> dict[str, Tensor]:
        """The averaged state dict of one module; what is not trained is the module's own."""
        state = self._modules[module].state_dict()
        for (owner, name, _), average in zip(self._trained(), self.values(), strict=True):
            if owner == module:
                state[name] = average
        return state

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


class WeightAverage(AveragedWeights):
    """average <- d * average + (1 - d) * weights with d = min(decay, (1 + n) / (10 + n)) at the n-th update, n from 0.

    The warm-up keeps the random start from lingering in the average (it forgets as a mean over the run would).
    """

    def __init__(self, modules: Mapping[str, nn.Module], decay: float) -> None:
        if not 0.0 < decay < 1.0:
            raise ValueError(f"The EMA decay must lie in (0, 1), got {decay}. Set it to null for no EMA.")
        super().__init__(modules)
        self.decay = decay
        self._average = [p.detach().float().clone() for p in self._weights]
        self._in_float32 = all(p.dtype == torch.float32 for p in self._weights)

    def values(self) -> list[Tensor]:
        return self._average

    @torch.no_grad()
    def update(self) -> None:
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        weights = self._weights if self._in_float32 else [p.float() for p in self._weights]
        torch._foreach_lerp_(self._average, weights, 1 - decay)  # type: ignore[attr-defined]
        self.updates += 1

    def load_state_dict(self, module: str, state: Mapping[str, Tensor]) -> None:
        for (owner, name, _), average in zip(self._trained(), self._average, strict=True):
            if owner == module:
                average.copy_(part_of(state[name], average))


class ScheduleFreeAverage(AveragedWeights):
    """The average x that a schedule-free optimizer keeps: it follows from the weights y and the optimizer's iterate z.

    y = (1 - beta1) z + beta1 x (Defazio et al. 2024, arXiv 2405.15682, eq. 1), hence x = y + (1 - 1/beta1) (z - y).
    """

    def __init__(self, modules: Mapping[str, nn.Module], optimizer: Optimizer) -> None:
        super().__init__(modules)
        self._optimizer = optimizer

    @torch.no_grad()
    def values(self) -> list[Tensor]:
        beta1 = {p: group["betas"][0] for group in self._optimizer.param_groups for p in group["params"]}
        return [self._x(p, beta1[p]) for p in self._weights]

    def _x(self, weight: nn.Parameter, beta1: float) -> Tensor:
        state = self._optimizer.state.get(weight, {})
        y = weight.detach().float()
        return y.lerp(state["z"].float(), 1 - 1 / beta1) if "z" in state else y.clone()

    def update(self) -> None:
        """The optimizer has done it."""

    def load_state_dict(self, module: str, state: Mapping[str, Tensor]) -> None:
        """Weights and optimizer say everything."""


def is_schedule_free(optimizer: Optimizer) -> bool:
    """Whether an optimizer takes gradients at one point and learns another, as those of schedulefree do."""
    return all("train_mode" in group for group in optimizer.param_groups)
