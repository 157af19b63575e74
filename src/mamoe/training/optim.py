"""Optimizers and learning-rate schedules from plain settings."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Literal

from torch import nn
from torch.optim import Adam, AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR


def make_adam(
    parameters: Iterable[nn.Parameter],
    *,
    name: Literal["adam", "adamw"] = "adamw",
    lr: float = 2e-5,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-8,
    weight_decay: float = 0.01,
) -> Optimizer:
    """Adam or AdamW; the fused kernels on CUDA, which need no memory beyond the two moments.

    Raises:
        ValueError: the name is neither.
    """
    kinds = {"adam": Adam, "adamw": AdamW}
    if name not in kinds:
        raise ValueError(f"The optimizer must be one of {', '.join(kinds)}; got {name!r}.")
    parameters = list(parameters)
    fused = all(p.is_cuda for p in parameters)
    return kinds[name](parameters, lr=lr, betas=betas, eps=eps, weight_decay=weight_decay, fused=fused or None)


def cosine_with_warmup(optimizer: Optimizer, *, total_steps: int, warmup_steps: int = 0) -> LambdaLR:
    """Linear rise over ``warmup_steps`` optimizer steps, then half a cosine down to 0 at ``total_steps``.

    A run shorter than its warm-up only rises.
    """
    if warmup_steps < 0 or total_steps < 1:
        raise ValueError(f"Wanted warmup_steps >= 0 and total_steps >= 1, got {warmup_steps} and {total_steps}.")

    def factor(step: int) -> float:
        if step < warmup_steps:
            return (step + 1) / (warmup_steps + 1)
        progress = min(1.0, (step - warmup_steps) / max(1, total_steps - warmup_steps))
        return 0.5 * (1 + math.cos(math.pi * progress))

    return LambdaLR(optimizer, factor)
