"""Which weights learn at which rate, and what an optimizer is made from."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from enum import StrEnum
from typing import Any

from torch import nn
from torch.optim import Optimizer

from mamoe.machine import optional

Parameters = Iterable[nn.Parameter] | Iterable[dict[str, Any]]  # weights, or torch's parameter groups

# Optional packages by our own functions that need them.
NEEDS = {
    "mamoe.training.optim.make_adam8bit": ("bitsandbytes", "optimizer=adamw_8bit"),
    "mamoe.training.optim.make_schedule_free": ("schedulefree", "optimizer=schedule_free"),
}


class Part(StrEnum):
    """Parts of a network that may learn at rates of their own."""

    EXPERTS = "experts"  # feed-forwards of the UNet's transformer blocks, with or without experts
    ATTENTION = "attention"  # their self- and cross-attention
    REST = "rest"


_EXPERTS = {"ff", "experts", "proj_mlp"}
_ATTENTION = {"attn1", "attn2", "attn"}


def part_of(name: str) -> Part:
    """The part a weight of this name belongs to."""
    pieces = name.split(".")
    if "transformer_blocks" in pieces or "single_transformer_blocks" in pieces:
        if not _EXPERTS.isdisjoint(pieces):
            return Part.EXPERTS
        if not _ATTENTION.isdisjoint(pieces):
            return Part.ATTENTION
    return Part.REST


def parameter_groups(module: nn.Module, lr_factors: Mapping[str, float]) -> list[dict[str, Any]]:
    """The trained weights of ``module`` as torch's parameter groups, those of one rate together.

    Every group says its ``lr_factor``, and whether it holds ``tables``: look-up tables, whose rows are no matrix.
    """
    tables = {id(m.weight) for m in module.modules() if isinstance(m, nn.Embedding)}
    groups: dict[tuple[float, bool], list[nn.Parameter]] = {}
    for name, parameter in module.named_parameters():
        if parameter.requires_grad:
            kind = (lr_factors.get(part_of(name), 1.0), id(parameter) in tables)
            groups.setdefault(kind, []).append(parameter)
    return [{"params": weights, "lr_factor": f, "tables": t} for (f, t), weights in groups.items()]


def apply_lr_factors(optimizer: Optimizer) -> Optimizer:
    """Multiply the rate of every group by its factor; before a schedule is made, which starts from these rates."""
    for group in optimizer.param_groups:
        group["lr"] *= group.get("lr_factor", 1.0)
    return optimizer


def as_groups(parameters: Parameters) -> list[dict[str, Any]]:
    """Groups as they are, bare weights as one group."""
    given = list(parameters)
    if given and isinstance(given[0], dict):
        return given  # type: ignore[return-value]
    return [{"params": given}]


def required(package: str, setting: str) -> Any:
    """An optional package of an optimizer.

    Raises:
        ConfigError: it is not installed, or does not work here.
    """
    instead = "choose another optimizer: adamw, adam, muon"
    return optional.required(package, setting, extra="optimizers", instead=instead)


def check_installed(target: str) -> None:
    """Raises ConfigError where the optimizer ``target`` names needs a package that is not there."""
    if target in NEEDS:
        required(*NEEDS[target])
