"""Muon for the matrices of a network, AdamW for everything else, as one optimizer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.optim import AdamW, Optimizer

from mamoe.errors import ConfigError
from mamoe.training.optim.adam import fusible
from mamoe.training.optim.groups import Parameters, as_groups


def make_muon(
    parameters: Parameters,
    *,
    lr: float = 2e-5,
    momentum: float = 0.95,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-8,
    weight_decay: float = 0.01,
) -> Optimizer:
    """Muon (Jordan et al. 2024) where a weight is a matrix, AdamW for convolutions, biases, norms and look-up tables.

    A matrix's update is scaled to the size AdamW's would have (Liu et al. 2025, arXiv 2502.16982, section 2.2), so
    that one learning rate and one weight decay fit both.

    Raises:
        ConfigError: this torch has no Muon.
    """
    if not hasattr(torch.optim, "Muon"):
        raise ConfigError(f"optimizer=muon needs torch 2.9 or newer, this is {torch.__version__}. Choose adamw.")
    groups = []
    for group in as_groups(parameters):
        tables = group.get("tables", False)
        matrices = [p for p in group["params"] if p.ndim == 2 and not tables]
        others = [p for p in group["params"] if p.ndim != 2 or tables]
        groups += [{**group, "params": matrices, "muon": True}] if matrices else []
        groups += [{**group, "params": others, "muon": False}] if others else []
    return MuonAndAdamW(
        groups, lr=lr, momentum=momentum, betas=(betas[0], betas[1]), eps=eps, weight_decay=weight_decay
    )


class MuonAndAdamW(Optimizer):
    """One list of groups and one state for both, so that it is scheduled, saved and resumed like any other.

    Args:
        groups: torch's parameter groups; ``muon`` says whose they are.
        lr, weight_decay: of both.
        momentum: of Muon.
        betas, eps: of AdamW.
    """

    def __init__(
        self,
        groups: list[dict[str, Any]],
        *,
        lr: float,
        momentum: float,
        betas: tuple[float, float],
        eps: float,
        weight_decay: float,
    ) -> None:
        matrices = [group for group in groups if group["muon"]]
        others = [group for group in groups if not group["muon"]]
        # Each optimizer completes its own groups with its own settings; both then read the lists held here.
        self._parts: dict[bool, Optimizer] = {}
        if matrices:
            self._parts[True] = torch.optim.Muon(
                matrices, lr=lr, weight_decay=weight_decay, momentum=momentum, adjust_lr_fn="match_rms_adamw"
            )
        if others:
            fused = fusible(others) or None
            self._parts[False] = AdamW(others, lr=lr, weight_decay=weight_decay, betas=betas, eps=eps, fused=fused)
        super().__init__([g for part in self._parts.values() for g in part.param_groups], {"lr": lr})
        self._share()

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._share()

    def _share(self) -> None:
        for kind, part in self._parts.items():
            part.param_groups = [group for group in self.param_groups if group["muon"] is kind]
            part.state = self.state

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for part in self._parts.values():
            part.step()
        return loss
