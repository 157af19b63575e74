"""Adam in its variants."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal

from torch.optim import Adam, AdamW, Optimizer

from mamoe.training.optim.groups import Parameters, as_groups, required


def make_adam(
    parameters: Parameters,
    *,
    name: Literal["adam", "adamw"] = "adamw",
    lr: float = 2e-5,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-8,
    weight_decay: float = 0.01,
) -> Optimizer:
    """Adam or AdamW; the fused kernels, which need no memory beyond the two moments and half the time on a CPU.

    Raises:
        ValueError: the name is neither.
    """
    kinds = {"adam": Adam, "adamw": AdamW}
    if name not in kinds:
        raise ValueError(f"The optimizer must be one of {', '.join(kinds)}; got {name!r}.")
    groups = as_groups(parameters)
    fused = fusible(groups) or None
    return kinds[name](groups, lr=lr, betas=(betas[0], betas[1]), eps=eps, weight_decay=weight_decay, fused=fused)


def make_adam8bit(
    parameters: Parameters,
    *,
    lr: float = 2e-5,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-8,
    weight_decay: float = 0.01,
) -> Optimizer:
    """AdamW with moments of 8 bits, 2 bytes per weight instead of 8 (Dettmers et al. 2022, arXiv 2110.02861).

    Weights of fewer than 4096 numbers keep moments of 32 bits.

    Raises:
        ConfigError: bitsandbytes is not installed.
    """
    bitsandbytes = required("bitsandbytes", "optimizer=adamw_8bit")
    return bitsandbytes.optim.AdamW8bit(
        as_groups(parameters), lr=lr, betas=(betas[0], betas[1]), eps=eps, weight_decay=weight_decay
    )


def make_schedule_free(
    parameters: Parameters,
    *,
    lr: float = 1e-4,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-8,
    weight_decay: float = 0.0,
) -> Optimizer:
    """Schedule-free AdamW, in training mode (Defazio et al. 2024, arXiv 2405.15682).

    Gradients are taken at y, between the iterate z and its average x; x is the model that was learned.

    Raises:
        ConfigError: schedulefree is not installed.
    """
    schedulefree = required("schedulefree", "optimizer=schedule_free")
    optimizer = schedulefree.AdamWScheduleFree(
        as_groups(parameters), lr=lr, betas=(betas[0], betas[1]), eps=eps, weight_decay=weight_decay
    )
    optimizer.train()
    return optimizer


def fusible(groups: Iterable[dict[str, Any]]) -> bool:
    """Whether one kernel can update every weight: all lie on one kind of device, and it has such kernels."""
    kinds = {p.device.type for group in groups for p in group["params"]}
    return len(kinds) == 1 and kinds <= {"cuda", "cpu"}
