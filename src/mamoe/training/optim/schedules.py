"""Learning rates over the optimizer steps: a linear rise, then a curve to the end of the run."""

from __future__ import annotations

import math
from collections.abc import Callable

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR


def cosine_with_warmup(optimizer: Optimizer, *, total_steps: int, warmup_steps: int = 0) -> LambdaLR:
    """Linear rise over ``warmup_steps`` optimizer steps, then half a cosine down to 0 at ``total_steps``.

    A run shorter than its warm-up only rises.
    """
    return _with_warmup(optimizer, lambda progress: 0.5 * (1 + math.cos(math.pi * progress)), total_steps, warmup_steps)


def linear_with_warmup(optimizer: Optimizer, *, total_steps: int, warmup_steps: int = 0) -> LambdaLR:
    """Linear rise over ``warmup_steps`` optimizer steps, then a straight line down to 0 at ``total_steps``."""
    return _with_warmup(optimizer, lambda progress: 1 - progress, total_steps, warmup_steps)


def constant_with_warmup(optimizer: Optimizer, *, total_steps: int, warmup_steps: int = 0) -> LambdaLR:
    """Linear rise over ``warmup_steps`` optimizer steps, then the full rate."""
    return _with_warmup(optimizer, lambda progress: 1.0, total_steps, warmup_steps)


def _with_warmup(
    optimizer: Optimizer, curve: Callable[[float], float], total_steps: int, warmup_steps: int
) -> LambdaLR:
    """``curve`` gives the factor at a progress in [0, 1] from the end of the warm-up to the end of the run."""
    if warmup_steps < 0 or total_steps < 1:
        raise ValueError(f"Wanted warmup_steps >= 0 and total_steps >= 1, got {warmup_steps} and {total_steps}.")

    def factor(step: int) -> float:
        if step < warmup_steps:
            return (step + 1) / (warmup_steps + 1)
        return curve(min(1.0, (step - warmup_steps) / max(1, total_steps - warmup_steps)))

    return LambdaLR(optimizer, factor)
